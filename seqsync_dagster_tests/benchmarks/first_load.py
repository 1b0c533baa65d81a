"""A first load through Bulk API 2.0, against a bare HTTP client that sends the same CSV.

``python -m seqsync_dagster_tests.benchmarks.first_load --rows 250000 500000``

Every size runs the real engine (plan, Bulk API 2.0, settle) in a fresh process,
against an emulated org that is a process of its own and new each time. Two
peaks of that process are shown: all that is resident, as it tells itself; and
of this what is its own, looked at 50 times a second: not the files of the
programs that are mapped into it, which every process on the machine shares and
the system can drop at any time. The bare client gets parts that are prepared already,
as large as the engine's, on a new org too: it creates the jobs, uploads, polls
and reads the results to a file. Then the engine runs once more on the unchanged
model, in another fresh process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import duckdb

from seqsync_dagster_tests.benchmarks import engine_process
from seqsync_dagster_tests.benchmarks.engine_process import FIELDS, PART_ROWS, own_mb
from seqsync_dagster_tests.benchmarks.measure import table
from seqsync_dagster_tests.emulator_process import Api, EmulatorProcess

#: About 200 bytes of CSV a row. Every tenth account is a group that the nine after it belong to.
_MODEL = """
CREATE SCHEMA crm;
CREATE TABLE crm.accounts AS SELECT
  'A' || lpad(i::text, 9, '0') AS account_id,
  'Company ' || hash(i) % 1000000007 AS name,
  'https://www.company' || i || '.example' AS website,
  list_value('Banking', 'Energy', 'Retail')[1 + i % 3] AS industry,
  (i * 101 % 50021)::bigint AS employees,
  (hash(i) % 100000000 / 100)::decimal(18, 2) AS revenue,
  'City ' || i % 1009 AS city,
  'France' AS country,
  '+33' || (100000000 + i) AS phone,
  'Key account since ' || (1990 + i % 35) || ', terms ' || (30 + i % 4 * 15) AS description,
  TIMESTAMP '2024-01-01' + i % 500000 * INTERVAL '1 minute' AS last_seen,
  i % 3 = 0 AS active,
  CASE WHEN i % 10 > 0 THEN 'A' || lpad((i - i % 10)::text, 9, '0') END AS parent_id
