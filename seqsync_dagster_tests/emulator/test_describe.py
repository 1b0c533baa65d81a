"""What an object says of itself, as clients that check a mapping read it."""

from __future__ import annotations

from typing import Any

import pytest

from seqsync_dagster_tests.emulator_process import Api, EmulatorProcess


def fields(api: Api, obj: str) -> dict[str, dict[str, Any]]:
    return {f["name"]: f for f in api.get(f"sobjects/{obj}/describe").json()["fields"]}


def test_who_computes_counts_and_fixes_a_field_is_told(emulator: EmulatorProcess) -> None:
    found = fields(emulator.login(), "Subscription__c")
    assert [n for n, f in found.items() if f["calculated"]] == ["Annual_Amount__c"]
    assert [n for n, f in found.items() if f["autoNumber"]] == ["Name"]
    assert [n for n, f in found.items() if f["createable"] and not f["updateable"]] == ["Account__c"]
    assert not (found["Legacy_Code__c"]["createable"] or found["Legacy_Code__c"]["updateable"])
    assert (found["Amount__c"]["precision"], found["Amount__c"]["scale"]) == (10, 2)
    assert (found["Status__c"]["restrictedPicklist"], found["Channel__c"]["restrictedPicklist"]) == (True, False)
    assert (found["Batch__c"]["externalId"], found["Batch__c"]["unique"]) == (True, False)
    assert (found["Id"]["idLookup"], found["Id"]["defaultedOnCreate"], found["Id"]["nillable"]) == (True, True, False)


@pytest.mark.parametrize(
    ("obj", "lookup", "targets", "relationship"),
    [
        ("Account", "OwnerId", ["User"], "Owner"),
        ("Workspace__c", "OwnerId", ["Group", "User"], "Owner"),
        ("Workspace__c", "Account__c", ["Account"], "Account__r"),
        ("Task", "WhoId", ["Contact", "Lead"], "Who"),
        ("Task", "WhatId", ["Account", "Contract", "Subscription__c", "Workspace__c"], "What"),
    ],
)
def test_lookups_name_every_object_they_may_point_to(
    emulator: EmulatorProcess, obj: str, lookup: str, targets: list[str], relationship: str
) -> None:
    field = fields(emulator.login(), obj)[lookup]
    assert (field["referenceTo"], field["relationshipName"]) == (targets, relationship)
    assert field["polymorphicForeignKey"] is (len(targets) > 1)


def test_a_formula_and_a_number_follow_what_is_written(emulator: EmulatorProcess) -> None:
    (account,) = emulator.seed("Account", [{"Name": "a"}])
    emulator.seed("Subscription__c", [{"Account__c": account, "Amount__c": 12.5}, {"Account__c": account}])
    records = emulator.records("Subscription__c")
    assert [(r["Name"], r["Annual_Amount__c"]) for r in records] == [("SUB-000001", 150.0), ("SUB-000002", None)]


def test_a_polymorphic_lookup_takes_the_type_in_a_header(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    (contact,) = emulator.seed("Contact", [{"LastName": "c", "Email": "c@example.com"}])
    job = api.run_job("External_Id__c,Contact:Who.Email\nT1,c@example.com\n", "upsert", "Task")
    assert (job["state"], job["numberRecordsFailed"]) == ("JobComplete", 0)
    assert emulator.records("Task")[0]["WhoId"] == contact
    refused = api.run_job("External_Id__c,Account:Who.Name\nT1,c\n", "upsert", "Task")
    assert refused["state"] == "Failed"


def test_the_record_types_of_an_object_are_told(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    there = {r["Id"]: r for r in emulator.records("RecordType")}
    *own, master = api.get("sobjects/Account/describe").json()["recordTypeInfos"]
    assert [i["developerName"] for i in own] == ["Customer", "Partner"]
    assert {there[i["recordTypeId"]]["SobjectType"] for i in own} == {"Account"}
    assert (master["recordTypeId"], master["master"], master["available"]) == ("012000000000000AAA", True, True)
    assert [i["name"] for i in api.get("sobjects/Task/describe").json()["recordTypeInfos"]] == ["Master"]
