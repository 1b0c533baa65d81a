"""The demo: ``python -m seqsync_dagster.demo run | ui | change | reset``.

Everything is real but the org: dbt builds the models, Dagster runs the job, and
the emulated Salesforce is a server of its own. All of it lives in ``.demo/``.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagster import DagsterInstance

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".demo"
SYNCS = ("accounts", "workspaces", "contacts", "permissions")
COLUMNS = ("model", "created", "updated", "removed", "unchanged", "rejected", "waiting", "held", "invalid")
SALESFORCE_PORT, UI_PORT = 8765, 3000

_DAGSTER_YAML = """\
telemetry: {enabled: false}
nux: {enabled: false}
# Runs start at once, without a daemon's queue, so that `dagster job launch` works by itself.
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
"""


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands; returns the process's exit code."""
    commands = {"run": run, "ui": ui, "change": change, "reset": reset}
    if len(arguments) != 1 or arguments[0] not in commands:
        print(f"usage: python -m seqsync_dagster.demo {' | '.join(commands)}", file=sys.stderr)
        return 2
    _prepare()
    return commands[arguments[0]]()


def _prepare() -> None:
    (HOME / "dagster_home").mkdir(parents=True, exist_ok=True)
    (HOME / "dagster_home" / "dagster.yaml").write_text(_DAGSTER_YAML)
    database = HOME / "warehouse.duckdb"
    os.environ.update(
        DAGSTER_HOME=str(HOME / "dagster_home"),
        SEQSYNC_DUCKDB_PATH=str(database),
        SEQSYNC_WAREHOUSE_URL=f"duckdb:///{database}",
        SEQSYNC_SOURCES=str(HOME / "sources"),
        SALESFORCE_CLIENT_ID="demo",
        SALESFORCE_CLIENT_SECRET="demo-secret",  # the emulator's own, good for nothing else
        PYTHONUNBUFFERED="1",
        PYTHONWARNINGS="ignore",
    )
    os.chdir(ROOT)
    if not (HOME / "sources").exists():
        _sources("--reset", quiet=True)


def _sources(*arguments: str, quiet: bool = False) -> int:
    command = [sys.executable, str(ROOT / "dbt_project" / "change_sources.py"), *arguments]
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL if quiet else None).returncode


def change() -> int:
    """Change some source rows."""
    code = _sources()
    print("\nNow run `make demo` again: only the changed rows go.")
    return code


def reset() -> int:
    """Forget everything the demo made."""
    shutil.rmtree(HOME, ignore_errors=True)
    print(f"removed {HOME}")
    return 0


def run() -> int:
    """Build the models, run the job, show what became of the rows."""
    with _salesforce() as url:
        os.environ["SALESFORCE_URL"] = url
        print(f"Salesforce (emulated): {url}")
        print("dagster job execute -m seqsync_dagster.definitions -j crm\n")
        began = time.monotonic()
        code = _execute()
        run_tags, run_id, status = _latest_run()
        outcome = run_tags.get("seqsync/outcome", "-")
        print(f"\nRun {run_id[:8]}: {status}, outcome {outcome}, {time.monotonic() - began:.0f} s")
        sent = _show(run_id)
        if code == 0 and not sent:
            print("\nNothing to send: every row is as the destination acknowledged it. No API call carried a row.")
        elif sent:
            print(f"\n{sent} rows were sent.")
        print(
            "\nWhat next:\n"
            f"  make ui      Dagster at http://127.0.0.1:{UI_PORT} and the records at http://127.0.0.1:{SALESFORCE_PORT}\n"
            "  make change  change some source rows; then make demo again sends only those\n"
            "  make reset   start over"
        )
    return code


_TOLD = re.compile(r" - (?:crm - )?[0-9a-f-]{36} - (?:\d+ - )?(?:crm__(?:\w+) - )?(?P<text>.*)$")

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def _execute() -> int:
    """Run the job as a person would; its whole log goes to a file, what the syncs say goes to the screen."""
    log = HOME / "crm.log"
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "seqsync_dagster.definitions", "-j", "crm"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            told = _TOLD.search(line.rstrip())
            plain = _COLOURS.sub("", line).strip()
            if told and " - INFO - " in line and "crm__" in line:
                print(f"  {told['text']}")
            elif "Completed successfully" in plain or "Completed with" in plain:
                print(f"  dbt build: {plain[plain.index('Completed') :].rstrip(':')}")
        code = process.wait()
    if code:
        print(f"\nThe job ended with exit code {code}. Its log is {log}. The last lines:\n")
        print("".join(log.read_text().splitlines(keepends=True)[-40:]))
    return code


