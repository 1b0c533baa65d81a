"""What declaring many syncs costs: a code location of sequences in YAML against one of bare assets in Python.

    python -m seqsync_dagster_tests.benchmarks.load [--syncs 1000] [--sequences 100] [--repeat 3]

Both locations are folders of definitions, loaded as a code server does in processes of their own: definitions,
repository, every job, and the snapshot that is sent to the web server. The bare assets have as many checks,
dependencies and jobs as the syncs.
Seconds are of processor time, which says the same on a busy machine.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from seqsync_dagster_tests.benchmarks.measure import table

WAREHOUSE = "type: seqsync_dagster.Warehouse\nattributes:\n  url: duckdb:///warehouse.duckdb\n"
SALESFORCE = (
    "type: seqsync_dagster.SalesforceConnection\n"
    "attributes:\n  url: https://acme.my.salesforce.com\n  client_id: id\n  client_secret: {env: SECRET}\n"
)
LOCATION = (
    "from pathlib import Path\nimport dagster as dg\n"
    "@dg.definitions\ndef defs():\n"
    "    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
)
BARE = (
    "import dagster as dg\nfrom seqsync_dagster_tests.benchmarks import load\n"
    "@dg.definitions\ndef defs():\n    return load.bare({syncs}, {sequences})\n"
)
#: Checks of a sync's asset.
CHECKS = ("rejected", "held", "invalid", "complete", "guards")
WAYS = ("bare", "one file", "files", "defaults")


def write_location(root: Path, syncs: int, sequences: int, way: str) -> None:
    """A project of sequences: each in one file, with a file per sync, or with defaults for what they share."""
    package = root / "many"
    if way == "bare":
        (package / "defs").mkdir(parents=True)
        (package / "defs" / "bare.py").write_text(BARE.format(syncs=syncs, sequences=sequences))
    for folder, text in (("warehouse", WAREHOUSE), ("salesforce", SALESFORCE)):
        (package / "defs" / folder).mkdir(parents=True)
        (package / "defs" / folder / "defs.yaml").write_text(text)
    (package / "__init__.py").touch()
    (package / "definitions.py").write_text(LOCATION)
    (root / "pyproject.toml").write_text(
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "many"\n'
    )
    for s in range(sequences if way != "bare" else 0):
        folder = package / "defs" / f"seq{s}"
        folder.mkdir()
        head = [
            "type: seqsync_dagster.SyncSequence",
            "attributes:",
            f"  name: seq{s}",
            "  destination: salesforce",
            "  dbt: null",
        ]
        if way == "defaults":
            head += ["  defaults: {key: id, match: External_Id__c}"]
        texts = [_sync(s, n, shared=way == "defaults") for n in range(syncs // sequences)]
        if way == "files":
            (folder / "syncs").mkdir()
            for n, lines in enumerate(texts):
                (folder / "syncs" / f"s{n}.yaml").write_text("\n".join(lines) + "\n")
            head += ["  syncs: {from: syncs/*.yaml}"]
        else:
            head += ["  syncs:"]
            for lines in texts:
                head += [f"    - {lines[0]}", *(f"      {line}" for line in lines[1:])]
        (folder / "defs.yaml").write_text("\n".join(head) + "\n")


def _sync(sequence: int, number: int, *, shared: bool) -> list[str]:
    return [
        f"name: s{number}",
        f"table: crm.t{number}",
        *([] if shared else ["key: id", "match: External_Id__c"]),
        f"object: Object{number}__c",
        "fields:",
        *(f"  Field{f}__c: column_{f}" for f in range(8)),
        *([f"  Parent__c: {{parent: s{number - 1}, from: parent_id}}"] if number else []),
    ]


def bare(syncs: int, sequences: int) -> Any:
    """As many assets that do nothing, in as many jobs."""
    import dagster as dg

    def asset(key: dg.AssetKey, deps: list[dg.AssetKey], checks: Sequence[str]) -> dg.AssetsDefinition:
        spec = dg.AssetSpec(key, deps=deps, group_name=key.path[0])

        @dg.multi_asset(
            name="__".join(key.path),
            specs=[spec],
            check_specs=[dg.AssetCheckSpec(name, asset=key) for name in checks],
            can_subset=True,
        )
        def nothing(context) -> Any:  # type: ignore[no-untyped-def]
            yield dg.MaterializeResult(asset_key=key)

        return nothing

    assets, jobs = [], []
    for s in range(sequences):
        keys = [dg.AssetKey([f"seq{s}", f"s{n}"]) for n in range(syncs // sequences)]
        assets += [asset(key, keys[n - 1 : n] if n else [], CHECKS) for n, key in enumerate(keys)]
        finish = dg.AssetKey([f"seq{s}", "finish"])
        assets.append(asset(finish, keys, ["removals"]))
        selected = dg.AssetSelection.assets(*keys, finish)
        jobs.append(dg.define_asset_job(f"seq{s}", selected, executor_def=dg.in_process_executor))
    return dg.Definitions(assets=assets, jobs=jobs)


def load(sequences: int, root: Path, profile: bool = False) -> float:
    """Load one location in this process; its seconds of processor time, imports of dagster not counted."""
    import dagster as dg
    from dagster._core.remote_representation.external_data import RepositorySnap

    sys.path.insert(0, str(root))
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    began = time.process_time()
    from many.definitions import defs as made  # type: ignore[import-not-found]

    defs = made() if callable(made) else made
    repository = defs.get_repository_def()
    assert isinstance(repository, dg.RepositoryDefinition)
    assert len(repository.get_all_jobs()) >= sequences
    RepositorySnap.from_def(repository)
    took = time.process_time() - began
    if profile:
        profiler.disable()
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("cumulative").print_stats(70)
    return took


def measure(ways: Sequence[str], syncs: int, sequences: int, repeat: int) -> dict[str, float]:
    """Median seconds of each way."""
    took: dict[str, list[float]] = {way: [] for way in ways}
    with TemporaryDirectory() as folder:
        for way in ways:
            write_location(Path(folder) / way, syncs, sequences, way)
        # In turns: a machine that is busier for a minute is so for all of them.
        for way in [*ways] * repeat:
            command = [sys.executable, "-m", "seqsync_dagster_tests.benchmarks.load", "--load", str(Path(folder) / way)]
            command += ["--sequences", str(sequences)]
            done = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            took[way].append(json.loads(done.splitlines()[-1]))
    return {way: statistics.median(seconds) for way, seconds in took.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--syncs", type=int, default=1000)
    parser.add_argument("--sequences", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--load", type=Path, help="only this location, here")
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args(arguments)
    if asked.load:
        print(json.dumps(load(asked.sequences, asked.load, asked.profile)))
        return
    took = measure(asked.ways, asked.syncs, asked.sequences, asked.repeat)
    title = f"{asked.syncs} syncs in {asked.sequences} sequences: seconds of processor time to load"
    print(table(title, ["", "s", "ratio"], [[way, s, s / took[asked.ways[0]]] for way, s in took.items()]))


if __name__ == "__main__":
    main()
