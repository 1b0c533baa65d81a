"""What somebody changed or deleted in the org is seen, told by field, and mended when asked for."""

from __future__ import annotations

from typing import Any

import pytest

from seqsync_dagster.engine import drift
from seqsync_dagster.engine.drift import check_drift
from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.engine.report import DriftReport
from seqsync_dagster.errors import LeaseHeld, LedgerLost, StateError
from seqsync_dagster.journal import Scope
from seqsync_dagster.warehouse.source import ModelSource
from seqsync_dagster_tests.emulator_process import Api
from seqsync_dagster_tests.engine.world import ACCOUNTS, CONTACTS, WORKSPACES, World, crm

DRIFT: dict[str, Any] = {"drift": {}}
HEAL: dict[str, Any] = {"drift": {"heal": True}}


def checked(world: World, sync: str, *, remembered: bool = False) -> DriftReport:
    """One drift check, in a process' own objects."""
    site = world.site()
    world.runs += 1
    source = ModelSource.of_table(world.sequence.sync(sync).table or "")
    try:
        return check_drift(
            site,
            sync,
            source,
            run_id=f"drift{world.runs}",
            holder=f"drift {world.runs}",
            remembered=remembered,
            log=world.lines.append,
        )
    finally:
        site.warehouse.close()
        site.journal.close()
        site.destination.close()


def edit(world: World, obj: str, key: str, **values: Any) -> None:
    """What a person does in the org."""
    record = world.org.by_external_id(obj)[key]["Id"]
    body = {"records": [{"attributes": {"type": obj}, "id": record, **values}]}
    [reply] = Api(world.org.url).patch("composite/sobjects", json=body).json()
    assert reply["success"], reply


def delete(world: World, obj: str, key: str) -> None:
    world.org.remove(obj, world.org.by_external_id(obj)[key]["Id"])


def test_changed_fields_are_counted_and_shown(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, **DRIFT}, {**WORKSPACES, **DRIFT})
    world.insert("crm.accounts", [(f"A{i}", f"name {i}", "acme.com", None) for i in range(5)])
    world.insert("crm.workspaces", [("W1", "w", "Free", "A1"), ("W2", "v", "Team", "A1")])
    world.run("accounts")
    world.run("workspaces")
    records = world.org.by_external_id("Account")
    edit(world, "Account", "A1", Name="renamed", Website="evil.example")
    edit(world, "Account", "A2", Name="renamed too", ParentId=records["A1"]["Id"])
    edit(world, "Account", "A3", Website=None)
    edit(world, "Workspace__c", "W2", Account__c=records["A4"]["Id"])
    before = {n: world.state("accounts", n) for n in ("ledger", "syncs", "changelog", "runs")}
    report = checked(world, "accounts")
    assert (report.checked, report.compared, report.changed, report.deleted) == (5, 5, 3, 0)
    assert dict(report.by_field) == {"Name": 2, "Website": 2, "ParentId": 1}
    shown = {(s.key, s.field): (s.expected, s.found) for s in report.samples}
    assert shown["A1", "Name"] == ("name 1", "renamed")
    assert shown["A3", "Website"] == ("acme.com", None)
    assert shown["A2", "ParentId"] == (None, records["A1"]["Id"][:15])
    assert {s.url for s in report.samples if s.key == "A1"} == {f"{world.org.url}/{records['A1']['Id']}"}
    assert report.summary == (
        "accounts: 5 records looked for, 5 of them compared: 3 changed and 0 deleted in the destination."
    )
    assert before == {n: world.state("accounts", n) for n in before}, "a check that does not heal writes nothing"
    assert dict(checked(world, "workspaces").by_field) == {"Account__c": 1}


def test_deleted_records_are_told_apart_from_changed_ones(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, **DRIFT})
    world.insert("crm.accounts", [("A1", "a", None, None), ("A2", "b", None, None)])
    world.run("accounts")
    gone = world.org.by_external_id("Account")["A1"]["Id"]
    delete(world, "Account", "A1")
    report = checked(world, "accounts")
    assert (report.checked, report.compared, report.changed, report.deleted) == (2, 1, 0, 1)
    [sample] = report.samples
    assert (sample.key, sample.field, sample.expected, sample.found) == ("A1", "", gone, "not there")
    assert world.ledger("accounts")["a1"]["state"] == "acknowledged"


