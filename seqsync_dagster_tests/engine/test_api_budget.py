"""Syncs of one connection share its API calls; when they are spent, the rest of the plan goes another day."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from seqsync_dagster.errors import BudgetSpent
from seqsync_dagster.journal import Journal, Scope, tables
from seqsync_dagster.journal.calls import WINDOW_S
from seqsync_dagster.journal.database import Database
from seqsync_dagster.warehouse.open import open_warehouse
from seqsync_dagster.warehouse.settings import WarehouseSettings
from seqsync_dagster_tests.engine.world import World, crm


def journal_url(world: World) -> str:
    warehouse, url = open_warehouse(WarehouseSettings.model_validate({"url": world.warehouse_url}), world.folder)
    warehouse.close()
    return url


def a_day_passes(world: World) -> None:
    database = Database(journal_url(world))
    with database.write() as db:
        db.execute(sa.update(tables.call).values(slot=tables.call.c.slot - WINDOW_S - 1000))
    database.close()


def test_two_syncs_share_a_budget_and_the_next_run_sends_the_rest(world: World) -> None:
    world.insert("crm.accounts", [(f"a{n}", f"Name {n}", None, None) for n in range(400)])
    world.insert("crm.workspaces", [(f"w{n}", f"Name {n}", "Team", f"a{n % 400}") for n in range(1000)])
    world.settings |= {"api_budget": {"daily_calls": 30}}
    with Journal(journal_url(world)) as journal:
        # As if other syncs had been at work: reads of these two, and 4 calls with rows, are left.
        journal.calls_of("salesforce").add(30 - 4 - reads_of(world))
    assert world.run("accounts").counts.created == 400
    with pytest.raises(BudgetSpent, match=r"daily_calls: 30.* 600 of 1,000 rows of workspaces wait") as spent:
        world.run("workspaces")
    assert spent.value.rows_waiting == 600
    # What was acknowledged is settled already, and nothing else is written.
    assert len(world.org.records("Workspace__c")) == 400
    acknowledged = {key for key, row in world.ledger("workspaces").items() if row["dest_id"]}
    assert acknowledged == set(world.org.by_external_id("Workspace__c"))
    with Journal(journal_url(world)) as journal:
        assert journal.open_runs(Scope("crm", "workspaces")) == []

    with pytest.raises(BudgetSpent, match=r"600 of 600 rows of workspaces wait"):
        world.run("workspaces")

    a_day_passes(world)
    world.org.reset_calls()
    report = world.run("workspaces")
    assert (report.counts.created, report.counts.updated, report.counts.unchanged) == (600, 0, 400)
    assert report.row_bearing_calls == world.org.calls()["row_bearing"] == 3
    assert len(world.org.records("Workspace__c")) == 1000
    assert world.run("workspaces").counts.planned == 0


def reads_of(world: World) -> int:
    """Calls that the two runs make without rows: who the org is, and what its objects are."""
    return 2 * (1 + 1)


def test_a_bulk_job_that_was_begun_is_settled_though_the_next_one_is_not(world: World) -> None:
    world.insert("crm.accounts", [(f"a{n}", f"Name {n}", None, None) for n in range(500)])
    world.settings |= {"collections_up_to": 0, "bulk_part_rows": 300, "api_budget": {"daily_calls": 25}}
    with pytest.raises(BudgetSpent, match=r"200 of 500 rows of accounts wait"):
        world.run("accounts")
    assert sum(row["dest_id"] is not None for row in world.ledger("accounts").values()) == 300
    with Journal(journal_url(world)) as journal:
        assert journal.open_runs(Scope("crm", "accounts")) == []
    a_day_passes(world)
    counts = world.run("accounts").counts
    assert (counts.created, counts.updated, counts.unchanged) == (200, 0, 300)
    assert len(world.org.records("Account")) == 500


def test_removals_wait_as_well(world: World) -> None:
    world.sequence = crm(guards={"max_removed": None})
    world.insert("crm.accounts", [("a", "Acme", None, None)])
    world.insert("crm.workspaces", [(f"w{n}", f"Name {n}", "Team", "a") for n in range(450)])
    world.run("accounts")
    world.run("workspaces")
    world.sql("DELETE FROM crm.workspaces WHERE workspace_id <> 'w0'")
    assert world.run("workspaces").counts.removals_due == 449
    world.settings |= {"api_budget": {"daily_calls": 20}}
    with Journal(journal_url(world)) as journal:
        journal.calls_of("salesforce").add(20 - 2 - 1)
    with pytest.raises(BudgetSpent, match=r"49 of 449 rows of workspaces wait"):
        world.finish()
    a_day_passes(world)
    world.finish()
    assert set(world.org.by_external_id("Workspace__c")) == {"w0"}
