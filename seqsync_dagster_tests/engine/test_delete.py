"""mode: delete: the model names records that are to go, whoever created them."""

from __future__ import annotations

from typing import Any

import pytest

from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.errors import GuardTripped
from seqsync_dagster_tests.engine.world import World, crm

TO_KEYS: dict[str, Any] = {"match": "External_Id__c", "mode": "delete"}
OF_ACCOUNTS = {**TO_KEYS, "name": "old_accounts", "table": "crm.accounts", "key": "account_id", "object": "Account"}
OF_CONTACTS = {**TO_KEYS, "name": "old_contacts", "table": "crm.contacts", "key": "contact_id", "object": "Contact"}


def keys(world: World) -> set[str]:
    return set(world.org.by_external_id("Account")) | set(world.org.by_external_id("Contact"))


def listed(world: World, *accounts: str) -> None:
    world.insert("crm.accounts", [(a, None, None, None) for a in accounts])


@pytest.mark.parametrize("most", [2000, 0])
def test_the_records_of_the_rows_are_deleted_by_finish(world: World, most: int) -> None:
    world.settings["collections_up_to"] = most
    world.sequence = crm(OF_ACCOUNTS, OF_CONTACTS)
    ids = world.org.seed("Account", [{"External_Id__c": f"A{n}", "Name": "x"} for n in range(1, 6)])
    world.org.seed("Contact", [{"External_Id__c": "C1", "LastName": "x", "AccountId": ids[0]}])
    listed(world, "A1", "a2", "A9", "A4", "A4")
    world.insert("crm.contacts", [("C1", None, None, None, None)])
    assert world.run("old_accounts", RunOptions(only_keys=("A1",))).counts.removals_due == 0
    partial = world.run("old_accounts", RunOptions(limit=1))
    assert (partial.counts.removals_due, partial.counts.absent, partial.counts.waiting) == (0, 1, 2)
    assert {p.code for p in partial.problems} == {"DUPLICATE_KEY", "PARTIAL_RUN"}
    report = world.run("old_accounts")
    counts = report.counts
    assert (counts.removals_due, counts.unchanged, counts.invalid_duplicate, counts.planned) == (2, 1, 2, 0)
    world.run("old_contacts")
    assert len(keys(world)) == 6, "a sync's own step deletes nothing"
    finished = world.finish()
    assert (finished.removed, finished.rejected) == ({"old_contacts": 1, "old_accounts": 2}, {})
    assert list(finished.removed) == ["old_contacts", "old_accounts"]
    assert keys(world) == {"A3", "A4", "A5"}

    # What was done is not looked for again.
    world.org.reset_calls()
    again = world.run("old_accounts")
    assert (again.plan_id, again.counts.unchanged, world.org.calls()["total"]) == ("-", 3, 0)
    assert world.finish().removed == {}
    assert {k: r["state"] for k, r in world.ledger("old_accounts").items()}["a1"] == "removed"

    # One that leaves the list in time is spared; one that is deleted by somebody meanwhile is done.
    listed(world, "A3", "A5")
    assert world.run("old_accounts").counts.removals_due == 2
    world.sql("DELETE FROM crm.accounts WHERE account_id IN ('A3', 'A4')")
    assert world.run("old_accounts").counts.removals_due == 0
    world.org.remove("Account", ids[4])
    assert world.finish().removed == {"old_accounts": 1}
    assert keys(world) == {"A3", "A4"}

    # A record that has such a key again goes when every row is looked for again.
    world.org.seed("Account", [{"External_Id__c": "A1", "Name": "back"}])
    assert world.run("old_accounts").counts.removals_due == 0
    assert world.run("old_accounts", RunOptions(full_resync=True)).counts.removals_due == 1
    world.finish()
    assert keys(world) == {"A3", "A4"}


def test_a_long_list_of_records_to_delete_needs_a_yes(world: World) -> None:
    world.sequence = crm(OF_ACCOUNTS)
    world.org.seed("Account", [{"External_Id__c": f"A{n}", "Name": "x"} for n in range(60)])
    listed(world, *[f"A{n}" for n in range(60)])
    with pytest.raises(GuardTripped, match="guard max_removed: 60 of 60") as tripped:
        world.run("old_accounts")
    assert world.finish().removed == {}
    assert len(keys(world)) == 60
    assert world.run("old_accounts", RunOptions(approve_plan=tripped.value.plan_id)).counts.removals_due == 60
    assert world.finish().removed == {"old_accounts": 60}
    assert keys(world) == set()
