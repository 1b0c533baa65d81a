"""Every row's fate is known: acknowledged, rejected, held, invalid, left, removed."""

from __future__ import annotations

import pytest

from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster_tests.engine.world import ACCOUNTS, CONTACTS, WORKSPACES, World, crm


def test_null_blank_and_duplicate_keys_are_invalid_and_never_sent(world: World) -> None:
    world.insert(
        "crm.accounts",
        [
            (None, "no key", None, None),
            ("  ", "blank key", None, None),
            ("A1", "one", None, None),
            ("a1 ", "the same key to Salesforce", None, None),
            ("A2", "twin", None, None),
            ("A2", "twin", None, None),
            ("A3", "alone", None, None),
        ],
    )
    report = world.run("accounts")
    assert (report.counts.invalid_null, report.counts.invalid_duplicate, report.counts.created) == (2, 4, 1)
    assert report.verdict == "partial"
    assert set(world.org.by_external_id("Account")) == {"A3"}
    assert {p.code for p in report.problems} == {"NULL_KEY", "DUPLICATE_KEY"}


def test_a_twin_that_appears_later_is_invalid_and_the_acknowledged_record_stays(world: World) -> None:
    world.insert("crm.accounts", [("A1", "one", None, None), ("A2", "two", None, None)])
    world.run("accounts")
    world.insert("crm.accounts", [("a1", "another", None, None)])
    report = world.run("accounts")
    assert (report.counts.invalid_duplicate, report.counts.unchanged, report.counts.planned) == (2, 1, 0)
    assert world.org.by_external_id("Account")["A1"]["Name"] == "one"
    world.sql("DELETE FROM crm.accounts WHERE account_id = 'a1'")
    report = world.run("accounts")
    assert (report.counts.invalid, report.counts.unchanged) == (0, 2)


def test_a_refused_row_is_explained_waits_and_goes_when_it_is_mended(world: World) -> None:
    world.insert("crm.accounts", [("A1", "Acme", None, None), ("A2", None, None, None)])
    report = world.run("accounts")
    assert (report.counts.created, report.counts.rejected, report.verdict) == (1, 1, "partial")
    [problem] = report.problems
    assert (problem.key, problem.status, problem.code) == ("A2", "rejected", "REQUIRED_FIELD_MISSING")
    assert problem.message == "Required fields are missing: [Name]"
    assert world.ledger("accounts")["a2"]["state"] == "rejected"
    again = world.run("accounts")
    assert (again.counts.planned, again.counts.waiting, again.verdict) == (0, 1, "partial")
    world.sql("UPDATE crm.accounts SET name = 'Beta' WHERE account_id = 'A2'")
    assert world.run("accounts").counts.created == 1
    row = world.ledger("accounts")["a2"]
    assert (row["state"], row["attempts"], row["message"], row["origin"]) == ("acknowledged", 0, None, "created")


def test_a_refused_row_named_by_the_operator_is_tried_at_once(world: World) -> None:
    world.insert("crm.accounts", [("A1", "Acme", None, None), ("A2", None, None, None)])
    world.run("accounts")
    report = world.run("accounts", RunOptions(only_keys=("A2",)))
    assert (report.counts.planned, report.counts.rejected, report.counts.rejected_again) == (1, 1, 1)
    assert world.ledger("accounts")["a2"]["attempts"] == 2


