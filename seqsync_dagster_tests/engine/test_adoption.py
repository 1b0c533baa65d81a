"""Records that were there before us: adopted as they are where they hold their rows' values, updated where not."""

from __future__ import annotations

import random
from typing import Any

import pytest

from seqsync_dagster.engine import existing
from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.errors import ConfigurationError, GuardTripped
from seqsync_dagster_tests.emulator_process import Api
from seqsync_dagster_tests.engine.test_drift import MESSY, MESSY_TABLE, checked, edit
from seqsync_dagster_tests.engine.world import ACCOUNTS, CONTACTS, WORKSPACES, World, crm

ADOPT: dict[str, Any] = {"first_run": "adopt"}


def lost(world: World, *syncs: str) -> None:
    """The ledger starts anew; what the org holds stays. Nothing is sent by that."""
    for sync in syncs:
        world.run(sync, RunOptions(rebuild_ledger=True, only_keys=("nobody",)), remembered=True)


def operations(world: World, sync: str) -> dict[str, tuple[str, str | None]]:
    return {r["key"]: (r["operation"], r["dest_id"]) for r in world.state(sync, "changelog")}


def test_identical_records_are_adopted_without_a_write_others_are_updated_and_the_rest_created(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, **ADOPT})
    parent, same, other, empty = world.org.seed(
        "Account",
        [
            {"Name": "parent", "Website": "p.example", "External_Id__c": "a1"},
            {"Name": "same", "External_Id__c": "A2"},
            {"Name": "another name", "Website": "o.example", "External_Id__c": "A3"},
            {"Name": "nobody's"},
        ],
    )
    edit(world, "Account", "A2", ParentId=parent)
    world.insert(
        "crm.accounts",
        [
            ("A1", "parent ", "p.example", None),
            ("A2", "same", " ", "A1"),
            ("A3", "name", "o.example", "A2"),
            ("A4", "new", None, "A2"),
            ("A5", "newer", None, "A4"),
        ],
    )
    before = {r["Id"]: r["LastModifiedDate"] for r in world.org.records("Account")}
    report = world.run("accounts")
    c = report.counts
    assert (c.created, c.adopted, c.adopted_as_is, c.updated, c.planned, c.sent) == (2, 3, 2, 0, 3, 3)
    assert report.summary == "accounts: 2 created, 3 adopted (2 as they were)."
    assert [x.operation for x in report.changes] == ["adopted", "created", "created", "adopted", "adopted"]
    assert any("2 records adopted as they are" in line for line in world.lines)
    records = world.org.by_external_id("Account")
    after = {r["Id"]: r["LastModifiedDate"] for r in world.org.records("Account")}
    assert {i for i in before if before[i] != after[i]} <= {other}
    assert (records["A3"]["Name"], records["A3"]["ParentId"], records["A4"]["ParentId"]) == ("name", same, same)
    assert records["A5"]["ParentId"] == records["A4"]["Id"]
    ledger = world.ledger("accounts")
    assert {k: r["origin"] for k, r in ledger.items()} == {
        **dict.fromkeys(["a1", "a2", "a3"], "adopted"),
        **dict.fromkeys(["a4", "a5"], "created"),
    }
    assert (ledger["a2"]["dest_id"], ledger["a2"]["state"]) == (same, "acknowledged")
    assert all(r["fingerprint"] for r in ledger.values())
    assert operations(world, "accounts")["A1"] == ("adopted", parent)
    assert operations(world, "accounts")["A3"] == ("adopted", other)
    assert empty not in {r["dest_id"] for r in ledger.values()}
    world.org.reset_calls()
    assert world.run("accounts").plan_id == "-"
    assert world.org.calls()["total"] == 0
    # The ledger is not new any more: a record that somebody made meanwhile is matched as ever.
    world.org.seed("Account", [{"Name": "late", "External_Id__c": "A6"}])
    world.insert("crm.accounts", [("A6", "late", None, None)])
    c = world.run("accounts").counts
    assert (c.adopted, c.adopted_as_is, c.planned) == (1, 0, 1)