def test_sensitive_values_are_masked(world: World) -> None:
    world.sequence = crm(ACCOUNTS, WORKSPACES, {**CONTACTS, **DRIFT})
    world.insert("crm.contacts", [("C1", "x", "secret@example.com", None, None)])
    world.run("contacts")
    edit(world, "Contact", "C1", Email="other@example.com", LastName="y")
    report = checked(world, "contacts")
    shown = {s.field: (s.expected, s.found) for s in report.samples}
    assert shown == {"Email": ("***", "***"), "LastName": ("x", "y")}
    assert "example.com" not in str(report) + str(world.lines)


MESSY = {
    "name": "messy",
    "table": "crm.messy",
    "key": "id",
    "object": "Account",
    "match": "External_Id__c",
    "fields": {
        "Name": "name",
        "Description": "notes",
        "Website": {"column": "website", "nulls": "ignore"},
        "NumberOfEmployees": "employees",
        "AnnualRevenue": "revenue",
        "Customer_Since__c": "since",
        "Last_Seen__c": "seen",
        "Active__c": "active",
        "Industry": {"constant": "Education"},
        "OwnerId": {"lookup": "User", "by": "Email", "from": "owner", "nulls": "ignore"},
    },
}
MESSY_TABLE = """
CREATE TABLE crm.messy (id text, name text, notes text, website text, employees bigint, revenue numeric(24, 6),
    since date, seen timestamptz, active boolean, owner text);
INSERT INTO crm.messy VALUES
 ('M1 ', ' Trailing blanks  ', 'two
lines', 'a.example', 7, 1234.565000, '2020-02-29', '2024-03-31 02:30:00.987+02', true, 'ana.kovac@example.com'),
 ('M2', 'Ünïcödé 日本 👍', '   ', NULL, 0, -0.005000, '1969-12-31', '1969-12-31 23:59:59.5+00', false, NULL),
 ('M3', 'nulls', NULL, '', NULL, NULL, NULL, NULL, false, NULL),
 ('M4', 'O''Brien "the" \\ & <b>', ' x ', 'b.example', 2147483647, 9999999999999999.99, '1700-01-01',
  '2262-01-01 00:00:00-11', true, NULL),
 ('M5', 'tiny', 'two  blanks', NULL, -1, 0.000001, '9999-12-31', '0999-12-31 23:59:59.999+00', true, NULL);
"""


def messy(world: World, **more: Any) -> None:
    world.sequence = crm({**MESSY, **DRIFT, **more})
    world.sql(MESSY_TABLE)


@pytest.mark.parametrize("bulk", [False, True])
def test_nothing_has_drifted_after_a_run_whatever_form_the_values_have(world: World, bulk: bool) -> None:
    world.settings["collections_up_to"] = 1 if bulk else 2000
    messy(world)
    assert world.run("messy").counts.created == 5
    report = checked(world, "messy")
    assert report.samples == ()
    assert (report.checked, report.compared, report.changed, report.deleted) == (5, 5, 0, 0)
    assert report.left_out == ("OwnerId",)
    assert report.summary.endswith("nothing drifted.")


def test_the_least_change_of_every_kind_of_value_shows(world: World) -> None:
    messy(world)
    world.run("messy")
    edit(world, "Account", "M1", Last_Seen__c="2024-03-31T00:30:01Z", AnnualRevenue=1234.56, NumberOfEmployees=8)
    edit(world, "Account", "M2", Active__c=True, Customer_Since__c="1970-01-01", Website="ignored.example")
    edit(world, "Account", "M3", Description="filled", Industry="Banking")
    edit(world, "Account", "M4", Name='o\'brien "the" \\ & <b>')
    fields = ("Last_Seen__c", "AnnualRevenue", "NumberOfEmployees", "Active__c", "Customer_Since__c")
    report = checked(world, "messy")
    assert dict(report.by_field) == dict.fromkeys([*fields, "Description", "Industry", "Name"], 1)
    assert report.changed == 4


