"""Single records, what deletion takes along, the recycle bin, and merges."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from seqsync_dagster_tests.emulator_process import Api, EmulatorProcess


def error(reply: requests.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()[0]["errorCode"]


def everything(api: Api, soql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get("queryAll", params={"q": soql}).json()["records"]
    return found


def merge(emulator: EmulatorProcess, master: str, *losers: str) -> requests.Response:
    body = {"object": "Account", "master": master, "losers": losers}
    return requests.post(f"{emulator.url}/emulator/merge", json=body, timeout=30)


def test_create_read_update_delete(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    created = api.post("sobjects/Account/", json={"Name": "One", "AnnualRevenue": 12.5})
    assert created.status_code == 201 and created.json()["success"] is True and created.json()["errors"] == []
    here = f"sobjects/Account/{created.json()['id']}"
    record = api.get(here).json()
    assert (record["Name"], record["AnnualRevenue"], record["IsDeleted"]) == ("One", 12.5, False)
    assert record["attributes"] == {"type": "Account", "url": f"/services/data/v64.0/{here}"}
    assert list(api.get(here, params={"fields": "Name,Phone"}).json()) == ["attributes", "Name", "Phone"]
    updated = api.patch(here, json={"Phone": "1", "Owner": {"Email": "dana.levi@example.com"}})
    assert (updated.status_code, updated.content) == (204, b"")
    missing = api.post("sobjects/Account", json={})
    assert missing.json() == [
        {
            "message": "Required fields are missing: [Name]",
            "errorCode": "REQUIRED_FIELD_MISSING",
            "fields": ["Name"],
        }
    ]
    assert error(api.patch(here, json={"Nope": 1})) == (400, "INVALID_FIELD")
    assert error(api.patch(here, json={"Id": created.json()["id"]})) == (400, "INVALID_FIELD")
    assert error(api.get("sobjects/Nope/1")) == (404, "NOT_FOUND")
    assert (api.delete(here).status_code, api.get(here).status_code) == (204, 404)
    assert error(api.delete(here)) == error(api.patch(here, json={"Name": "x"})) == (404, "ENTITY_IS_DELETED")
    assert error(api.delete(f"{here[:-4]}9")) == (404, "NOT_FOUND")


def test_by_external_id(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    here = "sobjects/Account/External_Id__c/A%2F1%20%C3%A9"
    created = api.patch(here, json={"Name": "One"})
    assert (created.status_code, created.json()["created"]) == (201, True)
    again = api.patch(here, json={"Name": "Uno"})
    assert (again.status_code, again.json()["created"], again.json()["id"]) == (200, False, created.json()["id"])
    old = f"/services/data/v45.0/{here}"
    assert api.patch(old, json={"Name": "Uno"}).status_code == 204
    record = api.get(here).json()
    assert (record["Name"], record["External_Id__c"]) == ("Uno", "A/1 é")
    assert error(api.patch(here, json={"External_Id__c": "x"})) == (400, "INVALID_FIELD")
    fresh = api.patch("sobjects/Account/External_Id__c/A2?updateOnly=true", json={"Name": "x"})
    assert error(fresh) == (404, "NOT_FOUND")
    unknown = api.patch("sobjects/Account/Website/x", json={"Name": "x"})
    assert unknown.json()[0]["message"] == "Provided external ID field does not exist or is not accessible: Website"
    assert api.delete(here).status_code == 204 and api.get(here).status_code == 404


def test_a_key_of_several_records_is_answered_with_their_addresses(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    ids = emulator.seed("Contact", [{"LastName": n, "Email": "a@example.com"} for n in "ab"])
    several = api.patch("sobjects/Contact/Email/a@example.com", json={"LastName": "x"})
    assert several.status_code == 300
    assert several.json() == [f"/services/data/v64.0/sobjects/Contact/{i}" for i in ids]


def test_details_go_with_their_master(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    master, held = emulator.seed("Account", [{"Name": "master"}, {"Name": "held"}])
    other, detail = emulator.seed("Subscription__c", [{"Account__c": held}, {"Account__c": master}])
    emulator.seed("Contact", [{"LastName": "c", "AccountId": master}])
    emulator.seed("Workspace__c", [{"Name": "w", "Account__c": held}])
    # A child that is merely required keeps its parent, and its parent's details with it.
    replies = api.delete(f"composite/sobjects?ids={master},{held}").json()
    assert [r["success"] for r in replies] == [True, False]
    assert [r["Id"] for r in emulator.records("Subscription__c")] == [other]
    assert emulator.records("Contact")[0]["AccountId"] is None
    binned = everything(api, "SELECT Id, IsDeleted FROM Subscription__c WHERE IsDeleted = true")
    assert [r["Id"] for r in binned] == [detail]
    assert api.query("SELECT Id FROM Subscription__c WHERE IsDeleted = true") == []
    assert error(api.patch(f"sobjects/Subscription__c/{detail}", json={"Status__c": "Trial"}))[0] == 404


def test_a_detail_stays_with_its_master(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    master, other = emulator.seed("Account", [{"Name": "a"}, {"Name": "b"}])
    (detail,) = emulator.seed("Subscription__c", [{"Account__c": master}])
    moved = api.patch(f"sobjects/Subscription__c/{detail}", json={"Account__c": other})
    assert error(moved) == (400, "INVALID_FIELD_FOR_INSERT_UPDATE")
    assert error(api.post("sobjects/Subscription__c", json={})) == (400, "REQUIRED_FIELD_MISSING")


def test_a_merge(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    master, loser, bystander = emulator.seed(
        "Account", [{"Name": n, "External_Id__c": n} for n in ("master", "loser", "bystander")]
    )
    emulator.seed("Contact", [{"LastName": "c", "AccountId": loser}])
    emulator.seed("Account", [{"Name": "child", "ParentId": loser}])
    assert merge(emulator, master, loser).ok
    assert emulator.records("Contact")[0]["AccountId"] == master
    assert {r["Name"]: r["ParentId"] for r in emulator.records("Account")} == {
        "master": None, "bystander": None, "child": master,
    }  # fmt: skip
    (gone,) = everything(api, "SELECT Id, MasterRecordId FROM Account WHERE MasterRecordId != null")
    assert (gone["Id"], gone["MasterRecordId"]) == (loser, master)
    assert error(api.patch(f"sobjects/Account/{loser}", json={"Name": "x"})) == (404, "ENTITY_IS_DELETED")
    assert error(merge(emulator, master, loser)) == error(merge(emulator, bystander)) == (400, "INVALID_INPUT")
    # Its external id names nobody now: an upsert makes the record again.
    assert api.patch("sobjects/Account/External_Id__c/loser", json={"Name": "again"}).status_code == 201


@pytest.mark.parametrize("objects", ["Account,Contact,Nope", ""])
def test_record_counts(emulator: EmulatorProcess, objects: str) -> None:
    api = emulator.login()
    emulator.seed("Account", [{"Name": "a"}, {"Name": "b"}])
    counts = api.get("limits/recordCount", params={"sObjects": objects} if objects else {}).json()["sObjects"]
    assert {"count": 2, "name": "Account"} in counts
    assert objects == "" or len(counts) == 1
