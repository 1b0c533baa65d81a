"""Runs of a sequence in processes of their own, to be killed at a counted point or stopped there.

Importing the engine costs seconds and a kill costs a process, so one template process imports everything,
opens nothing, starts no thread, and forks a child per run. Nothing of this is known to the code under test:
the points are commits that wrote something (SQLAlchemy's default dialect, thus ledger and journal alike) and
HTTP calls (requests' adapter), each with a point before it and one after it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]

#: Statements that leave nothing to be durable.
_READS = ("SELECT", "BEGIN", "SET", "PRAGMA", "DESCRIBE", "SHOW", "ATTACH", "DETACH", "USE", "WITH", "ROLLBACK")
_READS += ("SAVEPOINT", "RELEASE", "CREATE SCHEMA IF NOT EXISTS")


class Victims:
    """The test's end: children of the template process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Victims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=20)

    def _ask(self, **command: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the template process ended"
        return json.loads(line)

    def start(self, run: dict[str, Any]) -> int:
        """Start a run (see `Run`); its process id."""
        return int(self._ask(do="start", run=run))

    def wait(self, pid: int) -> int:
        """The exit code of a run; minus the signal that ended it."""
        return int(self._ask(do="wait", pid=pid))

    def run(self, run: dict[str, Any]) -> dict[str, Any]:
        """A run to its end: what it left in its result file, and ``code``."""
        result = Path(run["result"])
        result.unlink(missing_ok=True)
        code = self.wait(self.start(run))
        left: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
        return {"code": code, **left}


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def stopped(pid: int) -> bool:
    """Whether a process has been stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


class _Points:
    """Counts the points, and does what was asked at one of them."""

    def __init__(self, run: dict[str, Any]) -> None:
        self.seen: list[str] = []
        self._at, self._named = run.get("at"), run.get("at_name")
        self._signal = signal.SIGSTOP if run.get("stop") else signal.SIGKILL
        self._written: dict[int, str] = {}

    def __call__(self, name: str) -> None:
        self.seen.append(name)
        named = self._named is not None and self._named in name and sum(self._named in s for s in self.seen) == 1
        if named or len(self.seen) == self._at:
            os.kill(os.getpid(), self._signal)

    def install(self) -> None:
        import requests
        import sqlalchemy as sa
        from sqlalchemy.engine.default import DefaultDialect

        @sa.event.listens_for(sa.Engine, "before_cursor_execute")
        def wrote(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if not statement.lstrip().upper().startswith(_READS):
                words = " ".join(statement.split()[:4])
                self._written.setdefault(id(connection.connection.dbapi_connection), words)

        commit, send = DefaultDialect.do_commit, requests.adapters.HTTPAdapter.send

        def do_commit(dialect: Any, connection: Any) -> None:
            dbapi = getattr(connection, "dbapi_connection", connection)
            words = self._written.pop(id(dbapi), None)
            if words is None:
                commit(dialect, connection)
                return
            self(f"before commit {dialect.name} {words}")
            commit(dialect, connection)
            self(f"after commit {dialect.name} {words}")

        def adapter_send(adapter: Any, request: Any, *args: Any, **options: Any) -> Any:
            name = f"{request.method} {request.path_url.partition('?')[0]}"
            self(f"before {name}")
            reply = send(adapter, request, *args, **options)
            self(f"after {name}")
            return reply

        DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]
        requests.adapters.HTTPAdapter.send = adapter_send  # type: ignore[method-assign]


def _run(run: dict[str, Any]) -> dict[str, Any]:
    """Every sync in order and finish, in a world that stands already."""
    from functools import partial

    from seqsync_dagster.destinations.salesforce import bulk_api, collections_api
    from seqsync_dagster.engine import apply
    from seqsync_dagster.errors import SeqsyncError
    from seqsync_dagster.journal import Journal
    from seqsync_dagster.sequence.graph import order
    from seqsync_dagster.sequence.spec import SequenceSpec
    from seqsync_dagster.warehouse import duckdb as duckdb_warehouse
    from seqsync_dagster_tests.engine import world as worlds

    # A few dozen rows then make several pages, calls and jobs.
    apply.PAGE = run.get("page", 16)
    collections_api.ROWS_PER_CALL = bulk_api.ROWS_PER_CALL = run.get("rows_per_call", 10)
    duckdb_warehouse.LOCK_WAIT_S = run.get("lock_wait_s", 20.0)
    worlds.Journal = partial(Journal, beat_s=run.get("beat_s", 10), ttl_s=run.get("ttl_s", 60))  # type: ignore[misc]
    org: Any = SimpleNamespace(url=run["org_url"])
    world = worlds.World(Path(run["folder"]), run["warehouse_url"], org, SequenceSpec.model_validate(run["sequence"]))
    world.settings.update(run.get("settings", {}))
    # Run ids name runs in the journal, and every process counts from one.
    world.runs = os.getpid() * 1000
    points = _Points(run)
    points.install()
    counts: dict[str, Any] = {}
    try:
        for name in run.get("syncs") or order(world.sequence):
            counts[name] = vars(world.run(name).counts)
        if not run.get("syncs"):
            finished = world.finish()
            counts["finish"] = {"removed": sum(finished.removed.values()), "rejected": sum(finished.rejected.values())}
    except SeqsyncError as error:
        return {"error": type(error).__name__, "message": str(error), "points": points.seen, "counts": counts}
    return {"points": points.seen, "counts": counts, "lines": world.lines}


def _main() -> None:
    import gc

    import duckdb_sqlalchemy  # noqa: F401
    import pandas as pd  # noqa: F401
    import psycopg  # noqa: F401
    import requests  # noqa: F401
    import simple_salesforce  # noqa: F401

    import seqsync_dagster_tests.engine.world  # noqa: F401
    from seqsync_dagster.warehouse import duckdb, postgres  # noqa: F401

    # What a child does not touch it need not copy.
    gc.freeze()
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "wait":
            _, status = os.waitpid(command["pid"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        code = 1
        try:
            run = command["run"]
            result = json.dumps(_run(run), default=str)
            Path(run["result"]).write_text(result)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)


if __name__ == "__main__":
    _main()