def test_a_whole_company_that_is_there_already_is_adopted_without_one_write(world: World) -> None:
    owner = {"lookup": "User", "by": "Email", "from": "email", "nulls": "ignore"}
    contacts = {**CONTACTS, "fields": {**CONTACTS["fields"], "OwnerId": owner}}  # type: ignore[dict-item]
    world.sequence = crm(ACCOUNTS, WORKSPACES, contacts)
    world.insert("crm.accounts", [(f"A{i}", f"n{i}", None, f"A{i - 1}" if i else None) for i in range(6)])
    world.insert("crm.workspaces", [("W1", "w", "Free", "A1"), ("W2", "v", "Team", "A5")])
    rows = [("C1", "x", "ana.kovac@example.com", "A1", "W1"), ("C2", "y", None, None, "W2")]
    world.insert("crm.contacts", rows)
    world.run_all()
    edit(world, "Contact", "C2", AccountId=world.org.by_external_id("Account")["A3"]["Id"])
    world.sequence = crm(*({**s, **ADOPT} for s in (ACCOUNTS, WORKSPACES, contacts)))
    lost(world, "accounts", "workspaces", "contacts")
    world.org.reset_calls()
    reports = [world.run(n).counts for n in ("accounts", "workspaces")]
    assert [(c.adopted, c.adopted_as_is, c.planned) for c in reports] == [(6, 6, 0), (2, 2, 0)]
    assert world.org.calls()["row_bearing"] == 0
    c = world.run("contacts").counts
    assert (c.adopted, c.adopted_as_is, c.planned) == (2, 1, 1), "C2 points to an account that its row does not name"
    assert world.org.by_external_id("Contact")["C2"]["AccountId"] is None
    assert [world.run(n).plan_id for n in ("accounts", "workspaces", "contacts")] == ["-"] * 3
    # By hand the operator may have every row written all the same.
    lost(world, "accounts")
    c = world.run("accounts", RunOptions(full_resync=True)).counts
    assert (c.adopted, c.adopted_as_is) == (6, 0)


@pytest.mark.parametrize("mode", ["upsert", "update"])
def test_whatever_form_the_values_have_what_we_wrote_is_adopted_as_it_is(world: World, mode: str) -> None:
    world.sql(MESSY_TABLE)
    world.sequence = crm(MESSY)
    world.run("messy")
    world.sequence = crm({**MESSY, **ADOPT, "mode": mode})
    lost(world, "messy")
    edit(world, "Account", "M2", Website="ignored.example")
    edit(world, "Account", "M4", AnnualRevenue=9.5)
    world.org.reset_calls()
    c = world.run("messy").counts
    assert (c.adopted, c.adopted_as_is, c.planned) == (5, 4, 1)
    assert world.org.by_external_id("Account")["M2"]["Website"] == "ignored.example"
    assert world.run("messy").plan_id == "-"


