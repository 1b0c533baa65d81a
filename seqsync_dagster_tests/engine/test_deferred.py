"""References that cannot go with their row: deferred lookups between syncs, and loops among a sync's own rows."""

from __future__ import annotations

from typing import Any

import pytest

from seqsync_dagster.errors import ConfigurationError, DestinationUnreachable
from seqsync_dagster_tests.engine.test_recovery import Killed
from seqsync_dagster_tests.engine.world import ACCOUNTS, CONTACTS, World, crm

PRIMARY = {"parent": "contacts", "from": "website", "deferred": True}
#: Accounts name their primary contact, contacts their account. The column `website` holds the contact's key.
CIRCLE = (
    {**ACCOUNTS, "fields": {"Name": "name", "Primary_Contact__c": PRIMARY}, "removed": "delete"},
    {
        **CONTACTS,
        "sensitive": [],
        "removed": "delete",
        "fields": {"LastName": "last_name", "AccountId": {"parent": "accounts", "from": "account_id"}},
    },
)


def circle(**lookup: Any) -> Any:
    accounts = {**CIRCLE[0], "fields": {"Name": "name", "Primary_Contact__c": {**PRIMARY, **lookup}}}
    return crm(accounts, CIRCLE[1])


def primaries(world: World) -> dict[str, str | None]:
    """Account -> key of its primary contact, as the org has it."""
    keys = {r["Id"]: r["External_Id__c"] for r in world.org.records("Contact")}
    return {k: keys.get(r["Primary_Contact__c"]) for k, r in world.org.by_external_id("Account").items()}


def test_records_that_point_at_each_other_are_joined_by_finish(world: World) -> None:
    world.sequence = circle()
    world.insert("crm.accounts", [("A1", "a", "C1", None), ("A2", "b", "c2 ", None), ("A3", "c", None, None)])
    world.insert("crm.contacts", [("C1", "x", None, "A1", None), ("C2", "y", None, "A2", None)])
    first = world.run("accounts")
    assert (first.counts.created, first.counts.references_due, first.verdict) == (3, 2, "success")
    assert "2 with a reference that finish fills in" in first.summary
    # Materialised alone it says so again.
    assert world.run("accounts").counts.references_due == 2
    world.run("contacts")
    world.org.reset_calls()
    report = world.finish()
    assert (report.referenced, report.references_held, report.references_rejected) == ({"accounts": 2}, {}, {})
    assert report.summary == "2 references filled in; nothing to remove."
    assert world.org.calls()["row_bearing"] == 1
    assert primaries(world) == {"A1": "C1", "A2": "C2", "A3": None}
    assert world.org.by_external_id("Contact")["C1"]["AccountId"] == world.org.by_external_id("Account")["A1"]["Id"]
    # Nothing is left to do, and nobody is called.
    world.org.reset_calls()
    assert world.run("accounts").counts.references_due == 0
    assert world.finish().referenced == {}
    assert world.org.calls()["total"] == 0
    # A known parent goes with its row; an unknown one leaves the field as it is until finish; a null clears it.
    world.sql(
        "UPDATE crm.accounts SET website = 'C1' WHERE account_id = 'A3'",
        "UPDATE crm.accounts SET website = 'C3', name = 'to a new one' WHERE account_id = 'A1'",
        "UPDATE crm.accounts SET website = NULL WHERE account_id = 'A2'",
    )
    world.insert("crm.contacts", [("C3", "z", None, "A1", None)])
    counts = world.run("accounts").counts
    assert (counts.updated, counts.references_due) == (3, 1)
    assert primaries(world) == {"A1": "C1", "A2": None, "A3": "C1"}
    world.run("contacts")
    assert world.finish().referenced == {"accounts": 1}
    assert primaries(world) == {"A1": "C3", "A2": None, "A3": "C1"}
    operations = [(c["key"], c["operation"]) for c in world.state("accounts", "changelog")][-1]
    assert operations == ("a1", "updated")


