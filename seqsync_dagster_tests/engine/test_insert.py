"""mode: insert: every row becomes one record, which is never changed; without a match field, at most one."""

from __future__ import annotations

from typing import Any

import pytest

from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.errors import StateError
from seqsync_dagster_tests.engine.world import ACCOUNTS, CONTACTS, World, crm

PLAIN = {"Name": "name", "Website": "website"}
INSERTING: dict[str, Any] = {**ACCOUNTS, "mode": "insert", "fields": PLAIN}
UNMATCHED: dict[str, Any] = {k: v for k, v in INSERTING.items() if k != "match"}


def rows(world: World, *names: str) -> None:
    world.insert("crm.accounts", [(f"A{n}", name, None, None) for n, name in enumerate(names, 1)])


def sites(world: World) -> list[tuple[str, str | None]]:
    return sorted((r["Name"], r["Website"]) for r in world.org.records("Account"))


@pytest.mark.parametrize("most", [2000, 0])
def test_records_are_created_once_and_never_changed(world: World, most: int) -> None:
    world.settings["collections_up_to"] = most
    children = {
        **CONTACTS,
        "fields": {"LastName": "last_name", "AccountId": {"parent": "accounts", "from": "account_id"}},
    }
    world.sequence = crm({**INSERTING, "removed": "delete"}, {**children, "sensitive": []})
    [there] = world.org.seed("Account", [{"External_Id__c": "A3", "Name": "there before", "Website": "theirs"}])
    rows(world, "one", "two", "three")
    world.insert("crm.contacts", [("C3", "x", None, "A3", None)])
    report = world.run("accounts")
    assert (report.counts.created, report.counts.adopted, report.verdict) == (2, 1, "success")
    assert ("there before", "theirs") in sites(world), "a record that is there already stays as it is"
    assert world.ledger("accounts")["a3"]["dest_id"] == there
    assert world.run("contacts").counts.created == 1

    world.sql("UPDATE crm.accounts SET website = 'new' WHERE account_id IN ('A1', 'A3')")
    report = world.run("accounts")
    assert (report.counts.kept, report.counts.planned, report.counts.unchanged) == (2, 0, 1)
    assert (report.verdict, report.summary) == ("success", "accounts: 2 changed and left as created, 1 unchanged.")
    assert {(p.key, p.status, p.code) for p in report.problems} == {(k, "kept", "NOT_UPDATED") for k in ("A1", "A3")}
    again = world.run("accounts")
    assert (again.plan_id, again.counts.kept, again.counts.unchanged) == ("-", 2, 1), "nothing to do"
    resync = world.run("accounts", RunOptions(full_resync=True)).counts
    assert (resync.planned, resync.kept, resync.unchanged) == (0, 2, 1)
    assert sites(world) == [("one", None), ("there before", "theirs"), ("two", None)]

    # A row that leaves takes its record along; one that is back in time keeps it.
    world.sql("DELETE FROM crm.accounts WHERE account_id IN ('A1', 'A2')")
    assert world.run("accounts").counts.removals_due == 2
    world.insert("crm.accounts", [("A1", "back", None, None)])
    assert world.run("accounts").counts.kept == 2
    assert world.finish().removed == {"accounts": 1}
    assert sites(world) == [("one", None), ("there before", "theirs")]


def test_with_a_match_field_a_lost_reply_creates_no_second_record(world: World) -> None:
    world.sequence = crm(INSERTING)
    rows(world, "one", "two")
    world.org.fault("reset_after", "composite/sobjects")
    counts = world.run("accounts").counts
    assert (counts.created + counts.adopted, counts.rejected) == (2, 0)
    assert sites(world) == [("one", None), ("two", None)]


def test_without_a_match_field_a_row_of_which_nobody_knows_waits_for_an_operator(world: World) -> None:
    world.sequence = crm(UNMATCHED)
    world.settings["retry_wait_s"] = 0
    rows(world, "one", "two")
    world.org.fault("503", "composite/sobjects", 50)
    assert "SEQSYNC_NOT_WRITTEN" in rejected(world)
    world.org.clear_faults()
    assert world.org.records("Account") == []
    world.org.fault("reset_after", "composite/sobjects")
    report = world.run("accounts")
    assert {p.code for p in report.problems} == {"SEQSYNC_REPLY_LOST"}
    row = world.ledger("accounts")["A1"]
    assert (row["state"], row["origin"], row["dest_id"]) == ("unresolved", "unknown", None)

    for options in (RunOptions(), RunOptions(full_resync=True)):
        report = world.run("accounts", options)
        assert (report.counts.planned, report.counts.waiting, report.verdict) == (0, 2, "partial")
        assert {p.code for p in report.problems} == {"UNRESOLVED"}
        assert "name the row in only_keys to have it sent again" in report.problems[0].message
    world.sql("DELETE FROM crm.accounts WHERE account_id = 'A2'")
    assert world.run("accounts").counts.waiting == 1
    world.insert("crm.accounts", [("A2", "two", None, None)])
    assert (world.run("accounts").counts.planned, len(world.org.records("Account"))) == (0, 2)
    rows_before = sites(world)
    assert rows_before == [("one", None), ("two", None)], "they had been written"
    # The operator has found no record for A2, so it is sent again.
    world.org.remove("Account", next(r["Id"] for r in world.org.records("Account") if r["Name"] == "two"))
    assert world.run("accounts", RunOptions(only_keys=("A2",))).counts.created == 1
    assert sites(world) == rows_before
    with pytest.raises(StateError, match="this sync has no match field: every record would be created once more"):
        world.run("accounts", RunOptions(rebuild_ledger=True))
    # Keys are what the model says: a1 is not A1.
    world.insert("crm.accounts", [("a1", "another", None, None)])
    assert world.run("accounts").counts.created == 1


def rejected(world: World) -> set[str]:
    """Codes of the rows of a run that the destination stopped."""
    with pytest.raises(Exception, match="no answer after 5 tries"):
        world.run("accounts")
    return {r["code"] for r in world.ledger("accounts").values()}
