"""A run killed with SIGKILL at any durable step and run again leaves each record in the org exactly once.

By default that is tried 24 times at seeded points; ``SEQSYNC_KILL_POINTS=240`` tries ten times as many,
``SEQSYNC_KILL_POINTS=all`` every point there is, which takes an hour or so.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from seqsync_dagster_tests.emulator_process import EmulatorProcess
from seqsync_dagster_tests.faults.company import APIS, Company, new_company
from seqsync_dagster_tests.faults.victim import Victims
from seqsync_dagster_tests.postgres_server import PostgresServer

KILL_POINTS = os.environ.get("SEQSYNC_KILL_POINTS", "24")
ALL = KILL_POINTS == "all"
#: Each slice of each of the 4 combinations kills twice in a first load and in each of two runs of changes.
SLICES = 3 if ALL else max(1, int(KILL_POINTS) // 24)
SEED = 20


def points_of(engine: str, api: str, folder: Path, server: PostgresServer, victims: Victims, shared: Path) -> list[int]:
    """How many points the three runs of an undisturbed history have."""
    known = shared / f"points_{engine}_{api}.json"
    if known.exists():
        counted: list[int] = json.loads(known.read_text())
        return counted
    counted = []
    org = EmulatorProcess(folder / "org" / "org.sqlite")
    try:
        with new_company(engine, api, folder, org, server, victims) as company:
            for seed in (0, SEED + 1, SEED + 2):
                company.found() if not seed else company.change(seed)
                done = company.run()
                assert "error" not in done, done
                counted.append(len(done["points"]))
    finally:
        org.stop()
    part = known.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(counted))
    part.replace(known)
    return counted


def killed_at(company: Company, point: int) -> bool:
    """Kill a run there; whether it came so far."""
    done = company.run(at=point)
    assert done["code"] in (-9, 0), done
    assert "error" not in done, done["message"]
    return bool(done["code"] == -9)


def run_to_the_end(company: Company) -> None:
    done = company.run()
    assert done["code"] == 0, done
    assert "error" not in done, done["message"]
    company.expect()
    company.judge()


def history(company: Company, points: list[tuple[int, int]]) -> int:
    """A first load and two periods, each with two kills in a row; how many there were."""
    kills = 0
    for period, (first, second) in enumerate(points):
        company.change(SEED + period) if period else company.found()
        kills += killed_at(company, first)
        kills += killed_at(company, second)
        run_to_the_end(company)
    return kills


@pytest.mark.timeout(0 if ALL else 300)
@pytest.mark.parametrize("part", range(SLICES))
@pytest.mark.parametrize("api", list(APIS))
@pytest.mark.parametrize("engine", ["duckdb", "postgresql"])
def test_a_killed_run_is_brought_to_its_end_by_the_next(
    engine: str,
    api: str,
    part: int,
    tmp_path: Path,
    common_folder: Path,
    postgres_server: PostgresServer,
    victims: Victims,
) -> None:
    counting = tmp_path / "counting"
    counting.mkdir()
    totals = points_of(engine, api, counting, postgres_server, victims, common_folder)
    chance = random.Random(f"{engine} {api} {part}")
    places = [(part + chance.random()) / SLICES]
    if ALL:
        most = max(totals)
        places = [(n + 0.5) / most for n in range(part, most, SLICES)]
    for number, place in enumerate(places):
        points = []
        for period, total in enumerate(totals):
            # A third of the way apart, so that even one history sees the beginning, the middle and the end of a run.
            first = 1 + int((place + period / len(totals)) % 1 * total)
            # The second of two kills in a row strikes while the first one is being mended, or soon after.
            points.append((first, 1 + chance.randrange(max(3, (total - first) // 2))))
        folder = tmp_path / f"history{number}"
        folder.mkdir()
        org = EmulatorProcess(folder / "org" / "org.sqlite")
        try:
            with new_company(engine, api, folder, org, postgres_server, victims) as company:
                kills = history(company, points)
        except BaseException as error:
            error.add_note(f"killed at {points} of {totals}, {engine}, {api}")
            raise
        finally:
            org.stop()
        # A run of Bulk jobs has as many polls as it takes, so its last points may not be there again.
        assert kills >= 5, f"{points} of {totals}"
        shutil.rmtree(folder)


@pytest.mark.parametrize("engine", ["duckdb", "postgresql"])
@pytest.mark.parametrize(
    ("api", "at_name", "origin"),
    [
        ("collections", "after PATCH /services/data/v64.0/composite/sobjects/Workspace__c", "unknown"),
        ("collections", "before PATCH /services/data/v64.0/composite/sobjects/Workspace__c", "created"),
        ("bulk", "after PUT", "created"),
        ("bulk", "after POST /services/data/v64.0/jobs/ingest", "created"),
    ],
)
def test_a_lost_reply_makes_a_record_of_unknown_origin_never_an_adopted_one(
    engine: str,
    api: str,
    at_name: str,
    origin: str,
    tmp_path: Path,
    emulator: EmulatorProcess,
    postgres_server: PostgresServer,
    victims: Victims,
) -> None:
    with new_company(engine, api, tmp_path, emulator, postgres_server, victims) as company:
        company.found()
        assert company.run(syncs=["accounts"])["code"] == 0
        assert company.run(syncs=["workspaces"], at_name=at_name)["code"] == -9
        run_to_the_end(company)
        origins = [r["origin"] for r in company.world.ledger("workspaces").values() if r["dest_id"]]
        # One of the ten rows of the call is a refused one.
        assert len(origins) - origins.count("created") == (9 if origin == "unknown" else 0)


def test_rows_that_met_a_lock_in_a_killed_bulk_job_are_not_taken_for_adopted(
    tmp_path: Path, emulator: EmulatorProcess, postgres_server: PostgresServer, victims: Victims
) -> None:
    with new_company("duckdb", "bulk", tmp_path, emulator, postgres_server, victims) as company:
        company.found()
        emulator.fault("lock", "/jobs/ingest Account", times=4)
        again = "after PATCH /services/data/v64.0/composite/sobjects/Account"
        done: dict[str, Any] = company.run(at_name=again)
        assert done["code"] == -9, done
        run_to_the_end(company)
