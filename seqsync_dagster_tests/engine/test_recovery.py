"""What was begun and not ended, and what changed meanwhile: nothing slips through."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.errors import DestinationError, GuardTripped, LedgerLost, StateError
from seqsync_dagster_tests.engine.world import ACCOUNTS, CONTACTS, WORKSPACES, World, crm


class Killed(Exception):
    """Stands for a kill at a place where nothing could react to it."""


def die(*_: Any, **__: Any) -> None:
    raise Killed


def killed_at(place: str, world: World, sync: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(f"seqsync_dagster.engine.run.{place}", die)
        with pytest.raises(Killed):
            world.run(sync)


def accounts(world: World, count: int = 100) -> None:
    world.insert("crm.accounts", [(f"A{i:03}", f"Account {i}", None, None) for i in range(count)])


def test_of_a_plan_that_was_half_written_nothing_stays_and_nothing_is_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqsync_dagster.warehouse.duckdb._PART_BYTES", 1)  # parts of 1,000 rows
    accounts(world, 2_500)

    with monkeypatch.context() as patched:
        patched.setattr("seqsync_dagster.engine.planning.count_plan", die)
        with pytest.raises(Killed):
            world.run("accounts")
    if world.on_duckdb:
        assert len(world.state("accounts", "plan")) >= 1_000
    killed_at("plan", world, "accounts", monkeypatch)
    with pytest.raises(DBAPIError, match="__plan"):
        world.state("accounts", "plan")
    assert world.org.records("Account") == []
    assert world.run("accounts").counts.created == 2_500


def killed_when_sent(world: World, sync: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The org has answered, and nobody has read it."""
    with monkeypatch.context() as patched:
        patched.setattr("seqsync_dagster.journal.Journal.record", die)
        patched.setattr("seqsync_dagster.engine.run._leave", die)
        with pytest.raises(Killed):
            world.run(sync)