def test_many_records_are_read_in_pages_and_few_by_their_values(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(existing, "PAGE", 700)
    monkeypatch.setattr("seqsync_dagster.warehouse.duckdb._PART_BYTES", 1)
    world.sequence = crm({**ACCOUNTS, **ADOPT})
    keys = [f"Account-{i:05}" for i in range(2500)]
    world.org.seed("Account", [{"Name": f"n{i}", "External_Id__c": k} for i, k in enumerate(keys)])
    world.org.seed("Account", [{"Name": f"nobody's {i}"} for i in range(300)])
    world.insert("crm.accounts", [(k, f"n{i}", None, None) for i, k in enumerate(keys)])
    world.sql("UPDATE crm.accounts SET name = 'z' WHERE account_id IN ('Account-00000', 'Account-02499')")
    world.org.reset_calls()
    report = world.run("accounts")
    assert (report.counts.adopted, report.counts.adopted_as_is, report.counts.planned) == (2500, 2498, 2)
    # Login, org, describe, the number of records, two pages of them, and the two that differ.
    assert report.api_calls == world.org.calls()["total"] == 7
    assert report.row_bearing_calls == 1
    lost(world, "accounts")
    world.sql("DELETE FROM crm.accounts WHERE account_id >= 'Account-00100'")
    world.org.reset_calls()
    report = world.run("accounts")
    assert (report.counts.adopted_as_is, report.counts.planned) == (100, 0)
    # Login, org, describe, one list.
    assert report.api_calls == 4


def test_a_guard_stops_an_adoption_that_would_change_too_many_records(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, **ADOPT}, guards={"max_updated": {"percent": 50, "min_rows": 1}})
    world.org.seed("Account", [{"Name": "other", "External_Id__c": f"A{i}"} for i in range(3)])
    world.insert("crm.accounts", [("A0", "other", None, None), ("A1", "x", None, None), ("A2", "y", None, None)])
    with pytest.raises(GuardTripped, match=r"2 of 3 acknowledged or found records \(66.7%\)") as stopped:
        world.run("accounts")
    assert world.ledger("accounts") == {}
    report = world.run("accounts", RunOptions(approve_plan=stopped.value.plan_id))
    assert (report.counts.adopted, report.counts.adopted_as_is) == (3, 1)


def test_an_adoption_goes_on_until_the_whole_model_was_seen_to(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, **ADOPT})
    world.org.seed("Account", [{"Name": f"n{i}", "External_Id__c": f"A{i}"} for i in range(6)])
    rows = [("A0", "n0", None, None), ("A1", "n1", None, None), ("A2", None, None, None), ("A3", "x", None, None)]
    more = [("A5", "n5", None, None), ("A1 ", "twin", None, None), ("A9", "new", None, None)]
    world.insert("crm.accounts", [*rows, *more])
    c = world.run("accounts", RunOptions(only_keys=("A0",))).counts
    assert (c.adopted_as_is, c.planned) == (1, 0)
    c = world.run("accounts", RunOptions(limit=1)).counts
    assert (c.adopted, c.adopted_as_is, c.planned, c.rejected, c.invalid) == (1, 1, 1, 1, 2)
    assert world.ledger("accounts")["a2"]["state"] == "rejected"
    c = world.run("accounts").counts
    assert (c.adopted, c.adopted_as_is, c.created, c.waiting, c.invalid) == (1, 0, 1, 1, 2)
    world.sql("UPDATE crm.accounts SET name = 'n2' WHERE account_id = 'A2'")
    assert world.run("accounts").counts.adopted == 1
    assert {r["origin"] for k, r in world.ledger("accounts").items() if k != "a9" and r["dest_id"]} == {"adopted"}


def merged(world: World, obj: str, loser: str, **values: Any) -> tuple[str, str]:
    """A person merges a record into another, which takes over its external id; the ids of both."""
    [master] = world.org.seed(obj, [values])
    old = world.org.by_external_id(obj)[loser]["Id"]
    body = {"object": obj, "master": master, "losers": [old]}
    world.org._call("POST", "merge", body)
    update = {"records": [{"attributes": {"type": obj}, "id": master, "External_Id__c": loser}]}
    [reply] = Api(world.org.url).patch("composite/sobjects", json=update).json()
    assert reply["success"], reply
    return old, master


