"""An adoption killed with SIGKILL again and again, each time a little later, writes no record that needs no write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seqsync_dagster_tests.emulator_process import EmulatorProcess
from seqsync_dagster_tests.engine.world import ACCOUNTS, TABLES, World, crm
from seqsync_dagster_tests.faults.victim import Victims
from seqsync_dagster_tests.postgres_server import PostgresServer

#: Points between one kill and the next.
STEP = 13


@pytest.fixture(params=["duckdb", "postgresql"])
def world(
    request: pytest.FixtureRequest, tmp_path: Path, emulator: EmulatorProcess, postgres_server: PostgresServer
) -> Iterator[World]:
    sequence = crm({**ACCOUNTS, "first_run": "adopt"})
    if request.param == "duckdb":
        yield World(tmp_path, f"duckdb:///{tmp_path}/warehouse.duckdb", emulator, sequence)
        return
    with postgres_server.fresh_database() as url:
        yield World(tmp_path, url, emulator, sequence)


def test_an_adoption_killed_at_many_points_ends_with_each_record_once(world: World, victims: Victims) -> None:
    org, bulk = world.org, not world.on_duckdb
    world.sql(TABLES)
    same = [{"Name": f"same {i}", "External_Id__c": f"S{i:02}"} for i in range(25)]
    differing = [{"Name": f"other {i}", "External_Id__c": f"D{i:02}"} for i in range(25)]
    there = set(org.seed("Account", [*same, *differing]))
    rows = [(f"{k}{i:02}", f"same {i}", None, None) for k in "SD" for i in range(25)]
    world.insert("crm.accounts", [*rows, *[(f"N{i:02}", "new", None, f"D{i:02}") for i in range(25)]])
    job: dict[str, Any] = {
        "folder": str(world.folder),
        "warehouse_url": world.warehouse_url,
        "org_url": org.url,
        "sequence": world.sequence.model_dump(by_alias=True, mode="json"),
        "settings": {**world.settings, "collections_up_to": 1 if bulk else 2000, "bulk_wait_s": 20},
        "result": str(world.folder / "result.json"),
        "syncs": ["accounts"],
    }
    kills = 0
    while (done := victims.run({**job, "at": 1 + STEP * kills}))["code"] == -9:
        kills += 1
    assert (done["code"], done.get("error")) == (0, None), done
    assert kills >= 4
    records = org.by_external_id("Account")
    assert len(org.records("Account")) == len(records) == 75
    assert {r["Id"] for k, r in records.items() if k[0] in "SD"} == there
    assert {k: r["Name"] for k, r in records.items()} == {
        **{r[0]: r[1] for r in rows},
        **{f"N{i:02}": "new" for i in range(25)},
    }
    assert all(records[f"N{i:02}"]["ParentId"] == records[f"D{i:02}"]["Id"] for i in range(25))
    ledger = world.ledger("accounts")
    assert {k: r["dest_id"] for k, r in ledger.items()} == {k.lower(): r["Id"] for k, r in records.items()}
    assert {r["origin"] for k, r in ledger.items() if k[0] in "sd"} == {"adopted"}
    assert {r["origin"] for k, r in ledger.items() if k[0] == "n"} <= {"created", "unknown"}
    written = {r["dest_id"] for r in world.state("accounts", "changelog") if r["operation"] != "adopted"}
    assert not written & there
    org.reset_calls()
    again = victims.run(job)
    assert again["counts"]["accounts"]["unchanged"] == 75
    assert org.calls()["row_bearing"] == 0
