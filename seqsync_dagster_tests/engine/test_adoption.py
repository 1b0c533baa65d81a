"""Records that were there before us: adopted as they are where they hold their rows' values, updated where not."""

from __future__ import annotations

from typing import Any

import pytest

from seqsync_dagster.engine import existing
from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.errors import GuardTripped
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
    world.org.seed("Account", [{"Name": f"n{i}", "External_Id__c": f"A{i}"} for i in range(4)])
    rows = [("A0", "n0", None, None), ("A1", "n1", None, None), ("A2", None, None, None), ("A3", "x", None, None)]
    world.insert("crm.accounts", [*rows, ("A4", "new", None, None), ("A1 ", "twin", None, None)])
    c = world.run("accounts", RunOptions(only_keys=("A0",))).counts
    assert (c.adopted_as_is, c.planned) == (1, 0)
    c = world.run("accounts", RunOptions(limit=1)).counts
    assert (c.adopted, c.adopted_as_is, c.planned, c.rejected, c.invalid) == (0, 0, 1, 1, 2)
    assert world.ledger("accounts")["a2"]["state"] == "rejected"
    c = world.run("accounts").counts
    assert (c.adopted, c.adopted_as_is, c.created, c.waiting, c.invalid) == (1, 0, 1, 1, 2)
    world.sql("UPDATE crm.accounts SET name = 'n2' WHERE account_id = 'A2'")
    assert world.run("accounts").counts.adopted == 1
    assert {r["origin"] for k, r in world.ledger("accounts").items() if k != "a4" and r["dest_id"]} == {"adopted"}


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
    world.run("accounts")
    for key in ("A1", "A2"):
        world.org.remove("Account", world.org.by_external_id("Account")[key]["Id"])
    world.sql("UPDATE crm.accounts SET name = 'changed'")
    assert world.run("accounts").counts.rejected == 2
    assert world.run("accounts").counts.created == 0
    states = {k: r["state"] for k, r in world.ledger("accounts").items()}
    assert states == {"a1": "gone", "a2": "gone"}
    assert world.run("accounts", RunOptions(only_keys=("A1",))).counts.created == 1
    c = world.run("accounts").counts
    assert (c.created, c.waiting) == (0, 1)
    assert world.ledger("accounts")["a2"]["state"] == "gone"


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
