from __future__ import annotations

from typing import Any

import pytest

from seqsync_dagster_tests.emulator_process import Api, EmulatorProcess

ACCOUNT = {"attributes": {"type": "Account"}}


def upsert(api: Api, obj: str, *records: dict[str, Any], all_or_none: bool = False) -> list[dict[str, Any]]:
    body = {"allOrNone": all_or_none, "records": [{"attributes": {"type": obj}, **r} for r in records]}
    reply = api.patch(f"composite/sobjects/{obj}/External_Id__c", json=body)
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = reply.json()
    return found


def codes(replies: list[dict[str, Any]]) -> list[str | None]:
    return [r["errors"][0]["statusCode"] if r["errors"] else None for r in replies]


def test_insert_update_delete(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    records = [{**ACCOUNT, "Name": " One "}, {**ACCOUNT}, {**ACCOUNT, "Name": "Two", "Nope": 1}]
    created = api.post("composite/sobjects/", json={"allOrNone": False, "records": records}).json()
    assert list(created[0]) == ["id", "success", "errors"] and len(created[0]["id"]) == 18
    assert created[1] == {
        "success": False,
        "errors": [
            {
                "statusCode": "REQUIRED_FIELD_MISSING",
                "message": "Required fields are missing: [Name]",
                "fields": ["Name"],
            }
        ],
    }
    assert created[2]["errors"][0]["message"] == "No such column 'Nope' on sobject of type Account"
    one = created[0]["id"]
    missing = one[:14] + "9"
    updates = [
        {**ACCOUNT, "id": one[:15], "Website": "https://example.com", "Description": "two\nlines 🚀"},
        {**ACCOUNT, "Name": "no id"},
        {**ACCOUNT, "id": missing, "Name": "x"},
        {**ACCOUNT, "id": one, "Name": "x", "CreatedDate": "2020-01-01T00:00:00Z"},
    ]
    updated = api.patch("composite/sobjects", json={"records": updates}).json()
    assert updated[0] == {"id": one, "success": True, "errors": []}
    wanted = [None, "MISSING_ARGUMENT", "INVALID_CROSS_REFERENCE_KEY", "INVALID_FIELD_FOR_INSERT_UPDATE"]
    assert codes(updated) == wanted
    assert updated[1]["errors"][0]["message"] == "Id not specified in an update call"
    (record,) = emulator.records("Account")
    assert (record["Name"], record["Description"]) == ("One", "two\nlines 🚀")
    path = f"composite/sobjects?ids={one},{missing}&allOrNone=false"
    assert codes(api.delete(path).json()) == [None, "INVALID_CROSS_REFERENCE_KEY"]
    assert codes(api.delete(path).json()) == ["ENTITY_IS_DELETED", "INVALID_CROSS_REFERENCE_KEY"]
    assert codes(api.patch("composite/sobjects", json={"records": updates[:1]}).json()) == ["ENTITY_IS_DELETED"]


def test_upsert_matches_without_regard_to_case(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    (first,) = upsert(api, "Account", {"External_Id__c": "a1", "Name": "One", "Phone": "1"})
    assert list(first) == ["id", "success", "errors", "created"] and first["created"] is True
    second = upsert(
        api,
        "Account",
        {"External_Id__c": "A1", "Name": "Uno", "Phone": None},
        {"External_Id__c": "A2", "Name": "Two"},
        {"External_Id__c": "A2", "Name": "Two again"},
        {"External_Id__c": " ", "Name": "nothing"},
        {"External_Id__c": "A1", "Name": None},
    )
    assert second[0] == {"id": first["id"], "success": True, "errors": [], "created": False}
    assert codes(second) == [None, None, "DUPLICATE_VALUE", "MISSING_ARGUMENT", "DUPLICATE_VALUE"]
    assert second[2]["errors"][0]["message"] == "Duplicate external id specified: A2"
    records = {r["External_Id__c"]: r for r in emulator.records("Account")}
    assert (records["a1"]["Name"], records["a1"]["Phone"]) == ("Uno", None) and set(records) == {"a1", "A2"}
    (nulled,) = upsert(api, "Account", {"External_Id__c": "A1", "Name": None})
    assert codes([nulled]) == ["REQUIRED_FIELD_MISSING"]


def test_lookups_by_id_and_by_external_id(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    (account,) = emulator.seed("Account", [{"Name": "One", "External_Id__c": "A1"}])
    replies = upsert(
        api,
        "Workspace__c",
        {"External_Id__c": "W1", "Name": "w", "Account__c": account, "Plan__c": "Team", "Seats__c": 3},
        {"External_Id__c": "W2", "Name": "w", "Account__r": {"External_Id__c": "a1"}, "Mrr__c": 12345678901234.34},
        {"External_Id__c": "W3", "Name": "w", "Account__r": {"External_Id__c": "A9"}},
        {"External_Id__c": "W4", "Name": "w"},
        {"External_Id__c": "W5", "Name": "w", "Account__c": account, "Plan__c": "Gold"},
        {"External_Id__c": "W6", "Name": "w", "Account__c": account[:14] + "9"},
        {"External_Id__c": "W7", "Name": "w", "Account__c": account, "Seats__c": "many"},
        {"External_Id__c": "W8", "Name": "w", "Account__c": account, "OwnerId": None},
    )
    assert codes(replies) == [
        None, None, "INVALID_FIELD", "REQUIRED_FIELD_MISSING", "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST",
        "INVALID_CROSS_REFERENCE_KEY", "JSON_PARSER_ERROR", "INVALID_CROSS_REFERENCE_KEY",
    ]  # fmt: skip
    message = "Foreign key external ID: A9 not found for field External_Id__c in entity Account"
    assert replies[2]["errors"][0]["message"] == message
    found = api.get("query", params={"q": "SELECT External_Id__c, Account__c, Mrr__c FROM Workspace__c"})
    assert {r["Account__c"] for r in found.json()["records"]} == {account}
    assert "12345678901234.34" in found.text
    owners = [{"External_Id__c": "A1", "Owner": {"Email": "dana.levi@example.com"}}]
    assert codes(upsert(api, "Account", *owners)) == [None]
    (row,) = api.query("SELECT Owner.Name FROM Account")
    assert row["Owner"]["Name"] == "Dana Levi"


def test_unique_external_ids(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    one, two = emulator.seed("Account", [{"Name": n, "External_Id__c": n} for n in ("A1", "A2")])
    records = [
        {**ACCOUNT, "Name": "x", "External_Id__c": "a1"},
        *({**ACCOUNT, "Name": n, "External_Id__c": "N"} for n in "yz"),
    ]
    inserted = api.post("composite/sobjects", json={"records": records}).json()
    assert codes(inserted) == ["DUPLICATE_VALUE", None, "DUPLICATE_VALUE"]
    message = f"duplicate value found: External_Id__c duplicates value on record with id: {one[:15]}"
    assert inserted[0]["errors"][0]["message"] == message
    taken = {"records": [{**ACCOUNT, "id": two, "External_Id__c": "A1"}]}
    assert codes(api.patch("composite/sobjects", json=taken).json()) == ["DUPLICATE_VALUE"]
    emulator.remove("Account", one)
    assert codes(api.patch("composite/sobjects", json=taken).json()) == [None]


def test_email_finds_a_contact_unless_there_are_several(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    emulator.seed(
        "Contact", [{"LastName": n, "Email": e} for n, e in (("a", "a@x.io"), ("b", "b@x.io"), ("c", "B@x.io"))]
    )
    body = {
        "records": [{"attributes": {"type": "Contact"}, "Email": e, "LastName": "new"} for e in ("A@X.io", "b@x.io")]
    }
    replies = api.patch("composite/sobjects/Contact/Email", json=body).json()
    assert codes(replies) == [None, "DUPLICATE_EXTERNAL_ID"] and replies[0]["created"] is False


def test_upsert_by_record_id(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    (one,) = emulator.seed("Account", [{"Name": "One"}])
    body = {"records": [{**ACCOUNT, "Id": one, "Name": "Uno"}, {**ACCOUNT, "Id": None, "Name": "Two"}]}
    replies = api.patch("composite/sobjects/Account/Id", json=body).json()
    assert [(r["success"], r["created"]) for r in replies] == [(True, False), (True, True)]
    assert [r["Name"] for r in emulator.records("Account")] == ["Uno", "Two"]


def test_all_or_none(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    good, bad = {"External_Id__c": "A1", "Name": "x"}, {"External_Id__c": "A2"}
    replies = upsert(api, "Account", good, bad, all_or_none=True)
    assert codes(replies) == ["ALL_OR_NONE_OPERATION_ROLLED_BACK", "REQUIRED_FIELD_MISSING"]
    assert replies[0]["created"] is True and "id" not in replies[0]
    assert emulator.records("Account") == []
    assert codes(upsert(api, "Account", good, all_or_none=True)) == [None]


def test_deleting_parents(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    held, free = emulator.seed("Account", [{"Name": "held"}, {"Name": "free"}])
    (workspace,) = emulator.seed("Workspace__c", [{"Name": "w", "Account__c": held}])
    emulator.seed("Contact", [{"LastName": "c", "AccountId": free}])
    assert codes(api.delete(f"composite/sobjects?ids={held},{free}").json()) == ["DELETE_FAILED", None]
    assert emulator.records("Contact")[0]["AccountId"] is None
    assert codes(api.delete(f"composite/sobjects?ids={workspace},{held}").json()) == [None, None]


@pytest.mark.parametrize(("count", "code"), [(0, "REQUIRED_FIELD_MISSING"), (201, "EXCEEDED_ID_LIMIT")])
def test_sizes(api: Api, count: int, code: str) -> None:
    reply = api.post("composite/sobjects", json={"records": [{**ACCOUNT, "Name": "x"}] * count})
    assert (reply.status_code, reply.json()[0]["errorCode"]) == (400, code)


def test_wrong_calls(api: Api) -> None:
    reply = api.patch("composite/sobjects/Account/Website", json={"records": [{**ACCOUNT, "Name": "x"}]})
    assert (reply.status_code, reply.json()[0]["errorCode"]) == (404, "NOT_FOUND")
    reply = api.post("composite/sobjects", data=b"{not json")
    assert (reply.status_code, reply.json()[0]["errorCode"]) == (400, "JSON_PARSER_ERROR")


def test_locked_rows(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    emulator.fault("lock", "Account", times=2)
    records = [{"External_Id__c": f"A{i}", "Name": "x"} for i in range(3)]
    assert codes(upsert(api, "Account", *records)) == ["UNABLE_TO_LOCK_ROW", "UNABLE_TO_LOCK_ROW", None]
    assert codes(upsert(api, "Account", *records)) == [None, None, None]