def test_only_the_children_of_a_refused_parent_are_held_and_are_released_with_it(world: World) -> None:
    world.insert("crm.accounts", [("A1", "Acme", None, None), ("A2", None, None, None)])
    world.insert("crm.workspaces", [("W1", "ok", "Free", "A1"), ("W2", "waits", "Free", "A2")])
    world.insert(
        "crm.contacts",
        [("C1", "ok", None, "A1", "W1"), ("C2", "waits", None, None, "W2"), ("C3", "stranger", None, "A9", None)],
    )
    reports = world.run_all()
    assert (reports["workspaces"].counts.created, reports["workspaces"].counts.held_pending) == (1, 1)
    contacts = reports["contacts"].counts
    assert (contacts.created, contacts.held_pending, contacts.held_missing) == (1, 1, 1)
    assert world.ledger("contacts")["c2"]["state"] == "held"
    held = {p.key: p.message for p in reports["contacts"].problems}
    assert held["C3"] == "AccountId: the parent is not in the model of accounts: a9"
    assert held["C2"] == "Workspace__c: the parent in workspaces has no destination id yet: w2"
    world.sql("UPDATE crm.accounts SET name = 'Beta' WHERE account_id = 'A2'")
    world.insert("crm.accounts", [("A9", "Late", None, None)])
    reports = world.run_all()
    assert reports["workspaces"].counts.created == 1
    assert (reports["contacts"].counts.created, reports["contacts"].counts.held) == (2, 0)


def test_a_self_reference_waits_for_its_parent_row_only(world: World) -> None:
    world.insert(
        "crm.accounts",
        [
            ("A1", None, None, None),
            ("A2", "child of a refused row", None, "A1"),
            ("A3", "grandchild", None, "A2"),
            ("A4", "stranger's child", None, "A9"),
            ("A7", "fine", None, None),
        ],
    )
    report = world.run("accounts")
    counts = report.counts
    assert (counts.created, counts.rejected, counts.held_pending, counts.held_missing) == (1, 1, 2, 1)
    world.sql("UPDATE crm.accounts SET name = 'now named' WHERE account_id = 'A1'")
    report = world.run("accounts")
    assert (report.counts.created, report.counts.held_pending) == (3, 0)
    records = world.org.by_external_id("Account")
    assert records["A3"]["ParentId"] == records["A2"]["Id"]


@pytest.mark.parametrize(
    ("policy", "created", "rejected", "held"), [("hold", 0, 0, 1), ("send_empty", 1, 0, 0), ("reject", 0, 1, 0)]
)
def test_if_missing_decides_about_a_parent_that_is_not_there(
    world: World, policy: str, created: int, rejected: int, held: int
) -> None:
    lookup = {"parent": "accounts", "from": "account_id", "if_missing": policy}
    world.sequence = crm(
        ACCOUNTS, {**CONTACTS, "fields": {"LastName": "last_name", "AccountId": lookup}, "sensitive": []}
    )
    world.insert("crm.accounts", [("A1", "Acme", None, None)])
    world.run("accounts")
    world.insert("crm.contacts", [("C1", "x", None, "A9", None)])
    counts = world.run("contacts").counts
    assert (counts.created, counts.rejected, counts.held) == (created, rejected, held)


def test_a_record_no_sync_writes_is_found_by_its_field(world: World) -> None:
    owner = {"lookup": "User", "by": "Email", "from": "website", "if_missing": "hold"}
    world.sequence = crm({**ACCOUNTS, "fields": {"Name": "name", "OwnerId": {**owner, "nulls": "ignore"}}})
    world.insert(
        "crm.accounts",
        [
            ("A1", "Ana's", "ANA.KOVAC@example.com ", None),
            ("A2", "nobody's", "left@example.com", None),
            ("A3", "unowned", None, None),
        ],
    )
    report = world.run("accounts")
    assert (report.counts.created, report.counts.held_missing) == (2, 1)
    assert report.problems[0].message == "OwnerId: no User with Email left@example.com"
    ana = next(u["Id"] for u in world.org.records("User") if u["Email"] == "ana.kovac@example.com")
    assert world.org.by_external_id("Account")["A1"]["OwnerId"] == ana


