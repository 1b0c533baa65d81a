"""removed: clear: a record whose row left the model keeps its place and loses its values."""

from __future__ import annotations

from typing import Any

import pytest

from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.errors import ConfigurationError, DestinationStillBusy, GuardTripped
from seqsync_dagster_tests.engine.world import ACCOUNTS, CONTACTS, World, crm

CLEARING: dict[str, Any] = {
    **CONTACTS,
    "removed": "clear",
    "clear_fields": ["Email", "LeadSource", "AccountId"],
    "fields": {
        "LastName": "last_name",
        "Email": {"column": "email", "nulls": "ignore"},
        "LeadSource": {"constant": "Product"},
        "AccountId": {"parent": "accounts", "from": "account_id"},
    },
}
GONE = "DELETE FROM crm.contacts WHERE contact_id IN ('C1', 'C3')"


def contact(world: World, key: str) -> tuple[Any, ...]:
    record = world.org.by_external_id("Contact")[key]
    return record["LastName"], record["Email"], record["LeadSource"], record["AccountId"] is not None


@pytest.mark.parametrize("most", [2000, 0])
def test_the_records_of_rows_that_left_are_emptied_by_finish(world: World, most: int) -> None:
    world.settings["collections_up_to"] = most
    world.sequence = crm({**ACCOUNTS, "removed": "delete"}, CLEARING)
    world.insert("crm.accounts", [("A1", "Acme", None, None)])
    rows = [(f"C{n}", f"Contact {n}", f"c{n}@example.com", None if n == 3 else "A1", None) for n in range(1, 5)]
    world.org.seed("Contact", [{"External_Id__c": "C3", "LastName": "Before us", "Phone": "1"}])
    world.insert("crm.contacts", rows)
    world.run_all()
    world.sql(GONE, "DELETE FROM crm.accounts", "UPDATE crm.contacts SET account_id = NULL")
    assert world.run("contacts", RunOptions(only_keys=("C2",))).counts.removals_due == 0
    assert world.run("accounts").counts.removals_due == 1
    report = world.run("contacts")
    # C3 was there before us, so it is not ours to empty.
    assert (report.counts.removals_due, report.counts.removals_kept) == (1, 1)
    assert contact(world, "C1") == ("Contact 1", "c1@example.com", "Product", True)

    finished = world.finish()
    assert (finished.removed, finished.rejected) == ({"contacts": 1, "accounts": 1}, {})
    assert finished.summary == "2 records removed, 1 of them by emptying their fields."
    assert contact(world, "C1") == ("Contact 1", None, None, False)
    assert contact(world, "C3") == ("Contact 3", "c3@example.com", "Product", False)
    row = world.ledger("contacts")["c1"]
    assert (row["state"], row["fingerprint"], row["dest_id"] is None) == ("left", None, False)
    assert [r["operation"] for r in world.state("contacts", "changelog")].count("cleared") == 1
    assert world.finish().removed == {}
    assert world.run("contacts").counts.removals_due == 0

    # A row that comes back fills its own record again.
    world.insert("crm.contacts", [("C1", "Back", "back@example.com", None, None)])
    assert world.run("contacts").counts.updated == 1
    assert contact(world, "C1") == ("Back", "back@example.com", "Product", False)
    assert len(world.org.records("Contact")) == 4


def test_emptying_is_guarded_and_can_be_asked_for_what_others_created(world: World) -> None:
    enriched = {**CLEARING, "mode": "update", "delete_adopted": True, "clear_fields": ["Email"]}
    guards = {"max_removed": {"percent": 40}}
    world.sequence = crm(ACCOUNTS, {**enriched, "guards": guards})
    world.org.seed("Contact", [{"External_Id__c": f"C{n}", "LastName": "x", "Phone": "1"} for n in (1, 2)])
    world.insert("crm.contacts", [(f"C{n}", "x", f"c{n}@example.com", None, None) for n in (1, 2)])
    world.run_all()
    world.sql(GONE)
    with pytest.raises(GuardTripped, match="guard max_removed: 1 of 2"):
        world.run("contacts")
    world.sequence = crm(ACCOUNTS, enriched)
    world.run_all()
    assert contact(world, "C1") == ("x", None, "Product", False)
    # Deleted by somebody meanwhile is as empty as it gets.
    world.sql("DELETE FROM crm.contacts")
    world.run("contacts")
    world.org.remove("Contact", world.org.by_external_id("Contact")["C2"]["Id"])
    assert world.finish().removed == {"contacts": 1}
    assert "c2" not in world.ledger("contacts")


def test_fields_that_must_hold_a_value_are_named_before_anything_is_sent(world: World) -> None:
    fields = {"LastName": "last_name", "Email": "email"}
    world.sequence = crm({**CONTACTS, "fields": fields, "removed": "clear"})
    world.insert("crm.contacts", [("C1", "x", None, None, None)])
    with pytest.raises(ConfigurationError, match=r"removed: clear cannot empty LastName of Contact.*\[Email\]"):
        world.run("contacts")


def test_an_emptying_job_that_a_run_left_is_taken_up_and_deletes_nothing(world: World) -> None:
    world.sequence = crm(ACCOUNTS, CLEARING)
    world.insert("crm.contacts", [("C1", "x", "c1@example.com", None, None), ("C2", "y", None, None, None)])
    world.run_all()
    world.sql(GONE)
    world.run("contacts")
    world.settings |= {"collections_up_to": 0, "bulk_wait_s": 0.01}
    world.org.settings(bulk_delay_s=0.3)
    with pytest.raises(DestinationStillBusy):
        world.finish()
    world.settings["bulk_wait_s"] = 60
    assert world.finish().removed == {}, "what the job did is settled, and nothing is left to do"
    assert contact(world, "C1") == ("x", None, None, False)
    assert world.ledger("contacts")["c1"]["state"] == "left"
