"""What a sequence's executor costs and gains: a chain of syncs and a wide graph, in one process and in several.

    python -m seqsync_dagster_tests.benchmarks.executors [--seconds 0 5] [--repeat 2]

Each figure is the wall time of `dagster job execute`: what a person waits for.
`seconds`: how long the destination takes for each sync; 0 is a run with nothing to send.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import duckdb

from seqsync_dagster_tests.benchmarks.measure import seconds, table
from seqsync_dagster_tests.components.location import Location, location
from seqsync_dagster_tests.emulator_process import EmulatorProcess

#: More than go through Collections: the emulator takes its time over the rows of a Bulk job.
ROWS = 2_500
SALESFORCE = """
type: seqsync_dagster.SalesforceConnection
attributes:
  url: {env: TEST_SALESFORCE_URL}
  client_id: demo
  client_secret: demo-secret
"""
FIELDS = ("Name", "Phone", "BillingCity", "BillingCountry", "Description")


def sequence(shape: str, executor: str) -> str:
    """A chain of 4 syncs, or one with 4 beside each other below it: the first creates, the others update."""
    lines = ["type: seqsync_dagster.SyncSequence", "attributes:", "  name: crm", "  destination: salesforce"]
    lines += ["  dbt: null", f"  executor: {executor}", "  guards: {max_updated: null}", "  syncs:"]
    for n, field in enumerate(FIELDS[: 4 if shape == "chain" else 5]):
        above = n - 1 if shape == "chain" else 0
        lines += [
            f"    - name: s{n}",
            "      table: crm.source",
            "      key: id",
            "      object: Account",
            "      match: External_Id__c",
            f"      mode: {'update' if n else 'upsert'}",
            *([f"      after: s{above}"] if n else []),
            f"      fields: {{{field}: name}}",
        ]
    return "\n".join(lines) + "\n"


def write_source(made: Location, rows: int = ROWS) -> None:
    """The rows that all of them send."""
    with duckdb.connect(str(made.root / "warehouse.duckdb")) as db:
        db.execute(
            "CREATE SCHEMA crm; CREATE TABLE crm.source AS "
            f"SELECT 'k' || i AS id, 'name ' || i AS name FROM range({rows}) r(i)"
        )


def execute(made: Location, home: Path, url: str) -> None:
    """The job from the command line, as a schedule's run: a process that loads the location, then the steps."""
    module, folder = made.module()
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "job", "execute", "-m", module, "-j", "crm"],
        cwd=folder,
        env={**os.environ, "DAGSTER_HOME": str(home), "TEST_SALESFORCE_URL": url},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-5_000:])


def measure(shape: str, executor: str, sync_seconds: float, org: EmulatorProcess, repeat: int) -> float:
    """Median seconds of a job whose every sync keeps the destination busy for so long."""
    took = []
    for _ in range(repeat):
        org.reset()
        org.settings(bulk_rows_per_s=int(ROWS / sync_seconds) if sync_seconds else None)
        with tempfile.TemporaryDirectory() as home, location(salesforce=SALESFORCE, crm=sequence(shape, executor)) as m:
            write_source(m)
            if not sync_seconds:
                execute(m, Path(home), org.url)
            took.append(seconds(lambda made=m, at=home: execute(made, Path(at), org.url)))  # type: ignore[misc]
    return statistics.median(took)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[0, 5, 15])
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--shapes", nargs="+", default=["chain", "wide"])
    asked = parser.parse_args(arguments)
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        org = EmulatorProcess(Path(folder) / "org.sqlite")
        try:
            for shape in asked.shapes:
                for wait in asked.seconds:
                    alone, many = (measure(shape, e, wait, org, asked.repeat) for e in ("in_process", "multiprocess"))
                    rows.append([shape, wait, alone, many, many / alone])
                    print(*rows[-1], flush=True)
        finally:
            org.kill()
    print(table("Wall seconds of a job", ["shape", "s per sync", "in_process", "multiprocess", "ratio"], rows))


if __name__ == "__main__":
    main()