def test_a_record_type_is_one_of_the_syncs_own_object(world: World) -> None:
    by_name = {"lookup": "RecordType", "by": "DeveloperName"}
    world.sequence = crm({**ACCOUNTS, "fields": {"Name": "name", "RecordTypeId": {**by_name, "from": "website"}}})
    world.insert("crm.accounts", [("A1", "a", "partner", None), ("A2", "b", "Reseller", None)])
    report = world.run("accounts")
    assert (report.counts.created, report.counts.held_missing) == (1, 1)
    assert report.problems[0].message == "RecordTypeId: no RecordType with DeveloperName reseller"
    types = {(r["SobjectType"], r["DeveloperName"]): r["Id"] for r in world.org.records("RecordType")}
    assert world.org.by_external_id("Account")["A1"]["RecordTypeId"] == types["Account", "Partner"]
    world.sequence = crm({**ACCOUNTS, "fields": {"Name": "name", "RecordTypeId": {**by_name, "value": "Customer"}}})
    report = world.run("accounts")
    assert report.resync_reason == (
        "RecordTypeId is filled from RecordType by DeveloperName = a constant, it was RecordType by DeveloperName = "
        "website"
    )
    assert {r["RecordTypeId"] for r in world.org.records("Account")} == {types["Account", "Customer"]}
    world.org.reset_calls()
    world.run("accounts")
    assert world.org.calls()["total"] == 0


def test_an_inactive_owner_is_a_row_error_in_plain_words(world: World) -> None:
    users = {u["Email"]: u for u in world.org.records("User")}
    frida = users["frida.lund@example.com"]
    found = {"lookup": "User", "by": "Email", "from": "website"}
    world.sequence = crm({**ACCOUNTS, "fields": {"Name": "name", "OwnerId": found}})
    world.insert("crm.accounts", [("A1", "a", frida["Email"], None), ("A2", "b", "ana.kovac@example.com", None)])
    report = world.run("accounts")
    assert (report.counts.created, report.counts.rejected, report.counts.refused) == (1, 1, 1)
    [problem] = report.problems
    assert (problem.key, problem.status, problem.code) == ("A1", "rejected", "LOOKUP_UNUSABLE")
    assert problem.message == (
        "OwnerId: the User with Email frida.lund@example.com is inactive and can own nothing: "
        "activate the user, or name another one"
    )
    world.sequence = crm({**ACCOUNTS, "fields": {"Name": "name", "OwnerId": found}, "sensitive": ["website"]})
    [problem] = world.run("accounts", RunOptions(only_keys=("A1",))).problems
    assert problem.message.startswith("OwnerId: the User with Email *** is inactive")
    # An id that the model holds itself is for the org to refuse; so is it where a job carries it.
    world.sequence = crm({**ACCOUNTS, "name": "by_id", "fields": {"Name": "name", "OwnerId": "website"}})
    world.sql(f"UPDATE crm.accounts SET website = '{frida['Id']}'")
    for up_to in (2000, 0):
        world.settings["collections_up_to"] = up_to
        report = world.run("by_id", RunOptions(only_keys=("A1",)))
        [problem] = report.problems
        assert problem.code == "INACTIVE_OWNER_OR_USER"
        assert problem.message.startswith(
            f"operation performed with inactive user [{frida['Id'][:15]}] as owner of acc"
        )
        assert problem.message.endswith(
            "(the user is inactive and can own nothing: activate the user, or name another one)"
        )


def test_mode_update_never_creates(world: World) -> None:
    world.org.seed("Account", [{"Name": "old", "External_Id__c": "A1"}])
    world.sequence = crm({**ACCOUNTS, "mode": "update"})
    world.insert("crm.accounts", [("A1", "new", None, None), ("A2", "not there", None, None)])
    report = world.run("accounts")
    assert (report.counts.updated, report.counts.rejected, report.counts.created) == (1, 1, 0)
    assert [r["Name"] for r in world.org.records("Account")] == ["new"]
    assert world.ledger("accounts")["a1"]["origin"] == "adopted"
    assert world.ledger("accounts")["a2"]["code"] == "NO_RECORD"