def test_only_the_named_fields_are_compared(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, "drift": {"fields": "Website"}})
    world.insert("crm.accounts", [("A1", "a", "a.example", None)])
    world.run("accounts")
    edit(world, "Account", "A1", Name="renamed")
    report = checked(world, "accounts")
    assert (report.changed, report.left_out) == (0, ("Name", "ParentId"))
    edit(world, "Account", "A1", Website="b.example")
    assert dict(checked(world, "accounts").by_field) == {"Website": 1}


def test_rows_that_changed_since_are_looked_for_and_not_compared(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, **DRIFT})
    world.insert("crm.accounts", [("A1", "a", None, None), ("A2", "b", None, None), ("A3", "c", None, None)])
    world.run("accounts")
    world.sql("UPDATE crm.accounts SET name = 'new' WHERE account_id <> 'A3'")
    delete(world, "Account", "A2")
    report = checked(world, "accounts")
    assert (report.checked, report.compared, report.changed, report.deleted) == (3, 1, 0, 1)
    world.run("accounts")
    report = checked(world, "accounts")
    assert (report.checked, report.compared, report.changed, report.deleted) == (2, 2, 0, 0)


def test_heal_sends_the_drifted_rows_again_and_no_others(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, **HEAL})
    world.insert("crm.accounts", [(f"A{i}", f"name {i}", None, None) for i in range(6)])
    world.run("accounts")
    assert world.run("accounts").plan_id == "-"
    edit(world, "Account", "A1", Name="renamed")
    edit(world, "Account", "A2", Website="evil.example")
    delete(world, "Account", "A3")
    report = checked(world, "accounts")
    assert (report.changed, report.deleted, report.made_due, report.made_gone) == (2, 1, 2, 1)
    assert report.summary.endswith(
        "The next run sends 2 again. 1 are marked as gone: the next run looks for them once more, by match."
    )
    row = world.ledger("accounts")["a3"]
    assert (row["state"], row["dest_id"], row["fingerprint"], row["error_class"]) == ("gone", None, None, "gone")
    [logged] = [r for r in world.state("accounts", "changelog") if r["operation"] == "gone"]
    assert (logged["key"], logged["code"]) == ("a3", "RECORD_GONE")
    assert logged["previous_dest_id"]
    world.org.reset_calls()
    healed = world.run("accounts").counts
    assert (healed.planned, healed.updated, healed.unchanged, healed.waiting) == (2, 2, 3, 1)
    records = world.org.by_external_id("Account")
    assert set(records) == {"A0", "A1", "A2", "A4", "A5"}
    assert (records["A1"]["Name"], records["A2"]["Website"]) == ("name 1", None)
    again = checked(world, "accounts")
    assert (again.checked, again.changed, again.deleted) == (5, 0, 0)
    assert world.run("accounts").counts.planned == 0
    back = world.run("accounts", RunOptions(only_keys=("A3",)))
    assert back.counts.created == 1


def test_a_run_between_check_and_change_mends_only_what_it_sends(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, **HEAL})
    world.insert("crm.accounts", [("A1", "a", "a.example", None), ("A2", "b", "b.example", None)])
    world.run("accounts")
    edit(world, "Account", "A1", Website="evil.example")
    edit(world, "Account", "A2", Website="evil.example")
    world.sql("UPDATE crm.accounts SET name = 'c' WHERE account_id = 'A1'")
    assert world.run("accounts").counts.updated == 1
    report = checked(world, "accounts")
    assert [(s.key, s.found) for s in report.samples] == [("A2", "evil.example")]
    world.sql("UPDATE crm.accounts SET name = 'd' WHERE account_id = 'A2'")
    assert world.run("accounts").counts.updated == 1
    assert world.org.by_external_id("Account")["A2"]["Website"] == "b.example"


