"""A step that is done again with more memory finds everything that it starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.warehouse.duckdb import DuckDBRoom
from seqsync_dagster_tests.emulator_process import EmulatorProcess, emulator  # noqa: F401
from seqsync_dagster_tests.engine.world import ACCOUNTS, CONTACTS, TABLES, WORKSPACES, World, crm

OWNED = {
    **ACCOUNTS,
    "first_run": "adopt",
    "fields": {**ACCOUNTS["fields"], "OwnerId": {"lookup": "User", "by": "Email", "from": "website"}},  # type: ignore[dict-item]
}


def test_every_step_of_a_first_load_can_be_done_again(
    tmp_path: Path,
    emulator: EmulatorProcess,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def out_of_memory_at_once(room: DuckDBRoom, act: Callable[[], Any]) -> Any:
        room.connection.rollback()
        return act()

    monkeypatch.setattr(DuckDBRoom, "frugally", out_of_memory_at_once)
    owner = emulator.login().query("SELECT Email FROM User WHERE IsActive = true LIMIT 1")[0]["Email"]
    world = World(tmp_path, f"duckdb:///{tmp_path}/warehouse.duckdb", emulator, crm(OWNED, WORKSPACES, CONTACTS))
    world.sql(TABLES)
    world.insert(
        "crm.accounts", [("A1", "Acme", owner, None), ("A2", "Beta", owner, "A1"), ("A3", "Gone", owner, "A1")]
    )
    world.insert("crm.workspaces", [("W1", "Home", "Enterprise", "A2")])
    world.insert("crm.contacts", [("C1", "Doe", "doe@acme.example", "A1", "W1")])
    skipped = RunOptions(skip_once={"accounts": ["A3"]})
    reports = [world.run("accounts", skipped), world.run("workspaces"), world.run("contacts")]
    assert [r.counts.created for r in reports] == [2, 1, 1], [p for r in reports for p in r.problems]
    assert emulator.by_external_id("Account").keys() == {"A1", "A2"}