def test_an_existing_record_is_adopted_and_never_deleted_by_us(world: World) -> None:
    [account] = world.org.seed("Account", [{"Name": "Acme", "External_Id__c": "A1"}])
    world.org.seed("Workspace__c", [{"Name": "theirs", "External_Id__c": "W1", "Account__c": account}])
    world.insert("crm.accounts", [("A1", "Acme", None, None)])
    world.insert("crm.workspaces", [("W1", "now ours to update", "Free", "A1"), ("W2", "ours", "Free", "A1")])
    reports = world.run_all()
    assert (reports["accounts"].counts.adopted, reports["workspaces"].counts.adopted) == (1, 1)
    world.sql("DELETE FROM crm.workspaces")
    counts = world.run("workspaces").counts
    assert (counts.removals_due, counts.removals_kept) == (1, 1)
    assert world.finish().removed == {"workspaces": 1}
    assert set(world.org.by_external_id("Workspace__c")) == {"W1"}


def test_removals_go_children_first_and_never_under_a_child(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, "removed": "delete"}, WORKSPACES, {**CONTACTS, "removed": "keep"})
    world.insert("crm.accounts", [("A1", "a", None, None), ("A2", "b", None, "A1"), ("A3", "c", None, None)])
    world.insert("crm.workspaces", [("W1", "w", "Free", "A2")])
    world.insert("crm.contacts", [("C1", "kept", None, "A3", None)])
    world.run_all()
    world.sql("DELETE FROM crm.workspaces", "DELETE FROM crm.accounts", "DELETE FROM crm.contacts")
    for name in ("accounts", "workspaces", "contacts"):
        world.run(name)
    assert len(world.org.records("Account")) == 3, "a sync's own step never deletes"
    report = world.finish()
    assert report.removed == {"workspaces": 1, "accounts": 2}
    assert report.kept_for_children == {"accounts": 1}
    assert set(world.org.by_external_id("Account")) == {"A3"}
    assert world.org.records("Workspace__c") == []
    assert world.ledger("accounts")["a3"]["state"] == "removal_due"
    logged = [(c["sync"], c["operation"]) for c in world.state("accounts", "changelog")]
    assert logged.count(("accounts", "removed")) == 2


