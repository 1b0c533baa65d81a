"""A run killed with SIGKILL at any durable step and run again leaves each record in the org exactly once.

``SEQSYNC_KILL_POINTS=all`` kills at every point there is, which takes an hour or so.
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

ALL = os.environ.get("SEQSYNC_KILL_POINTS") == "all"
#: Each slice of each combination kills once in a first load, once in a run of changes, twice in the next.
SLICES = 3
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


def history(company: Company, points: tuple[int, int, int, int]) -> int:
    """A first load and two periods, with kills; how many there were."""
    kills = 0
    company.found()
    kills += killed_at(company, points[0])
    run_to_the_end(company)
    company.change(SEED + 1)
    kills += killed_at(company, points[1])
    run_to_the_end(company)
    company.change(SEED + 2)
    kills += killed_at(company, points[2])
    kills += killed_at(company, points[3])
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
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    victims: Victims,
) -> None:
    # With xdist the parent folder is common to all workers, and counting costs three whole runs.
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    counting = tmp_path / "counting"
    counting.mkdir()
    totals = points_of(engine, api, counting, postgres_server, victims, shared)
    chance = random.Random(f"{engine} {api} {part}")
    places = [(part + chance.random()) / SLICES]
    if ALL:
        most = max(totals)
        places = [(n + 0.5) / most for n in range(part, most, SLICES)]
    for number, place in enumerate(places):
        first, second, third = (1 + int(place * total) for total in totals)
        # The second of two kills in a row strikes while the first one is being mended, or soon after.
        points = (first, second, third, chance.randrange(1, 1 + max(3, third // 2)))
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
        assert kills >= 3, f"{points} of {totals}"
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


@pytest.mark.xfail(
    strict=True, reason="BulkSender.resume sends locked rows again and believes created=false of the second try"
)
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