@contextmanager
def _salesforce() -> Iterator[str]:
    """The emulated org, on the same port every time if it is free, so that links stay good."""
    store = HOME / "salesforce" / "org.sqlite"
    store.parent.mkdir(parents=True, exist_ok=True)
    port = SALESFORCE_PORT if _free(SALESFORCE_PORT) else 0
    command = [sys.executable, "-m", "seqsync_dagster.emulator", "--port", str(port), "--store", str(store)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise SystemExit("the emulated Salesforce did not start; its message is above")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _instance() -> DagsterInstance:
    from dagster import DagsterInstance

    return DagsterInstance.get()


def _latest_run() -> tuple[dict[str, str], str, str]:
    with _instance() as instance:
        [record] = instance.get_run_records(limit=1)
        run = record.dagster_run
        return dict(run.tags), run.run_id, run.status.value


def _show(run_id: str) -> int:
    """Print the counts and the problems that the run's materialisations carry; returns the rows sent."""
    rows: list[tuple[str, dict[str, Any]]] = []
    with _instance() as instance:
        for name in (*SYNCS, "finish"):
            metadata = _metadata(instance, name, run_id)
            if metadata is not None:
                rows.append((name, metadata))
    counts = {name: {c: _number(m, _KEYS.get(c, c)) for c in COLUMNS} for name, m in rows}
    finish = dict(rows).get("finish")
    if finish is not None:
        for name in SYNCS:
            if name in counts:
                counts[name]["removed"] = _number(finish, f"removed/{name}")
        del counts["finish"]
    width = max((len(n) for n in counts), default=10)
    print(f"\n  {'':{width}}" + "".join(f"{c:>11}" for c in COLUMNS))
    for name, row in counts.items():
        print(f"  {name:{width}}" + "".join(f"{row[c]:>11}" for c in COLUMNS))
    for name, metadata in rows:
        _show_problems(name, metadata)
    return sum(r["created"] + r["updated"] + r["removed"] + r["rejected"] for r in counts.values())


_KEYS = {"model": "model_rows"}


def _metadata(instance: DagsterInstance, name: str, run_id: str) -> dict[str, Any] | None:
    from dagster import AssetKey

    found = instance.fetch_materializations(AssetKey(["crm", name]), limit=1).records
    if not found or found[0].run_id != run_id or found[0].asset_materialization is None:
        return None
    return dict(found[0].asset_materialization.metadata)


def _number(metadata: dict[str, Any], name: str) -> int:
    value = metadata.get(f"seqsync/{name}")
    return int(value.value) if value is not None else 0


def _show_problems(name: str, metadata: dict[str, Any]) -> None:
    table = metadata.get("seqsync/problems")
    if table is None:
        return
    records = [dict(r.data) for r in table.value.records] if hasattr(table.value, "records") else _records(table)
    for status, title, most in (("rejected", "rejected", 12), ("held", "held", 3), ("invalid", "invalid", 3)):
        listed = [r for r in records if r["status"] == status]
        if listed:
            print(f"\n  {name}: {title}")
        for r in listed[:most]:
            print(f"    {r['key']:<22.22} {r['code']:<28.28} {' '.join(str(r['message']).split())[:100]}")
        if len(listed) > most:
            print(f"    ... all of them in the asset's metadata: http://127.0.0.1:{UI_PORT}/assets/crm/{name}")


def _records(table: Any) -> list[dict[str, Any]]:
    return [dict(r.data) for r in table.records]


def ui() -> int:
    """Dagster's web UI with its daemon, and the emulated Salesforce, until Ctrl-C."""
    with _salesforce() as url:
        os.environ["SALESFORCE_URL"] = url
        port = UI_PORT if _free(UI_PORT) else UI_PORT + 1
        print(f"Salesforce (emulated): {url}\nDagster:               http://127.0.0.1:{port}  (ready in half a minute)")
        print("Ctrl-C ends both.\n")
        command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
        # Started in the background, a shell makes us ignore Ctrl-C, and so would our child.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen([*command, "--log-level", "error"])
        # SIGTERM ends it like Ctrl-C does, so that no server outlives the command.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
            return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
