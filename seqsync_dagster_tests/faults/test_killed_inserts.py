"""A run of mode: insert that is killed around a write: with a match field one record, without one at most one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seqsync_dagster_tests.emulator_process import EmulatorProcess
from seqsync_dagster_tests.engine.world import ACCOUNTS, TABLES, World, crm
from seqsync_dagster_tests.faults.victim import Victims
from seqsync_dagster_tests.postgres_server import PostgresServer

ROWS = 25
CALL, UPLOAD = "POST /services/data/v64.0/composite/sobjects", "/batches"


@pytest.mark.parametrize("engine", ["duckdb", "postgresql"])
@pytest.mark.parametrize(
    ("match", "most", "at"),
    [(True, 2000, f"after {CALL}"), (True, 0, UPLOAD), (False, 0, f"before {CALL}"), (False, 0, f"after {CALL}")],
)
def test_a_killed_insert_keeps_the_promise(
    engine: str,
    match: bool,
    most: int,
    at: str,
    tmp_path: Path,
    emulator: EmulatorProcess,
    postgres_server: PostgresServer,
    victims: Victims,
) -> None:
    sync: dict[str, Any] = {**ACCOUNTS, "mode": "insert", "fields": {"Name": "name"}}
    if not match:
        del sync["match"]
    with postgres_server.fresh_database() as url:
        url = f"duckdb:///{tmp_path}/warehouse.duckdb" if engine == "duckdb" else url
        world = World(tmp_path, url, emulator, crm(sync))
        world.settings["collections_up_to"] = most
        world.sql(TABLES)
        world.insert("crm.accounts", [(f"A{n:02}", f"name {n:02}", None, None) for n in range(ROWS)])
        run = {
            "result": str(tmp_path / "result.json"),
            "folder": str(tmp_path),
            "warehouse_url": url,
            "org_url": emulator.url,
            "sequence": world.sequence.model_dump(mode="json", by_alias=True),
            "settings": world.settings,
        }
        assert victims.run({**run, "at_name": at})["code"] == -9
        done = victims.run(run)
        assert (done["code"], done.get("message")) == (0, None)
        names = [r["Name"] for r in emulator.records("Account")]
        assert len(set(names)) == len(names), "no record twice"
        ledger = world.ledger("accounts")
        if match:
            assert len(names) == ROWS
            assert {r["state"] for r in ledger.values()} == {"acknowledged"}
        else:
            # The call under way had ten rows; whether they were written only a person can find out.
            unknown = sorted(k for k, r in ledger.items() if r["state"] == "unresolved")
            assert unknown == [f"A{n:02}" for n in range(10)]
            assert done["counts"]["accounts"]["waiting"] == 10
            assert len(names) == (ROWS if at.startswith("after") else ROWS - 10)
