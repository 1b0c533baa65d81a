"""Nothing to do costs nothing: no warehouse query, no API call, as long as nothing can have changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from seqsync_dagster.engine.drift import check_drift
from seqsync_dagster.engine.report import SyncReport
from seqsync_dagster.errors import LedgerLost
from seqsync_dagster.sequence.graph import order
from seqsync_dagster.warehouse.source import ModelSource
from seqsync_dagster_tests.engine.test_sequence_run import small_company
from seqsync_dagster_tests.engine.world import ACCOUNTS, CONTACTS, WORKSPACES, World, crm


@contextmanager
def warehouse_statements() -> Iterator[list[str]]:
    """Statements that reach the warehouse or the ledgers in it; the journal's, beside them on PostgreSQL, are not."""
    seen: list[str] = []

    def note(connection: sa.Connection, cursor: Any, statement: str, *_: Any) -> None:
        if connection.dialect.name != "sqlite" and ("crm" in statement or ".syncs" in statement):
            seen.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def run_all(world: World, build: str = "first") -> dict[str, SyncReport]:
    reports = {name: world.run(name, build=build) for name in order(world.sequence)}
    world.finish()
    return reports


def asked(world: World, build: str = "first") -> set[str]:
    """The syncs whose runs asked the warehouse."""
    found = set()
    for name in order(world.sequence):
        with warehouse_statements() as statements:
            world.run(name, build=build)
        if statements:
            found.add(name)
    return found


def test_runs_over_models_that_were_not_built_again_ask_neither_warehouse_nor_org(world: World) -> None:
    small_company(world)
    # One row stays held and one refused: neither is a reason to ask.
    world.insert("crm.contacts", [("C7", "Held", None, "A77", None), ("C8", "Refused", "no address", None, None)])
    run_all(world)
    # The first run gave ids to parents of its own; from the second on accounts rest as well.
    run_all(world)
    world.org.reset_calls()
    with warehouse_statements() as statements:
        reports = run_all(world)
    assert statements == []
    assert world.org.calls()["total"] == 0
    contacts = reports["contacts"]
    assert (contacts.counts.model, contacts.counts.unchanged, contacts.counts.held, contacts.counts.waiting) == (
        5,
        3,
        1,
        1,
    )
    assert contacts.verdict == "partial"
    assert "was not built again since" in contacts.summary
    # Without a build that Dagster knows of, the model is compared.
    with warehouse_statements() as statements:
        world.run("contacts")
    assert statements


def test_whatever_may_have_changed_is_compared(world: World) -> None:
    small_company(world)
    world.insert("crm.contacts", [("C7", "Waits for A4", None, "A4", None)])
    run_all(world)
    run_all(world)
    assert asked(world) == set()
    # Another build, in which nothing is different; then the same again.
    assert asked(world, "second") == {"accounts", "workspaces", "contacts"}
    assert asked(world, "second") == set()
    # A parent arrives: its sync and the children that look at it, not more.
    world.insert("crm.accounts", [("A4", "Late", None, None)])
    assert world.run("accounts", build="third").counts.created == 1
    assert world.run("contacts", build="second").counts.created == 1
    assert world.org.by_external_id("Contact")["C7"]["AccountId"] == world.org.by_external_id("Account")["A4"]["Id"]
    # YAML.
    run_all(world, "third")
    run_all(world, "third")
    assert asked(world, "third") == set()
    world.sequence = crm(ACCOUNTS, WORKSPACES, {**CONTACTS, "removed": "delete"})
    assert "contacts" in asked(world, "third")
    # A run that asks for something, and one after too long a time.
    world.sequence = crm(recheck_after_hours=0)
    assert asked(world, "third") == {"accounts", "workspaces", "contacts"}


def test_a_removal_that_waits_keeps_finish_at_work_and_no_sync(world: World) -> None:
    small_company(world)
    run_all(world)
    world.sql("DELETE FROM crm.workspaces WHERE workspace_id = 'W1'")
    run_all(world, "second")
    run_all(world, "second")
    assert asked(world, "second") == set()
    assert set(world.org.by_external_id("Workspace__c")) == {"W1", "W2"}, "a contact points at it"
    world.sql("UPDATE crm.contacts SET workspace_id = NULL")
    assert world.run("contacts", build="third").counts.updated == 2
    world.finish()
    assert set(world.org.by_external_id("Workspace__c")) == {"W2"}


def test_a_healed_record_is_due_though_its_model_was_not_built_again(world: World) -> None:
    healing = {**ACCOUNTS, "drift": {"heal": True}}
    world.sequence = crm(healing, WORKSPACES, CONTACTS)
    small_company(world)
    run_all(world)
    run_all(world)
    account = world.org.by_external_id("Account")["A1"]["Id"]
    world.org.login().patch(f"sobjects/Account/{account}", json={"Website": "edited.example"}).raise_for_status()
    site = world.site()
    try:
        check_drift(
            site,
            "accounts",
            ModelSource.of_table("crm.accounts"),
            run_id="drift",
            holder="drift",
            remembered=True,
            log=world.lines.append,
        )
    finally:
        site.destination.close()
        site.warehouse.close()
        site.journal.close()
    assert world.run("accounts", build="first").counts.updated == 1
    assert world.org.by_external_id("Account")["A1"]["Website"] == "acme.example"


def test_a_ledger_that_is_lost_is_missed_all_the_same(world: World) -> None:
    if not world.on_duckdb:
        pytest.skip("only a file can be missed without a query")
    small_company(world)
    run_all(world)
    run_all(world)
    for file in world.folder.rglob("crm__accounts.duckdb"):
        file.unlink()
    with pytest.raises(LedgerLost):
        world.run("accounts", build="first", remembered=True)