def test_a_record_is_not_removed_while_an_unfilled_reference_still_leads_to_it(world: World) -> None:
    world.sequence = circle()
    world.insert("crm.accounts", [("A1", "a", "C1", None)])
    world.insert("crm.contacts", [("C1", "x", None, None, None)])
    world.run_all()
    world.sql("UPDATE crm.accounts SET website = 'C2'", "DELETE FROM crm.contacts")
    world.run("accounts")
    world.run("contacts")
    report = world.finish()
    assert (report.removed, report.kept_for_children) == ({"contacts": 0}, {"contacts": 1})
    assert report.references_held == {"accounts": 1}
    [problem] = report.reference_problems
    assert (problem.key, problem.status, problem.code) == ("a1", "held", "PARENT_MISSING")
    assert problem.message == "Primary_Contact__c: the parent is not in the model of contacts: c2"
    world.insert("crm.contacts", [("C2", "y", None, None, None)])
    world.run("contacts")
    report = world.finish()
    assert (report.referenced, report.removed, report.references_held) == ({"accounts": 1}, {"contacts": 1}, {})
    assert primaries(world) == {"A1": "C2"}


@pytest.mark.parametrize(("policy", "held", "rejected", "left"), [("reject", 0, 1, "C1"), ("send_empty", 0, 0, None)])
def test_if_missing_is_judged_by_finish(world: World, policy: str, held: int, rejected: int, left: str | None) -> None:
    world.sequence = circle(if_missing=policy)
    world.insert("crm.accounts", [("A1", "a", "C1", None)])
    world.insert("crm.contacts", [("C1", "x", None, None, None)])
    world.run_all()
    world.sql("UPDATE crm.accounts SET website = 'C9'")
    assert world.run("accounts").counts.updated == 1
    assert primaries(world) == {"A1": "C1"}
    report = world.finish()
    assert (sum(report.references_held.values()), sum(report.references_rejected.values())) == (held, rejected)
    assert primaries(world) == {"A1": left}
    assert world.finish().referenced == {}


def test_a_refused_reference_is_told_waits_and_does_not_touch_its_row(world: World) -> None:
    world.sequence = circle()
    world.insert("crm.accounts", [("A1", "a", "C1", None), ("A2", "b", "C2", None)])
    world.insert("crm.contacts", [("C1", "x", None, None, None), ("C2", "y", None, None, None)])
    world.run("accounts")
    world.run("contacts")
    world.org.remove("Contact", world.org.by_external_id("Contact")["C1"]["Id"])
    report = world.finish()
    assert (report.referenced, report.references_rejected) == ({"accounts": 1}, {"accounts": 1})
    assert [p.code for p in report.reference_problems] == ["INVALID_CROSS_REFERENCE_KEY"]
    row = world.ledger("accounts")["a1"]
    assert (row["state"], row["attempts"], row["code"]) == ("acknowledged", 1, "INVALID_CROSS_REFERENCE_KEY")
    assert row["retry_at"] is not None
    world.org.reset_calls()
    report = world.finish()
    assert (report.referenced, report.references_waiting, world.org.calls()["total"]) == ({}, {"accounts": 1}, 0)
    assert world.run("accounts").counts.unchanged == 2