FROM range({rows}) AS r(i)
ORDER BY hash(i)
"""


def in_a_fresh_process(folder: Path, url: str, parents: bool) -> dict[str, Any]:
    """A run of the engine in a process that has done nothing before."""
    command = [sys.executable, "-m", engine_process.__name__, str(folder), url, *(["--parents"] if parents else [])]
    own = 0.0
    with tempfile.TemporaryFile("w+") as told, tempfile.TemporaryFile("w+") as complained:
        process = subprocess.Popen(command, stdout=told, stderr=complained, text=True)
        while process.poll() is None:
            own = max(own, own_mb(process.pid))
            time.sleep(0.02)
        told.seek(0)
        complained.seek(0)
        if process.returncode:
            raise RuntimeError(complained.read())
        result: dict[str, Any] = json.load(told)
    return result | {"own_mb": own}


def bare_run(csv_parts: list[Path], url: str, folder: Path) -> float:
    """Seconds a bare client takes for the same: create, upload, close, poll, read the results."""
    api = Api(url)
    began = time.perf_counter()
    for part in csv_parts:
        job = api.post(
            "jobs/ingest",
            json={"object": "Account", "operation": "upsert", "externalIdFieldName": "External_Id__c"},
        ).json()["id"]
        with part.open("rb") as body:
            headers = {"Content-Type": "text/csv"}
            api.put(f"jobs/ingest/{job}/batches", data=body, headers=headers, timeout=600).raise_for_status()
        api.patch(f"jobs/ingest/{job}", json={"state": "UploadComplete"}).raise_for_status()
        while (state := api.get(f"jobs/ingest/{job}").json()["state"]) not in ("JobComplete", "Failed", "Aborted"):
            time.sleep(0.05)
        if state != "JobComplete":
            raise RuntimeError(f"the bare client's job is {state}")
        for results in ("successfulResults", "failedResults"):
            reply = api.get(f"jobs/ingest/{job}/{results}", stream=True, timeout=600)
            with reply, (folder / "results.csv").open("wb") as file:
                for piece in reply.iter_content(1 << 20):
                    file.write(piece)
    return time.perf_counter() - began


def prepare(folder: Path, rows: int) -> list[Path]:
    """The warehouse, and the CSV parts that the bare client sends."""
    with duckdb.connect(str(folder / "warehouse.duckdb")) as db:
        db.execute(_MODEL.format(rows=rows))
        columns = ", ".join(f'{c} AS "{f}"' for f, c in FIELDS.items() if c != "last_seen")
        moment = "strftime(last_seen, '%Y-%m-%dT%H:%M:%S.000Z') AS \"Last_Seen__c\""
        parts = []
        for start in range(0, rows, PART_ROWS):
            parts.append(folder / f"part{start}.csv")
            db.execute(
                f'COPY (SELECT account_id AS "External_Id__c", {columns}, {moment} FROM crm.accounts '
                f"ORDER BY account_id LIMIT {PART_ROWS} OFFSET {start}) TO '{parts[-1]}' (FORCE_QUOTE *)"
            )
    return parts


@contextmanager
def org(folder: Path, name: str) -> Iterator[EmulatorProcess]:
    """A new org."""
    emulator = EmulatorProcess(folder / name / "org.sqlite")
    try:
        yield emulator
    finally:
        emulator.stop()


def measure(rows: int, parents: bool) -> tuple[dict[str, Any], float, dict[str, Any], dict[str, Any]]:
    """The engine's run, the bare client's seconds, the unchanged rerun, and the calls the org saw during that."""
    with tempfile.TemporaryDirectory(prefix="seqsync_load_") as name:
        folder = Path(name)
        parts = prepare(folder, rows)
        with org(folder, "bare") as bare:
            baseline = bare_run(parts, bare.url, folder)
        with org(folder, "engine") as emulator:
            first = in_a_fresh_process(folder, emulator.url, parents)
            emulator.reset_calls()
            again = in_a_fresh_process(folder, emulator.url, parents)
            return first, baseline, again, emulator.calls()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[250_000, 500_000])
    parser.add_argument("--repeat", type=int, default=1, help="runs of each size; the medians are shown")
    parser.add_argument("--parents", action="store_true", help="nine of ten accounts have a parent: two levels")
    given = parser.parse_args(arguments)
    loads, steps = [], []
    for rows in given.rows:
        runs = [measure(rows, given.parents) for _ in range(given.repeat)]
        took = median(first["seconds"] for first, *_ in runs)
        bare = median(baseline for _, baseline, *_ in runs)
        ratio = median(first["seconds"] / baseline for first, baseline, *_ in runs)
        peak, own = (max(first[which] for first, *_ in runs) for which in ("peak_mb", "own_mb"))
        first, _, again, calls = runs[-1]
        loads.append(
            (f"{rows:,}", first["created"], took, int(rows / took), round(peak), round(own), bare, ratio,
             again["unchanged"], again["seconds"], calls["row_bearing"], calls["total"])
        )  # fmt: skip
        for step, cost in first["steps"].items():
            steps.append((f"{rows:,} {step}", float(cost["seconds"]), round(cost["peak_mb"])))
    head = ("rows", "created", "engine s", "rows/s", "peak MB", "its own", "bare s", "ratio",
            "rerun: unchanged", "s", "row calls", "calls")  # fmt: skip
    print(table(f"first load, median of {given.repeat}", head, loads))
    print(table("by step (stage_outcomes and record are within apply, and once after it)",
                ("step", "s", "peak MB by its end"), steps))  # fmt: skip


if __name__ == "__main__":
    main()