def test_records_out_of_sight_are_not_all_taken_for_gone(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, **HEAL}, guards={"max_removed": {"percent": 10, "min_rows": 1}})
    world.insert("crm.accounts", [(f"A{i}", "a", None, None) for i in range(4)])
    world.run("accounts")
    delete(world, "Account", "A0")
    delete(world, "Account", "A1")
    report = checked(world, "accounts")
    assert (report.deleted, report.made_gone) == (2, 0)
    assert "2 of 4 missing is more than the guard max_removed" in report.summary
    assert {r["state"] for r in world.ledger("accounts").values()} == {"acknowledged"}


def test_rows_that_are_the_same_to_the_letter_are_one_record(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, **DRIFT})
    world.insert("crm.accounts", [("A1", "a", None, None), ("A2", "b", None, None)])
    world.run("accounts")
    world.insert("crm.accounts", [("A1", "a", None, None)])
    edit(world, "Account", "A1", Name="renamed")
    report = checked(world, "accounts")
    assert (report.checked, report.changed) == (2, 1)


def test_records_are_read_page_by_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "PAGE", 300)
    world.sequence = crm({**ACCOUNTS, **DRIFT})
    world.insert("crm.accounts", [(f"A{i:04}", f"n{i}", None, None) for i in range(1000)])
    world.run("accounts")
    edit(world, "Account", "A0007", Name="x")
    edit(world, "Account", "A0990", Name="x")
    delete(world, "Account", "A0500")
    world.org.reset_calls()
    report = checked(world, "accounts")
    assert (report.checked, report.changed, report.deleted) == (1000, 2, 1)
    # Login, org, describe, four pages, and the missing one once more by its id.
    assert report.api_calls == world.org.calls()["total"] == 8


def test_more_records_than_are_laid_out_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqsync_dagster.warehouse.duckdb._PART_BYTES", 1)
    world.sequence = crm({**ACCOUNTS, **HEAL})
    world.insert("crm.accounts", [(f"A{i:04}", f"n{i}", None, None) for i in range(2500)])
    world.run("accounts")
    for key in ("A0001", "A1200", "A2499"):
        edit(world, "Account", key, Name="x")
    report = checked(world, "accounts")
    assert (report.checked, report.compared, report.changed, report.deleted) == (2500, 2500, 3, 0)
    assert world.run("accounts").counts.updated == 3


def test_few_records_of_ours_among_many_are_asked_for_by_id(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, **DRIFT})
    world.insert("crm.accounts", [(f"A{i:04}", f"n{i}", None, None) for i in range(150)])
    world.run("accounts", RunOptions(limit=75))
    world.org.seed("Account", [{"Name": f"not ours {i}"} for i in range(4100)])
    world.run("accounts")
    edit(world, "Account", "A0149", Name="x")
    report = checked(world, "accounts")
    assert (report.checked, report.changed, report.deleted) == (150, 1, 0)
    # Login, org, describe, one page in the order of ids, the others by id.
    assert report.api_calls == 5


def test_nothing_acknowledged_yet_is_nothing_drifted(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, **DRIFT})
    report = checked(world, "accounts")
    assert (report.checked, report.drifted, report.api_calls) == (0, 0, 0)
    assert report.summary == "accounts: nothing was acknowledged yet, so there is nothing to compare."
    with pytest.raises(LedgerLost, match="nobody can say what was acknowledged"):
        checked(world, "accounts", remembered=True)


def test_a_changed_mapping_cannot_be_compared(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, **DRIFT})
    world.insert("crm.accounts", [("A1", "a", None, None)])
    world.run("accounts")
    fields: dict[str, Any] = {**ACCOUNTS["fields"], "Industry": {"constant": "Education"}}  # type: ignore[dict-item]
    world.sequence = crm({**ACCOUNTS, **DRIFT, "fields": fields})
    with pytest.raises(StateError, match="Run the sync, then check again"):
        checked(world, "accounts")
    world.run("accounts")
    assert checked(world, "accounts").drifted == 0


def test_no_check_while_a_run_is_under_way(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, **DRIFT})
    world.insert("crm.accounts", [("A1", "a", None, None)])
    world.run("accounts")
    site = world.site()
    with site.journal.acquire(Scope("crm", "accounts"), "a run"), pytest.raises(LeaseHeld, match="a run"):
        checked(world, "accounts")
    site.journal.close()
    assert checked(world, "accounts").checked == 1
