"""What an edit of the mapping sends, and the guards that ask before it does."""

from __future__ import annotations

from typing import Any

import pytest

from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.errors import GuardTripped
from seqsync_dagster_tests.engine.test_sequence_run import small_company
from seqsync_dagster_tests.engine.world import ACCOUNTS, CONTACTS, WORKSPACES, World, crm


def mapped(**fields: Any) -> dict[str, Any]:
    return {**ACCOUNTS, "fields": fields}


def test_a_field_that_is_taken_out_sends_nothing_and_changed_rows_go_as_ever(world: World) -> None:
    small_company(world)
    parent = {"parent": "accounts", "from": "parent_id"}
    world.sequence = crm(mapped(Name="name", Website="website", Description={"constant": "ours"}, ParentId=parent))
    world.run_all()
    world.sql("UPDATE crm.accounts SET name = 'Acme Inc' WHERE account_id = 'A1'")
    world.sql("UPDATE crm.accounts SET website = 'other.example' WHERE account_id = 'A2'")
    world.sequence = crm(mapped(Name="name", ParentId=parent))
    world.org.reset_calls()
    report = world.run("accounts")
    # A2 differs from what was acknowledged only in what is not mapped any more; that it goes too does no harm.
    assert (report.counts.updated, report.counts.unchanged, report.resync_reason) == (2, 1, None)
    accounts = world.org.by_external_id("Account")
    assert {k: a["Website"] for k, a in accounts.items()} == {"A1": "acme.example", "A2": None, "A3": None}
    assert {a["Description"] for a in accounts.values()} == {"ours"}
    assert accounts["A1"]["Name"] == "Acme Inc"
    assert any(
        "Website, Description was taken out" in line or "was taken out of the mapping" in line for line in world.lines
    )
    assert world.run("accounts").counts.planned == 0
    # A constant alone leaves the fingerprints as they are.
    world.sequence = crm(mapped(Name="name"))
    assert world.run("accounts").counts.planned == 0
    world.sql("DELETE FROM crm.accounts WHERE account_id = 'A3'")
    assert world.run("accounts").counts.removals_kept == 1


def test_where_the_model_has_lost_the_column_too_every_row_is_due_with_that_reason(world: World) -> None:
    small_company(world)
    world.sequence = crm(mapped(Name="name", Website="website"))
    world.run_all()
    world.sql("ALTER TABLE crm.accounts DROP COLUMN website")
    world.sequence = crm(mapped(Name="name"))
    report = world.run("accounts")
    assert report.resync_reason == "Website was taken out of the mapping"
    assert report.counts.updated == 3


def test_guards_on_creates_and_on_invalid_rows_name_number_and_limit(world: World) -> None:
    small_company(world)
    guards = {"max_created": {"percent": 50, "min_rows": 0}, "max_invalid": {"percent": 20, "min_rows": 1}}
    world.sequence = crm({**ACCOUNTS, "guards": guards}, WORKSPACES, CONTACTS)
    assert world.run("accounts").counts.created == 3, "a first run creates everything"
    world.insert("crm.accounts", [("A4", "Four", None, None), ("A5", "Five", None, None)])
    with pytest.raises(GuardTripped, match="max_created: 2 would be created beside 3 acknowledged records") as tripped:
        world.run("accounts")
    assert set(world.org.by_external_id("Account")) == {"A1", "A2", "A3"}
    assert world.run("accounts", RunOptions(approve_plan=tripped.value.plan_id)).counts.created == 2
    world.insert("crm.accounts", [(None, "No key", None, None), ("A1 ", "Twin", None, None)])
    with pytest.raises(GuardTripped, match="max_invalid: 3 of 7 rows have a null key, or one that another row has too"):
        world.run("accounts")


def test_a_first_run_that_only_updates_is_measured_by_nothing(world: World) -> None:
    small_company(world)
    world.run_all()
    limit = {"max_updated": {"percent": 10, "min_rows": 0}}
    found = {**ACCOUNTS, "name": "sites", "mode": "update", "guards": limit, "fields": {"Description": "name"}}
    world.sequence = crm(found)
    assert world.run("sites").counts.updated == 3
    world.sql("UPDATE crm.accounts SET name = name || '!'")
    with pytest.raises(GuardTripped, match="max_updated: 3 of 3 acknowledged records"):
        world.run("sites")