@pytest.mark.parametrize("place", ["references.settle_completed", "references.apply", "apply.take"])
def test_references_survive_a_kill(world: World, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    world.sequence = circle()
    world.insert("crm.accounts", [(f"A{i}", "a", f"C{i}", None) for i in range(5)])
    world.insert("crm.contacts", [(f"C{i}", "x", None, None, None) for i in range(5)])
    world.run("accounts")
    world.run("contacts")
    # A Bulk job is asked by its id what became of its rows.
    world.settings["collections_up_to"] = 0 if place == "apply.take" else 2000

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(f"seqsync_dagster.engine.{place}", die)
        with pytest.raises(Killed):
            world.finish()
    filled = place != "references.apply"
    if place != "apply.take":
        assert primaries(world) == {f"A{i}": f"C{i}" if filled else None for i in range(5)}
    world.org.reset_calls()
    report = world.finish()
    assert report.referenced == ({} if filled else {"accounts": 5})
    assert world.org.calls()["row_bearing"] == (0 if filled else 1)
    assert primaries(world) == {f"A{i}": f"C{i}" for i in range(5)}
    assert world.run("accounts").counts.unchanged == 5


def test_references_that_finish_could_not_send_make_no_row_due(world: World) -> None:
    world.sequence = circle()
    world.insert("crm.accounts", [("A1", "a", "C1", None), ("A2", "b", "C1", None)])
    world.insert("crm.contacts", [("C1", "x", None, "A1", None)])
    world.run("accounts")
    world.run("contacts")
    world.org.fault("503", "composite/sobjects", times=100)
    with pytest.raises(DestinationUnreachable):
        world.finish()
    world.org.clear_faults()
    counts = world.run("accounts").counts
    assert (counts.planned, counts.unchanged, counts.references_due) == (0, 2, 2)
    assert world.finish().referenced == {"accounts": 2}
    assert primaries(world) == {"A1": "C1", "A2": "C1"}


def test_bulk_rows_without_a_reference_leave_the_field_as_it_is(world: World) -> None:
    world.settings["collections_up_to"] = 1
    world.sequence = circle()
    world.insert("crm.accounts", [(f"A{i}", "a", f"C{i}", None) for i in range(5)])
    world.insert("crm.contacts", [(f"C{i}", "x", None, None, None) for i in range(5)])
    world.run_all()
    world.sql("UPDATE crm.accounts SET website = 'C9', name = 'b' WHERE account_id <> 'A0'")
    assert world.run("accounts").counts.updated == 4
    assert primaries(world) == {f"A{i}": f"C{i}" for i in range(5)}
    world.insert("crm.contacts", [("C9", "x", None, None, None)])
    world.run("contacts")
    assert world.finish().referenced == {"accounts": 4}
    assert primaries(world) == {"A0": "C0", **{f"A{i}": "C9" for i in range(1, 5)}}


def test_a_lookup_that_cannot_be_filled_later_is_refused_before_anything_is_sent(world: World) -> None:
    workspaces = {
        "name": "workspaces",
        "table": "crm.workspaces",
        "key": "workspace_id",
        "object": "Workspace__c",
        "match": "External_Id__c",
        "fields": {"Name": "name", "Account__c": {"parent": "accounts", "from": "account_id", "deferred": True}},
    }
    world.sequence = crm(ACCOUNTS, workspaces)
    world.insert("crm.workspaces", [("W1", "w", "Free", "A1")])
    with pytest.raises(ConfigurationError, match=r"Workspace__c\.Account__c cannot be deferred: Workspace__c requires"):
        world.run("workspaces")


def test_a_lookup_that_is_deferred_no_more_is_the_syncs_own_affair_again(world: World) -> None:
    world.sequence = circle()
    world.insert("crm.accounts", [("A1", "a", "C1", None)])
    world.insert("crm.contacts", [("C1", "x", None, None, None)])
    world.run("accounts")
    world.run("contacts")
    plain = {"parent": "contacts", "from": "website"}
    contacts = {**CIRCLE[1], "fields": {"LastName": "last_name"}}
    world.sequence = crm({**CIRCLE[0], "fields": {"Name": "name", "Primary_Contact__c": plain}}, contacts)
    report = world.run("accounts")
    assert (report.counts.updated, report.resync_reason) == (1, None)
    assert primaries(world) == {"A1": "C1"}


def test_records_that_point_at_each_other_are_removed_together(world: World) -> None:
    world.sequence = circle()
    accounts = {**world.sequence.sync("accounts").model_dump(by_alias=True), "removed": "delete"}
    world.sequence = crm({k: v for k, v in accounts.items() if v is not None}, CIRCLE[1])
    world.insert("crm.accounts", [("A1", "a", "C1", None)])
    world.insert("crm.contacts", [("C1", "x", None, "A1", None)])
    world.run_all()
    world.sql("DELETE FROM crm.accounts", "DELETE FROM crm.contacts")
    world.run("accounts")
    world.run("contacts")
    assert world.finish().removed == {"contacts": 1, "accounts": 1}


def parents(world: World) -> dict[str, str | None]:
    """Account -> key of its parent, as the org has it."""
    keys = {r["Id"]: r["External_Id__c"] for r in world.org.records("Account")}
    return {k: keys.get(r["ParentId"]) for k, r in world.org.by_external_id("Account").items()}


def test_loops_are_broken_at_their_lowest_key_and_finish_closes_them(world: World) -> None:
    tree = {
        # Two loops, of two and of four rows, a row that is its own parent, rows on and below loops, a plain root.
        "A2": "A1", "A1": "A2",
        "B4": "B3", "B3": "B2", "B2": "B1", "B1": "B4",
        "C1": "C1",
        "D1": "A1", "D2": "D1", "D3": "B3", "D4": "C1",
        "E1": None, "E2": "E1",
        # Below a row that is held because its parent is in no model, and a loop with a refused row in it.
        "F1": "Z9", "F2": "F1", "F3": "F2",
        "G1": "G2", "G2": "G1", "G3": "G2",
    }  # fmt: skip
    world.insert("crm.accounts", [(k, None if k == "G1" else k, None, p) for k, p in tree.items()])
    report = world.run("accounts")
    counts = report.counts
    assert (counts.created, counts.rejected, counts.held_missing) == (13, 1, 1)
    # F2 and F3 hang on a held row; G2 and G3 on one that was refused in this run.
    assert (counts.held_pending, counts.references_due, counts.planned) == (4, 4, 16)
    told = {p.key: p.message for p in report.problems}
    assert told["F2"] == "ParentId: the parent row is itself held, invalid, refused or skipped"
    assert told["G2"] == "its parent was refused in this run"
    sent = {k: v for k, v in tree.items() if k[0] in "ABCDE"}
    assert parents(world) == {k: None if k in ("A1", "B1", "C1") else v for k, v in sent.items()}
    closed = world.finish()
    assert (closed.referenced, closed.references_held) == ({"accounts": 3}, {})
    assert parents(world) == sent
    world.org.reset_calls()
    counts = world.run("accounts").counts
    assert (counts.planned, counts.held_pending, counts.waiting) == (0, 4, 1)
    assert world.org.calls()["row_bearing"] == 0
    # The refused row is mended: its loop goes, broken at the same place, and so do those below.
    world.sql("UPDATE crm.accounts SET name = 'G1' WHERE account_id = 'G1'")
    assert world.run("accounts").counts.created == 3
    # Without finish the next run of the sync itself closes the loop.
    assert world.run("accounts").counts.updated == 1
    assert parents(world) == {**sent, "G1": "G2", "G2": "G1", "G3": "G2"}
    assert world.finish().referenced == {}


def test_a_loop_that_left_the_model_is_removed_unless_something_outside_keeps_it(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, "removed": "delete"})
    loops = {"A1": "A2", "A2": "A1", "A3": None, "A4": "A3", "B1": "B2", "B2": "B3", "B3": "B1", "B4": "B2"}
    world.insert("crm.accounts", [(k, k, None, p) for k, p in loops.items()])
    world.run_all()
    assert parents(world) == loops
    # B4 stays and points into the second loop, all of which hangs together.
    world.sql("DELETE FROM crm.accounts WHERE account_id <> 'B4'")
    world.run("accounts")
    report = world.finish()
    assert (report.removed, report.kept_for_children) == ({"accounts": 4}, {"accounts": 3})
    assert set(parents(world)) == {"B1", "B2", "B3", "B4"}
    world.sql("UPDATE crm.accounts SET parent_id = NULL")
    world.run("accounts")
    assert world.finish().removed == {"accounts": 3}
    assert parents(world) == {"B4": None}