def killed_in_recovery(world: World, sync: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("seqsync_dagster.engine.recover.settle_interrupted", die)
        with pytest.raises(Killed):
            world.run(sync)


@pytest.mark.parametrize("kills", [1, 2])
def test_an_update_that_may_have_been_made_goes_again_though_its_row_turned_back(
    world: World, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts(world, 3)
    world.run("accounts")
    world.sql("UPDATE crm.accounts SET name = 'new' WHERE account_id = 'A001'")
    killed_when_sent(world, "accounts", monkeypatch)
    assert "new" in {r["Name"] for r in world.org.records("Account")}
    world.sql("UPDATE crm.accounts SET name = 'Account 1' WHERE account_id = 'A001'")
    if kills == 2:
        killed_in_recovery(world, "accounts", monkeypatch)
    report = world.run("accounts")
    assert (report.counts.updated, report.counts.unchanged) == (1, 2)
    assert sorted(r["Name"] for r in world.org.records("Account")) == ["Account 0", "Account 1", "Account 2"]
    assert world.run("accounts").row_bearing_calls == 0


def test_an_update_whose_run_broke_off_before_its_reply_goes_again_though_its_row_turned_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts(world, 3)
    world.run("accounts")
    world.sql("UPDATE crm.accounts SET name = 'new' WHERE account_id = 'A001'")
    with monkeypatch.context() as patched:
        patched.setattr("seqsync_dagster.journal.Journal.record", die)
        with pytest.raises(Killed):
            world.run("accounts")
    world.sql("UPDATE crm.accounts SET name = 'Account 1' WHERE account_id = 'A001'")
    assert world.run("accounts").counts.updated == 1
    assert sorted(r["Name"] for r in world.org.records("Account")) == ["Account 0", "Account 1", "Account 2"]


def test_an_insert_of_unknown_fate_waits_for_a_person_though_its_recovery_was_killed_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.sequence = crm({**ACCOUNTS, "mode": "insert", "match": None, "fields": {"Name": "name"}})
    accounts(world, 3)
    killed_when_sent(world, "accounts", monkeypatch)
    killed_in_recovery(world, "accounts", monkeypatch)
    report = world.run("accounts")
    assert (report.counts.created, report.counts.waiting) == (0, 3)
    assert len(world.org.records("Account")) == 3


def test_rows_that_the_org_never_came_to_stay_as_they_were_acknowledged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.settings["collections_up_to"] = 0
    accounts(world, 3)
    world.run("accounts")
    world.sql("UPDATE crm.accounts SET name = 'new' WHERE account_id = 'A001'")
    with monkeypatch.context() as patched:
        patched.setattr("seqsync_dagster.destinations.salesforce.bulk_job.BulkJobs.close", die)
        patched.setattr("seqsync_dagster.engine.run._leave", die)
        with pytest.raises(Killed):
            world.run("accounts")
    world.sql("UPDATE crm.accounts SET name = 'Account 1' WHERE account_id = 'A001'")
    report = world.run("accounts")
    assert (report.counts.planned, report.counts.unchanged, report.row_bearing_calls) == (0, 3, 0)


def test_an_update_that_met_a_lock_to_the_last_goes_again_though_its_row_turned_back(world: World) -> None:
    accounts(world, 3)
    world.run("accounts")
    world.sql("UPDATE crm.accounts SET name = 'new' WHERE account_id = 'A001'")
    world.org.fault("lock", "Account", times=100)
    assert world.run("accounts").counts.rejected == 1
    world.org.clear_faults()
    world.sql("UPDATE crm.accounts SET name = 'Account 1' WHERE account_id = 'A001'")
    assert world.run("accounts").counts.updated == 1
    assert world.run("accounts").row_bearing_calls == 0


def test_a_record_that_may_have_been_filled_again_is_emptied_when_its_row_leaves_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.sequence = crm({**ACCOUNTS, "removed": "clear", "clear_fields": ["Website"]})
    accounts(world, 3)
    row = [("B1", "b", "https://b.example", None)]
    world.insert("crm.accounts", row)

    def website() -> str | None:
        return next(r["Website"] for r in world.org.records("Account") if r["Name"] == "b")

    world.run("accounts")
    for filled_by in (None, killed_when_sent):
        if filled_by is not None:
            world.insert("crm.accounts", row)
            filled_by(world, "accounts", monkeypatch)
        assert website() == "https://b.example"
        world.sql("DELETE FROM crm.accounts WHERE account_id = 'B1'")
        world.run("accounts")
        world.finish()
        assert website() is None


def test_results_that_do_not_add_up_do_not_stop_the_sync_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.settings["collections_up_to"] = 0
    accounts(world, 10)
    killed_when_sent(world, "accounts", monkeypatch)
    site = world.site()
    try:
        with site.warehouse.open("crm", "accounts") as room:
            room.connection.exec_driver_sql("DELETE FROM seqsync.crm__accounts__plan WHERE seq > 6")
            room.connection.commit()
    finally:
        site.warehouse.close()
    report = world.run("accounts")
    assert any("does not add up: 10 rows sent" in line for line in world.lines)
    assert (report.counts.planned, report.counts.unchanged) == (4, 6)
    assert len(world.org.records("Account")) == len(world.ledger("accounts")) == 10
    assert world.run("accounts").row_bearing_calls == 0


DELETING = {**ACCOUNTS, "removed": "delete"}


def test_a_plan_that_was_not_guarded_removes_nothing_after_a_kill(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.sequence = crm(DELETING)
    accounts(world)
    world.run("accounts")
    world.sql("DELETE FROM crm.accounts")
    killed_at("_carry_out", world, "accounts", monkeypatch)
    assert world.finish().removed == {}
    with pytest.raises(GuardTripped, match="max_removed: 100 of 100"):
        world.run("accounts")
    accounts(world)
    report = world.run("accounts")
    assert (report.counts.planned, report.counts.unchanged) == (0, 100)


def test_outcomes_of_a_killed_run_are_settled_and_its_departures_planned_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.sequence = crm(DELETING)
    accounts(world, 5)
    world.run("accounts")
    world.sql("DELETE FROM crm.accounts WHERE account_id = 'A004'", "UPDATE crm.accounts SET name = 'new'")
    killed_at("settle_completed", world, "accounts", monkeypatch)
    report = world.run("accounts")
    assert (report.counts.updated, report.counts.unchanged, report.counts.removals_due) == (0, 4, 1)
    assert world.finish().removed == {"accounts": 1}


def test_an_edit_of_the_yaml_between_a_kill_and_the_next_run_is_carried_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: dict[str, Any] = {"LastName": "last_name", "LeadSource": {"constant": "Old"}}
    world.sequence = crm(ACCOUNTS, {**CONTACTS, "fields": fields, "sensitive": []})
    world.insert("crm.accounts", [("A1", "a", None, None)])
    world.run("accounts")
    world.insert("crm.contacts", [("C1", "x", None, "A1", None)])
    killed_at("settle_completed", world, "contacts", monkeypatch)
    fields = {
        "LastName": "last_name",
        "LeadSource": {"constant": "New"},
        "AccountId": {"parent": "accounts", "from": "account_id"},
    }
    world.sequence = crm(ACCOUNTS, {**CONTACTS, "fields": fields, "sensitive": []})
    report = world.run("contacts")
    assert report.counts.updated == 1
    assert report.resync_reason == "LeadSource has another constant; AccountId was added to the mapping"
    record = world.org.by_external_id("Contact")["C1"]
    assert (record["LeadSource"], record["AccountId"]) == ("New", world.org.records("Account")[0]["Id"])


def test_a_lookup_added_while_rows_are_in_flight_does_not_stop_the_sync(world: World) -> None:
    plain = {**CONTACTS, "fields": {"LastName": "last_name"}, "sensitive": []}
    world.sequence = crm(ACCOUNTS, plain)
    world.settings["retry_wait_s"] = 0
    world.insert("crm.contacts", [("C1", "x", None, None, None)])
    world.org.fault("503", "composite/sobjects", 50)
    with pytest.raises(DestinationError):
        world.run("contacts")
    world.org.clear_faults()
    with_lookup = {"LastName": "last_name", "AccountId": {"parent": "accounts", "from": "account_id"}}
    world.sequence = crm(ACCOUNTS, {**plain, "fields": with_lookup, "removed": "delete"})
    assert world.finish().removed == {}
    assert world.run("contacts").counts.sent == 1
    assert len(world.org.records("Contact")) == 1


def test_values_of_a_send_that_cannot_be_asked_about_do_not_stay_in_the_plan(world: World) -> None:
    world.settings["retry_wait_s"] = 0
    world.insert("crm.contacts", [("C1", "x", "secret@example.com", None, None)])
    world.org.fault("503", "composite/sobjects", 50)
    with pytest.raises(DestinationError):
        world.run("contacts")
    world.org.clear_faults()
    assert world.ledger("contacts")["c1"]["state"] == "unresolved"
    with pytest.raises(Exception, match="crm__contacts__plan"):
        world.state("contacts", "plan")
    world.sql("DELETE FROM crm.contacts")
    world.run("contacts")
    assert world.ledger("contacts")["c1"]["state"] == "left", "its record may exist, so its trace is kept"


def test_a_refused_removal_of_a_sync_with_sensitive_columns_is_told(world: World) -> None:
    world.sequence = crm(ACCOUNTS, {**WORKSPACES, "sensitive": ["plan"]})
    world.insert("crm.accounts", [("A1", "a", None, None)])
    world.insert("crm.workspaces", [("W1", "w", "Free", "A1")])
    world.run_all()
    world.sql("DELETE FROM crm.workspaces")
    world.run("workspaces")
    world.org.fault("lock", "Workspace__c", 50)
    assert world.finish().rejected == {"workspaces": 1}
    world.org.clear_faults()
    assert world.finish().removed == {"workspaces": 1}


def test_a_partial_run_removes_nothing(world: World) -> None:
    world.sequence = crm(DELETING)
    accounts(world, 3)
    world.run("accounts")
    world.sql("DELETE FROM crm.accounts WHERE account_id = 'A000'")
    assert world.run("accounts", RunOptions(limit=1)).counts.removals_due == 0
    assert world.run("accounts", RunOptions(only_keys=("A001",))).counts.removals_due == 0
    assert world.run("accounts").counts.removals_due == 1
    site = world.site()
    from seqsync_dagster.engine.finish import run_finish

    partial = run_finish(site, RunOptions(limit=1), run_id="f", holder="f", log=world.lines.append)
    assert (partial.removed, len(world.org.records("Account"))) == ({}, 3)


def test_a_key_that_came_back_twice_is_not_removed(world: World) -> None:
    world.sequence = crm(DELETING)
    world.insert("crm.accounts", [("A1", "a", None, None), ("A2", "b", None, None)])
    world.run("accounts")
    world.sql("DELETE FROM crm.accounts WHERE account_id = 'A1'")
    world.run("accounts")
    world.insert("crm.accounts", [("A1", "a", None, None), ("a1", "again", None, None)])
    assert world.run("accounts").counts.invalid == 2
    assert world.finish().removed == {}
    world.sql("DELETE FROM crm.accounts WHERE account_id = 'a1'")
    assert world.run("accounts").counts.updated == 1


def test_only_keys_sees_that_two_rows_share_a_key(world: World) -> None:
    world.insert("crm.accounts", [("A1", "one", None, None), ("A2", "two", None, None)])
    world.run("accounts")
    world.insert("crm.accounts", [("a1", "impostor", None, None)])
    counts = world.run("accounts", RunOptions(only_keys=("A1", "A2"))).counts
    assert (counts.invalid, counts.planned, counts.unchanged) == (2, 0, 1)
    assert world.org.by_external_id("Account")["A1"]["Name"] == "one"


def test_only_keys_with_full_resync_sends_those_rows_again(world: World) -> None:
    accounts(world, 3)
    world.run("accounts")
    counts = world.run("accounts", RunOptions(only_keys=("A001",), full_resync=True)).counts
    assert counts.updated == 1


def test_exact_twins_of_an_acknowledged_row_are_invalid(world: World) -> None:
    world.insert("crm.accounts", [("A1", "one", None, None), ("A2", "two", None, None)])
    world.run("accounts")
    world.insert("crm.accounts", [("A1", "one", None, None)])
    report = world.run("accounts")
    assert (report.counts.invalid_duplicate, report.counts.unchanged, report.verdict) == (2, 1, "partial")
    assert world.run("accounts").counts.invalid_duplicate == 2


@pytest.mark.parametrize(
    ("before", "after", "expected"), [("ignore", "clear", None), ("clear", "ignore", "old.example")]
)
def test_an_edit_of_what_nulls_mean_is_carried_out(world: World, before: str, after: str, expected: str | None) -> None:
    def spec(nulls: str) -> dict[str, Any]:
        return {**ACCOUNTS, "fields": {"Name": "name", "Website": {"column": "website", "nulls": nulls}}}

    world.org.seed("Account", [{"Name": "a", "External_Id__c": "A1", "Website": "old.example"}])
    world.insert("crm.accounts", [("A1", "a", None, None)])
    world.sequence = crm(spec(before))
    world.run("accounts")
    if before == "clear":
        world.org.seed("Account", [{"Name": "b", "External_Id__c": "A2", "Website": "old.example"}])
        world.insert("crm.accounts", [("A2", "b", None, None)])
    world.sequence = crm(spec(after))
    world.run("accounts")
    key = "A1" if before == "ignore" else "A2"
    assert world.org.by_external_id("Account")[key]["Website"] == expected


def test_an_edit_of_if_missing_is_seen_by_rows_that_wait(world: World) -> None:
    def spec(policy: str) -> Any:
        lookup = {"parent": "accounts", "from": "account_id", "if_missing": policy}
        return crm(ACCOUNTS, {**CONTACTS, "sensitive": [], "fields": {"LastName": "last_name", "AccountId": lookup}})

    world.sequence = spec("hold")
    world.run("accounts")
    world.insert("crm.contacts", [("C1", "x", None, "A9", None)])
    assert world.run("contacts").counts.held == 1
    world.sequence = spec("send_empty")
    assert world.run("contacts").counts.created == 1
    world.insert("crm.accounts", [("A9", "late", None, None)])
    world.run("accounts")
    report = world.run("contacts")
    assert report.counts.updated == 1, "due because its parent arrived"
    assert world.org.by_external_id("Contact")["C1"]["AccountId"] == world.org.records("Account")[0]["Id"]
    assert world.run("contacts").counts.planned == 0


def test_a_parent_with_a_new_id_makes_its_children_due(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", None, None)])
    world.insert("crm.contacts", [("C1", "x", None, "A1", None)])
    world.run_all()
    first = world.org.by_external_id("Account")["A1"]["Id"]
    world.org.remove("Account", first)
    world.sql("UPDATE crm.accounts SET name = 'changed'")
    assert world.run("accounts").counts.rejected == 1
    assert world.ledger("accounts")["a1"]["state"] == "gone"
    quiet = world.run("accounts")
    assert (quiet.counts.planned, quiet.counts.waiting, quiet.verdict) == (0, 1, "partial")
    assert world.run("accounts", RunOptions(only_keys=("A1",))).counts.created == 1
    second = world.org.by_external_id("Account")["A1"]["Id"]
    assert second != first
    assert world.run("contacts").counts.updated == 1
    assert world.org.by_external_id("Contact")["C1"]["AccountId"] == second


def test_a_gone_record_is_not_forgotten_when_its_row_turns_back(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", None, None), ("A2", "b", None, None)])
    world.run("accounts")
    world.org.remove("Account", world.org.by_external_id("Account")["A1"]["Id"])
    world.sql("UPDATE crm.accounts SET name = 'z' WHERE account_id = 'A1'")
    world.run("accounts")
    world.sql("UPDATE crm.accounts SET name = 'a' WHERE account_id = 'A1'")
    report = world.run("accounts")
    assert (report.counts.unchanged, report.counts.waiting, report.verdict) == (1, 1, "partial")


def test_a_self_reference_goes_empty_where_the_yaml_says_so(world: World) -> None:
    parent = {"parent": "accounts", "from": "parent_id", "if_missing": "send_empty"}
    world.sequence = crm({**ACCOUNTS, "fields": {"Name": "name", "ParentId": parent}})
    world.insert("crm.accounts", [("A1", None, None, None), ("A2", "child", None, "A1"), ("A3", "x", None, "A2")])
    report = world.run("accounts")
    assert (report.counts.created, report.counts.rejected, report.counts.held) == (2, 1, 0)
    records = world.org.by_external_id("Account")
    assert records["A3"]["ParentId"] == records["A2"]["Id"]
    world.sql("UPDATE crm.accounts SET name = 'named' WHERE account_id = 'A1'")
    world.run("accounts")
    assert world.run("accounts").counts.updated == 1, "A2 gets the parent that arrived"
    records = world.org.by_external_id("Account")
    assert records["A2"]["ParentId"] == records["A1"]["Id"]


def test_rows_that_we_refuse_ourselves_do_not_redden_every_run(world: World) -> None:
    lookup = {"parent": "accounts", "from": "account_id", "if_missing": "reject"}
    fields = {"LastName": "last_name", "AccountId": lookup}
    world.sequence = crm(ACCOUNTS, {**CONTACTS, "fields": fields, "sensitive": []})
    world.run("accounts")
    world.insert("crm.contacts", [(f"C{i:02}", "x", None, None, None) for i in range(30)])
    world.insert("crm.contacts", [("C99", "x", None, "A9", None)])
    assert world.run("contacts").verdict == "partial"
    world.sql("DELETE FROM crm.contacts WHERE contact_id = 'C01'")
    report = world.run("contacts")
    assert (report.counts.rejected, report.counts.refused_again, report.verdict) == (1, 1, "partial")


def test_another_object_under_a_ledger_is_refused(world: World) -> None:
    accounts(world, 2)
    world.run("accounts")
    world.sequence = crm({**ACCOUNTS, "object": "Contact", "fields": {"LastName": "name"}})
    with pytest.raises(StateError, match="kept for object: Account, the YAML now says object: Contact"):
        world.run("accounts")


def test_a_lost_journal_does_not_lock_the_sync_out(world: World) -> None:
    if not world.on_duckdb:
        return
    for name in ("a", "b", "c", "d"):
        world.insert("crm.accounts", [(name, name, None, None)])
        world.run("accounts")
    for file in (world.folder / "seqsync_state").glob("journal.sqlite*"):
        file.unlink()
    assert world.run("accounts").counts.unchanged == 4
    world.insert("crm.accounts", [("e", "e", None, None)])
    assert world.run("accounts").counts.created == 1


def test_a_dropped_ledger_table_is_a_lost_ledger(world: World) -> None:
    if world.on_duckdb:
        return
    accounts(world, 2)
    world.run("accounts")
    world.sql("DROP TABLE seqsync.crm__accounts__ledger")
    with pytest.raises(LedgerLost):
        world.run("accounts")
    assert world.run("accounts", RunOptions(rebuild_ledger=True)).counts.adopted == 2


def test_a_sensitive_value_is_masked_as_the_destination_quotes_it(world: World) -> None:
    world.insert("crm.contacts", [("C1", "x", " alice\r\nsecret ", None, None), ("C2", "x", "  ", None, None)])
    report = world.run("contacts")
    assert report.counts.rejected == 1
    assert "secret" not in report.problems[0].message
    assert "***" in report.problems[0].message


def test_a_constant_that_was_sent_to_some_rows_only_is_taken_back_everywhere(world: World) -> None:
    def spec(constant: str) -> dict[str, Any]:
        return {**ACCOUNTS, "fields": {"Name": "name", "Website": {"constant": constant}}}

    world.insert("crm.accounts", [(f"A{i}", f"name {i}", None, None) for i in range(3)])
    world.sequence = crm(spec("old.example"))
    world.run("accounts")
    world.sequence = crm(spec("new.example"))
    assert world.run("accounts", RunOptions(limit=1)).counts.updated == 1
    world.sequence = crm(spec("old.example"))
    report = world.run("accounts")
    assert report.resync_reason == "rows were sent by a changed mapping, and not all of them"
    assert {r["Website"] for r in world.org.records("Account")} == {"old.example"}
    assert world.run("accounts").counts.planned == 0