def test_a_row_that_comes_back_before_finish_is_not_removed(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", None, None)])
    world.insert("crm.workspaces", [("W1", "w", "Free", "A1")])
    world.run_all()
    world.sql("DELETE FROM crm.workspaces")
    assert world.run("workspaces").counts.removals_due == 1
    world.insert("crm.workspaces", [("W1", "w", "Free", "A1")])
    assert world.run("workspaces").counts.updated == 1
    assert world.finish().removed == {}
    assert set(world.org.by_external_id("Workspace__c")) == {"W1"}


def test_a_record_deleted_in_the_org_is_gone_not_created_again(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", None, None), ("A2", "b", None, None)])
    world.run("accounts")
    world.org.remove("Account", world.org.by_external_id("Account")["A1"]["Id"])
    world.sql("UPDATE crm.accounts SET name = 'z'")
    report = world.run("accounts")
    assert (report.counts.updated, report.counts.rejected) == (1, 1)
    assert world.ledger("accounts")["a1"]["state"] == "gone"
    assert set(world.org.by_external_id("Account")) == {"A2"}


def test_sensitive_values_reach_the_org_and_nothing_else(world: World) -> None:
    world.insert("crm.contacts", [("C1", "x", "secret@example.com", None, None), ("C2", "y", "no-mail", None, None)])
    report = world.run("contacts")
    assert world.org.by_external_id("Contact")["C1"]["Email"] == "secret@example.com"
    [problem] = report.problems
    assert (problem.code, problem.values["Email"]) == ("INVALID_EMAIL_ADDRESS", "***")
    assert "no-mail" not in problem.message
    everywhere = str([world.state("contacts", t) for t in ("ledger", "runs", "changelog", "syncs")])
    everywhere += str(report) + str(world.lines)
    assert "secret@example.com" not in everywhere
    assert "no-mail" not in everywhere
    if world.on_duckdb:
        files = [p for p in (world.folder / "seqsync_state").iterdir() if "journal" in p.name]
        assert not any(b"no-mail" in p.read_bytes() for p in files)


def test_a_mapping_edit_is_a_named_full_resync(world: World) -> None:
    world.insert("crm.accounts", [(f"A{i}", f"n{i}", None, None) for i in range(10)])
    world.run("accounts")
    fields = {**ACCOUNTS["fields"], "Industry": {"constant": "Education"}}
    world.sequence = crm({**ACCOUNTS, "fields": fields})
    report = world.run("accounts")
    assert (report.counts.updated, report.resync_reason) == (10, "Industry was added to the mapping")
    assert world.org.by_external_id("Account")["A3"]["Industry"] == "Education"
    assert world.run("accounts").counts.planned == 0


def test_a_row_refused_too_often_is_quarantined_until_it_changes_or_is_named(world: World) -> None:
    world.sequence = crm(ACCOUNTS, errors={"quarantine_after": 2})
    world.insert("crm.accounts", [("A1", None, None, None), ("A2", "fine", None, None)])
    world.run("accounts")
    assert world.ledger("accounts")["a1"]["retry_at"] is not None
    world.run("accounts", RunOptions(only_keys=("A1",)))
    row = world.ledger("accounts")["a1"]
    assert (row["state"], row["attempts"], row["retry_at"]) == ("rejected", 2, None)
    world.sql("UPDATE crm.accounts SET name = 'better' WHERE account_id = 'A2'")
    report = world.run("accounts")
    assert (report.counts.updated, report.counts.waiting, report.verdict) == (1, 1, "partial")
    (problem,) = report.problems
    assert (problem.key, problem.code) == ("A1", "QUARANTINED")
    assert problem.message.startswith("refused 2 times; change the row, or requeue it")
    assert "Required fields are missing: [Name]" in problem.message
    assert world.run("accounts", RunOptions(only_keys=("A1",))).counts.rejected == 1
    assert world.ledger("accounts")["a1"]["attempts"] == 3
    world.sql("UPDATE crm.accounts SET name = 'mended' WHERE account_id = 'A1'")
    report = world.run("accounts")
    assert (report.counts.created, report.counts.waiting) == (1, 0)


def test_a_refused_row_whose_parent_has_gone_waits_whatever_else_changes_and_is_held_when_it_is_tried(
    world: World,
) -> None:
    fields = {"LastName": "last_name", "AccountId": {"parent": "accounts", "from": "account_id"}}
    world.sequence = crm({**ACCOUNTS, "removed": "delete"}, {**CONTACTS, "sensitive": [], "fields": fields})
    world.insert("crm.accounts", [("A1", "fine", None, None), ("A2", "fine", None, None)])
    world.insert("crm.contacts", [("C1", None, None, "A1", None), ("C2", "fine", None, "A2", None)])
    world.run("accounts")
    assert world.run("contacts").counts.rejected == 1
    world.sql("DELETE FROM crm.accounts WHERE account_id = 'A1'")
    world.run("accounts")
    assert dict(world.finish().removed) == {"accounts": 1}
    same = world.run("contacts").counts
    assert (same.waiting, same.held) == (1, 0), "nothing is compared row by row"
    world.sql("UPDATE crm.contacts SET last_name = 'better' WHERE contact_id = 'C2'")
    changed = world.run("contacts").counts
    assert (changed.updated, changed.waiting, changed.held) == (1, 1, 0)
    assert world.ledger("contacts")["c1"]["retry_at"] is not None, "its next try stands"
    assert world.run("contacts", RunOptions(requeue={"contacts": ["C1"]})).counts.held == 1


def test_a_row_that_only_met_a_lock_is_not_quarantined(world: World) -> None:
    world.sequence = crm(ACCOUNTS, errors={"quarantine_after": 1})
    world.insert("crm.accounts", [("A1", "fine", None, None)])
    world.org.fault("lock", "Account", times=100)
    world.run("accounts")
    world.org.clear_faults()
    assert world.ledger("accounts")["a1"]["retry_at"] is not None
    assert world.run("accounts").counts.created == 1
