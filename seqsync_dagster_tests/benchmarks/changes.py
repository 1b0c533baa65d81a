"""Changed rows through sObject Collections, against a bare HTTP client that sends the very same requests.

``python -m seqsync_dagster_tests.benchmarks.changes --rows 2000 --pairs 7``

The model is loaded once. In every pair all its rows change, the real engine runs (plan, Collections, settle), and a
bare client then sends what the engine sent, login and describes included, over one connection to the same org. Both
run in this process, which has done the same before; on a busy machine the run's CPU says more than its seconds.
A call that carries rows takes the org `--org-s` seconds besides what the emulator needs for it: real orgs take half a
second and more for 200 rows, and with 0 the ratio says what the engine itself costs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import requests

from seqsync_dagster.destinations.salesforce.transport import OrgSession
from seqsync_dagster.engine import apply, run
from seqsync_dagster.journal import Journal
from seqsync_dagster_tests.benchmarks.first_load import org
from seqsync_dagster_tests.benchmarks.measure import seconds, table
from seqsync_dagster_tests.engine.world import ACCOUNTS, TABLES, World, crm

#: Within `apply`, which waits for the org in `the org`.
_WITHIN = ("the org", "record", "in_flight", "finish_send", "stage_outcomes")


@contextmanager
def observed() -> Iterator[tuple[dict[str, float], list[dict[str, Any]]]]:
    """Seconds by step, and the requests made, while this is open."""
    steps: dict[str, float] = {}
    sent: list[dict[str, Any]] = []
    undo: list[tuple[Any, str, Any]] = []

    def clock(owner: Any, name: str, label: str) -> None:
        original = getattr(owner, name)

        def timed(*given: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return original(*given, **more)
            finally:
                steps[label] = steps.get(label, 0.0) + time.perf_counter() - began

        undo.append((owner, name, original))
        setattr(owner, name, timed)

    for name in ("plan", "apply", "stage_outcomes", "settle_completed", "check_mapping", "checked_account"):
        clock(run, name, name)
    clock(apply, "stage_outcomes", "stage_outcomes")
    for name in ("in_flight", "record", "finish_send"):
        clock(Journal, name, name)
    send = requests.Session.send

    def kept(session: requests.Session, request: requests.PreparedRequest, **more: Any) -> requests.Response:
        if isinstance(session, OrgSession):
            sent.append({"method": request.method, "url": request.url, "data": request.body,
                         "headers": {"Content-Type": request.headers.get("Content-Type", "")}})  # fmt: skip
        began = time.perf_counter()
        reply = send(session, request, **more)
        steps["the org"] = steps.get("the org", 0.0) + time.perf_counter() - began
        return reply

    undo.append((requests.Session, "send", send))
    requests.Session.send = kept  # type: ignore[method-assign,assignment]
    try:
        yield steps, sent
    finally:
        for owner, name, original in undo:
            setattr(owner, name, original)


def bare(sent: list[dict[str, Any]]) -> None:
    """The same requests, one after the other, and every reply read."""
    token = ""
    with requests.Session() as session:
        for call in sent:
            headers = call["headers"] | ({"Authorization": f"Bearer {token}"} if token else {})
            auth = None if token else ("demo", "demo-secret")
            reply = session.request(**{**call, "headers": headers}, auth=auth, timeout=600)
            reply.raise_for_status()
            if not token:
                token = reply.json()["access_token"]
            else:
                reply.json()


def measure(rows: int, pairs: int, org_s: float) -> tuple[list[float], list[float], list[dict[str, float]], int]:
    """Seconds of the engine's runs, of the bare client's, the engine's steps, and the calls of one run."""
    with tempfile.TemporaryDirectory(prefix="seqsync_changes_") as name, org(Path(name), "org") as emulator:
        fields = {"Name": "name", "Website": "website"}
        world = World(
            Path(name),
            f"duckdb:///{name}/warehouse.duckdb",
            emulator,
            crm({**ACCOUNTS, "fields": fields, "guards": {"max_updated": None}}),
        )
        world.settings.update(collections_up_to=rows)
        world.sql(TABLES, "INSERT INTO crm.accounts SELECT 'A' || lpad(i::text, 9, '0'), 'Company ' || i, "
                          f"'https://www.company' || i || '.example', NULL FROM range({rows}) AS r(i)")  # fmt: skip
        world.run("accounts")
        emulator.settings(rows_call_s=org_s)
        engine, alone, steps, calls = [], [], [], 0
        for pair in range(pairs + 1):
            world.sql(f"UPDATE crm.accounts SET name = 'Company {pair} ' || account_id")
            cpu = time.process_time()
            with observed() as (spent, sent):
                report = world.run("accounts")
            spent["CPU of the whole run"] = time.process_time() - cpu
            assert report.counts.updated == rows
            took = seconds(lambda sent=sent: bare(sent))  # type: ignore[misc]
            if pair:
                # The first pair warms up imports and compiled statements.
                engine.append(report.seconds)
                alone.append(took)
                steps.append(spent)
                calls = len(sent)
        return engine, alone, steps, calls


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2000])
    parser.add_argument("--pairs", type=int, default=7, help="pairs of runs of each size; the medians are shown")
    parser.add_argument("--org-s", type=float, nargs="+", default=[0.0, 0.5], help="seconds of the org per 200 rows")
    given = parser.parse_args(arguments)
    results, parts = [], []
    for rows in given.rows:
        for org_s in given.org_s:
            engine, alone, steps, calls = measure(rows, given.pairs, org_s)
            ratio = median(e / b for e, b in zip(engine, alone, strict=True))
            results.append((f"{rows:,}", org_s, calls, median(engine), median(alone), ratio))
            for label in steps[-1]:
                inside = "  " if label in _WITHIN else ""
                parts.append((f"{rows:,} at {org_s:g} s: {inside}{label}", median(s[label] for s in steps)))
    head = ("rows", "org s", "calls", "engine s", "bare s", "ratio")
    print(table(f"changed rows by Collections, medians of {given.pairs} pairs", head, results))
    print(table("by step (indented: within other steps)", ("step", "s"), parts))


if __name__ == "__main__":
    main()