def test_a_merged_record_is_found_again_by_match_and_its_children_follow(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", None, None), ("A2", "b", None, "A1"), ("A3", "c", None, None)])
    world.insert("crm.contacts", [("C1", "x", None, "A1", None)])
    world.run_all()
    old, new = merged(world, "Account", "A1", Name="survivor")
    world.sql("UPDATE crm.accounts SET name = 'renamed' WHERE account_id = 'A1'")
    report = world.run("accounts")
    assert (report.counts.rejected, report.counts.updated) == (1, 0)
    row = world.ledger("accounts")["a1"]
    assert (row["state"], row["dest_id"], row["gone_id"]) == ("gone", None, old)
    report = world.run("accounts")
    assert (report.counts.updated, report.counts.waiting, report.verdict) == (1, 0, "success")
    row = world.ledger("accounts")["a1"]
    assert (row["state"], row["dest_id"], row["gone_id"], row["origin"]) == ("acknowledged", new, None, "created")
    assert world.org.by_external_id("Account")["A1"]["Name"] == "renamed"
    [log] = [r for r in world.state("accounts", "changelog") if r["operation"] == "updated" and r["key"] == "A1"]
    assert (log["dest_id"], log["previous_dest_id"]) == (new, old)
    assert [world.run(n).counts.updated for n in ("accounts", "contacts")] == [1, 1], "A2 and C1 have another parent"
    assert world.org.by_external_id("Contact")["C1"]["AccountId"] == new
    assert [world.run(n).plan_id for n in ("accounts", "contacts")] == ["-", "-"]


def test_a_deleted_record_is_looked_for_once_then_waits_or_is_created_as_the_yaml_says(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", None, None), ("A2", "b", None, "A1")])
    world.sequence = crm({**ACCOUNTS, "drift": {"heal": True}})
    world.run("accounts")
    old = world.org.by_external_id("Account")["A1"]["Id"]
    world.org.remove("Account", old)
    drift = checked(world, "accounts")
    assert (drift.made_gone, drift.made_due) == (1, 1), "the child has lost its parent"
    world.org.reset_calls()
    report = world.run("accounts")
    assert (report.counts.waiting, report.counts.planned, report.verdict) == (1, 0, "partial")
    [problem] = [p for p in report.problems if p.key == "A1"]
    assert (problem.status, problem.code) == ("waiting", "GONE")
    said = f"its record {old} is gone in the destination, and no other has this key; name the row in only_keys to"
    assert problem.message.startswith(said)
    assert problem.message.endswith("RECORD_GONE: a drift check did not find the record: it was deleted or merged, or "
                                    "is out of sight")  # fmt: skip
    # Login, org, describe, and the question.
    assert report.api_calls == 4
    world.org.reset_calls()
    assert world.run("accounts").plan_id == "-"
    world.sql("UPDATE crm.accounts SET name = 'changed' WHERE account_id = 'A1'")
    report = world.run("accounts")
    assert (report.counts.waiting, report.counts.planned, problem in report.problems) == (1, 0, False)
    assert problem.message in {p.message for p in report.problems}
    assert world.org.calls()["total"] == 0, "nothing is asked again"
    world.sequence = crm({**ACCOUNTS, "on_gone": "recreate"})
    report = world.run("accounts")
    assert (report.counts.created, report.counts.updated, report.counts.waiting) == (1, 1, 0), "the child follows"
    new = world.ledger("accounts")["a1"]["dest_id"]
    [log] = [r for r in world.state("accounts", "changelog") if r["operation"] == "created" and r["previous_dest_id"]]
    assert (log["dest_id"], log["previous_dest_id"]) == (new, old)
    assert world.org.by_external_id("Account")["A2"]["ParentId"] == new
    # With recreate the next run after the loss is enough.
    world.org.remove("Account", world.org.by_external_id("Account")["A2"]["Id"])
    world.sql("UPDATE crm.accounts SET name = 'again' WHERE account_id = 'A2'")
    assert world.run("accounts").counts.rejected == 1
    assert world.run("accounts").counts.created == 1
    assert world.run("accounts").plan_id == "-"


def test_a_gone_row_whose_parent_is_gone_too_stays_gone(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", None, None), ("A2", "b", None, "A1")])
    world.insert("crm.contacts", [("C1", "x", None, "A1", None)])
    world.run_all()
    for obj, key in (("Account", "A1"), ("Account", "A2"), ("Contact", "C1")):
        world.org.remove(obj, world.org.by_external_id(obj)[key]["Id"])
    world.sql("UPDATE crm.accounts SET name = 'changed'", "UPDATE crm.contacts SET last_name = 'changed'")
    assert [world.run(n).counts.rejected for n in ("contacts", "accounts")] == [1, 2]
    reports = [world.run(n).counts for n in ("accounts", "contacts")]
    assert [(c.waiting, c.held, c.created) for c in reports] == [(2, 0, 0), (0, 1, 0)]
    assert world.ledger("contacts")["c1"]["state"] == "gone"
    assert world.run("accounts", RunOptions(only_keys=("A1",))).counts.created == 1
    reports = [world.run(n).counts for n in ("accounts", "contacts")]
    assert [(c.waiting, c.held, c.created) for c in reports] == [(1, 0, 0), (1, 0, 0)]
    assert world.org.records("Contact") == []


def test_mode_update_finds_a_merged_record_again_and_asks_once_for_a_deleted_one(world: World) -> None:
    world.org.seed("Account", [{"Name": "x", "External_Id__c": f"A{i}"} for i in (1, 2)])
    world.sequence = crm({**ACCOUNTS, "mode": "update"})
    world.insert("crm.accounts", [("A1", "a", None, None), ("A2", "b", None, None)])
    assert world.run("accounts").counts.updated == 2
    _, new = merged(world, "Account", "A1", Name="survivor")
    world.org.remove("Account", world.org.by_external_id("Account")["A2"]["Id"])
    world.sql("UPDATE crm.accounts SET name = 'changed'")
    assert world.run("accounts").counts.rejected == 2
    c = world.run("accounts").counts
    assert (c.updated, c.waiting, c.rejected) == (1, 1, 0)
    assert world.ledger("accounts")["a1"]["dest_id"] == new
    world.sql("UPDATE crm.accounts SET name = 'changed again' WHERE account_id = 'A2'")
    world.org.reset_calls()
    assert world.run("accounts").counts.waiting == 1
    assert world.org.calls()["total"] == 0


def test_a_ledger_of_an_earlier_release_gets_the_new_column(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", None, None)])
    world.run("accounts")
    site = world.site()
    with site.warehouse.open("crm", "accounts") as room:
        room.connection.exec_driver_sql(f'ALTER TABLE "{room.schema}".crm__accounts__ledger DROP COLUMN gone_id')
        room.connection.commit()
    site.warehouse.close()
    site.journal.close()
    site.destination.close()
    world.sql("UPDATE crm.accounts SET name = 'changed'")
    assert world.run("accounts").counts.updated == 1
    assert world.ledger("accounts")["a1"]["gone_id"] is None


LINKED: dict[str, Any] = {
    **CONTACTS,
    "adopt_by": ["Email"],
    "fields": {"LastName": "last_name", "Email": "email", "AccountId": {"parent": "accounts", "from": "account_id"}},
}


@pytest.mark.parametrize("bulk", [False, True])
def test_a_record_without_a_key_is_taken_over_by_its_email_and_never_guessed(world: World, bulk: bool) -> None:
    world.settings["collections_up_to"] = 1 if bulk else 2000
    world.sequence = crm(ACCOUNTS, LINKED)
    org = world.org
    one, *_ = org.seed(
        "Contact",
        [
            {"LastName": "Ada", "Email": "ada@example.com"},
            {"LastName": "Bob", "Email": "bob@example.com"},
            {"LastName": "Bob too", "Email": "bob@example.com"},
            {"LastName": "Cyd", "Email": "cyd@example.com"},
            {"LastName": "Dee", "Email": "dee@example.com", "External_Id__c": "OTHER"},
            {"LastName": "Eve", "Email": "eve@example.com", "External_Id__c": "C5"},
            {"LastName": "Eve without", "Email": "eve@example.com"},
            {"LastName": "No mail"},
        ],
    )
    rows = [
        ("C1", "Ada", " ADA@example.com", None, None),
        ("C2", "Bob", "bob@example.com", None, None),
        ("C3", "Cyd", "cyd@example.com", None, None),
        ("C3b", "Cyd", "CYD@example.com", None, None),
        ("C4", "Dee", "dee@example.com", None, None),
        ("C5", "Eve", "eve@example.com", None, None),
        ("C6", "No mail", None, None, None),
    ]
    world.insert("crm.contacts", rows)
    report = world.run("contacts")
    c = report.counts
    assert (c.created, c.adopted, c.adopted_as_is, c.rejected, c.refused) == (2, 2, 0, 3, 3), report.problems
    records = org.by_external_id("Contact")
    assert records["C1"]["Id"] == one
    assert {k for k in records if k} == {"C1", "C4", "C5", "C6", "OTHER"}
    ledger = world.ledger("contacts")
    assert (ledger["c1"]["origin"], ledger["c5"]["origin"], ledger["c4"]["origin"]) == ("adopted", "adopted", "created")
    assert operations(world, "contacts")["C1"] == ("adopted", one)
    assert {p.key: (p.status, p.code) for p in report.problems} == dict.fromkeys(
        ["C2", "C3", "C3b"], ("rejected", "AMBIGUOUS_MATCH")
    )
    said = {p.key: p.message for p in report.problems}
    end = "None was taken. Fill External_Id__c of the right record, merge those that are the same, or mend the model"
    assert said["C2"] == (
        f"Email ***: records of Contact without External_Id__c that have it: 2; rows of the model: 1. {end}"
    )
    assert said["C3"] == said["C3b"] != said["C2"]
    assert "1; rows of the model: 2" in said["C3"]
    everywhere = str(report) + str(world.lines) + str(world.state("contacts", "ledger"))
    assert "@example.com" not in everywhere.replace("ana.kovac@example.com", "")
    org.reset_calls()
    assert world.run("contacts").plan_id == "-", "what is ambiguous waits for its next try"
    assert org.calls()["total"] == 0
    # A person says which one it is; a later row with an email that is taken is ambiguous too.
    bob = next(r["Id"] for r in org.records("Contact") if r["LastName"] == "Bob too")
    body = {"records": [{"attributes": {"type": "Contact"}, "id": bob, "External_Id__c": "C2"}]}
    assert Api(org.url).patch("composite/sobjects", json=body).json()[0]["success"]
    org.seed("Contact", [{"LastName": "Ada again", "Email": "ada@example.com"}])
    world.insert("crm.contacts", [("C7", "Ada", "ada@example.com", None, None)])
    c = world.run("contacts", RunOptions(only_keys=("C2", "C7"))).counts
    assert (c.adopted, c.rejected) == (1, 1)
    assert world.ledger("contacts")["c2"]["dest_id"] == bob


def test_several_fields_must_all_be_equal_and_hierarchies_follow(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, **ADOPT, "adopt_by": ["Name", "Website"]})
    parent, child, _, by_key = world.org.seed(
        "Account",
        [
            {"Name": "Acme", "Website": "acme.example"},
            {"Name": "Beta", "Website": "beta.example"},
            {"Name": "Beta", "Website": "other.example"},
            {"Name": "Key", "External_Id__c": "A3"},
        ],
    )
    rows = [("A1", "ACME", "acme.example", None), ("A2", "Beta", "beta.example", "A1")]
    world.insert("crm.accounts", [*rows, ("A3", "Key", None, None), ("A4", "Acme", None, "A2")])
    c = world.run("accounts").counts
    assert (c.created, c.adopted, c.adopted_as_is, c.rejected) == (1, 3, 1, 0)
    records = world.org.by_external_id("Account")
    assert [records[k]["Id"] for k in ("A1", "A2", "A3")] == [parent, child, by_key]
    assert (records["A1"]["Name"], records["A2"]["ParentId"], records["A4"]["ParentId"]) == ("ACME", parent, child)
    assert world.run("accounts").plan_id == "-"


def test_many_rows_take_over_records_in_few_calls(world: World) -> None:
    world.sequence = crm(ACCOUNTS, LINKED)
    people = [(f"C{i:04}", f"p{i}", f"somebody.{i:04}@example.com", None, None) for i in range(1200)]
    world.org.seed("Contact", [{"LastName": n, "Email": e} for _, n, e, _, _ in people])
    world.insert("crm.contacts", people)
    world.org.reset_calls()
    report = world.run("contacts")
    assert (report.counts.adopted, report.counts.created) == (1200, 0)
    # The emails and the keys are looked for by reading records in pages; six calls carry rows.
    assert report.row_bearing_calls == 6
    assert report.api_calls <= 6 + 3 + 4


def test_what_adopt_by_cannot_be_is_said_before_anything_is_sent(world: World) -> None:
    for wrong, message in (
        ({"adopt_by": "Emial"}, "adopt_by names 'Emial', which is no field filled from a column. Did you mean 'Email'"),
        ({"adopt_by": "AccountId"}, "adopt_by names 'AccountId', which is no field filled from a column"),
        ({"mode": "update"}, "adopt_by is about rows that would be created; mode: update creates none"),
        ({"adopt_by": [], "mode": "update", "on_gone": "recreate"}, "on_gone: recreate needs mode: upsert"),
    ):
        with pytest.raises(ValueError, match=message):
            crm(ACCOUNTS, {**LINKED, **wrong})
    fields = {**ACCOUNTS["fields"], "Description": "website"}  # type: ignore[dict-item]
    world.sequence = crm({**ACCOUNTS, "fields": fields, "adopt_by": "Description"})
    world.insert("crm.accounts", [("A1", "a", "long text", None)])
    with pytest.raises(
        ConfigurationError, match=r"adopt_by: records cannot be found by Account.Description \(textarea\)"
    ):
        world.run("accounts")


@pytest.mark.parametrize("seed", range(2))
def test_what_nobody_touched_since_is_adopted_as_it_is_and_nothing_else(world: World, seed: int) -> None:
    chance = random.Random(seed)
    texts = ["x", "Ünï ", " two  blanks", "UPPER", "a\nb", "", "  ", None]
    sites = ["a.example", "B.example ", None]
    keys = [f"A{i:02}" for i in range(40)]
    rows = [
        (k, f"n{i}{chance.choice(texts) or ''}", chance.choice(sites), chance.choice([None, *keys[:i]]))
        for i, k in enumerate(keys)
    ]
    world.insert("crm.accounts", rows)
    world.run("accounts")
    edited, removed, remapped = (set(chance.sample(keys, n)) for n in (6, 3, 4))
    records = world.org.by_external_id("Account")
    for key in removed:
        world.org.remove("Account", records[key]["Id"])
    for key in edited - removed:
        edit(world, "Account", key, Name=f"somebody's {key}")
    for key in remapped:
        world.sql(f"UPDATE crm.accounts SET website = 'new.example' WHERE account_id = '{key}'")
    orphans = {k for k, _, _, parent in rows if parent in removed}
    differing = (edited | remapped | orphans) - removed
    world.sequence = crm({**ACCOUNTS, **ADOPT})
    lost(world, "accounts")
    c = world.run("accounts").counts
    assert (c.created, c.adopted, c.adopted_as_is) == (len(removed), 40 - len(removed), 40 - len(removed | differing))
    world.org.reset_calls()
    assert world.run("accounts").plan_id == "-"
    assert world.org.calls()["total"] == 0
    world.sequence = crm({**ACCOUNTS, "drift": {}})
    assert checked(world, "accounts").drifted == 0
