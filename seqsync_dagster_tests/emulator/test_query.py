from __future__ import annotations

import pytest

from seqsync_dagster_tests.emulator_process import Api, EmulatorProcess


@pytest.fixture(scope="module", autouse=True)
def records(module_emulator: EmulatorProcess) -> None:
    (first,) = module_emulator.seed(
        "Account", [{"Name": "O'Brien \\ Söhne", "External_Id__c": "A1", "AnnualRevenue": 1000, "Active__c": True}]
    )
    module_emulator.seed(
        "Account",
        [
            {"Name": "100% Cotton", "External_Id__c": "A2", "ParentId": first, "AnnualRevenue": 9},
            {"Name": "100 Cotton", "External_Id__c": "A3", "Last_Seen__c": "2024-05-01T10:00:00Z"},
            {"Name": "beta", "External_Id__c": "b4", "Industry": "Retail", "Customer_Since__c": "2020-01-01"},
        ],
    )


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("External_Id__c = 'a1'", "A1"),
        ("Name = 'o\\'brien \\\\ Söhne'", "A1"),
        ("External_Id__c IN ('B4', 'A2', 'nope')", "A2 b4"),
        ("External_Id__c NOT IN ('B4', 'A2')", "A1 A3"),
        ("Industry != 'Retail'", "A1 A2 A3"),
        ("Industry = null", "A1 A2 A3"),
        ("Industry != null", "b4"),
        ("Name LIKE '100%'", "A2 A3"),
        ("Name LIKE '100\\%%'", "A2"),
        ("AnnualRevenue > 9.5", "A1"),
        ("AnnualRevenue <= 9", "A2"),
        ("Active__c = TRUE", "A1"),
        ("NOT Active__c = true", "A2 A3 b4"),
        ("Last_Seen__c >= 2024-05-01T12:00:00+02:00", "A3"),
        ("Customer_Since__c < 2020-01-02", "b4"),
        ("Parent.External_Id__c = 'A1'", "A2"),
        ("(Active__c = true OR Industry = 'Retail') AND Name != 'beta'", "A1"),
        ("Owner.Email = 'integration.user@example.com' AND ParentId != null", "A2"),
        ("CreatedDate = TODAY AND Customer_Since__c < TODAY", "b4"),
        ("CreatedDate = last_n_days:2 AND CreatedDate > YESTERDAY AND Name LIKE 'b%'", "b4"),
        ("CreatedDate < YESTERDAY OR CreatedDate >= TOMORROW OR CreatedDate != TODAY", ""),
        ("Name = 'x' OR NOT (External_Id__c = 'A1' AND Active__c = true)", "A2 A3 b4"),
    ],
)
def test_where(api: Api, where: str, found: str) -> None:
    rows = api.query(f"SELECT Id, External_Id__c FROM Account WHERE {where} ORDER BY External_Id__c")
    assert [row["External_Id__c"] for row in rows] == found.split()


def test_record_as_it_is_written(api: Api) -> None:
    (row,) = api.query(
        "SELECT Id, AnnualRevenue, Last_Seen__c, Parent.Name, Owner.Email, Parent.External_Id__c, Active__c "
        "FROM Account WHERE External_Id__c = 'A2'"
    )
    assert row["attributes"] == {"type": "Account", "url": f"/services/data/v64.0/sobjects/Account/{row['Id']}"}
    assert row["Parent"]["External_Id__c"] == "A1" and row["Parent"]["attributes"]["type"] == "Account"
    assert row["Owner"]["Email"] == "integration.user@example.com"
    assert (row["AnnualRevenue"], row["Last_Seen__c"], row["Active__c"]) == (9.0, None, False)
    (orphan,) = api.query("SELECT Parent.Name, Last_Seen__c FROM Account WHERE External_Id__c = 'A3'")
    assert orphan["Parent"] is None and orphan["Last_Seen__c"] == "2024-05-01T10:00:00.000+0000"


def test_order_limit_offset_and_ids(api: Api) -> None:
    soql = "SELECT Id FROM Account ORDER BY AnnualRevenue DESC NULLS LAST LIMIT 1 OFFSET 1"
    (row,) = api.query(soql)
    (again,) = api.query(f"SELECT External_Id__c FROM Account WHERE Id IN ('{row['Id'][:15]}', '{row['Id']}')")
    assert again["External_Id__c"] == "A2"


def test_counts(api: Api) -> None:
    reply = api.get("query/", params={"q": "SELECT COUNT() FROM Account"}).json()
    assert reply == {"totalSize": 4, "done": True, "records": []}
    (row,) = api.query("select count(Id) from Account where Industry = null")
    assert row == {"attributes": {"type": "AggregateResult"}, "expr0": 3}


def test_deleted_records(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    first, *_ = emulator.seed("Account", [{"Name": f"n{i}"} for i in range(300)])
    api.delete(f"sobjects/Account/{first}")
    soql = {"q": "SELECT Id, IsDeleted FROM Account"}
    assert api.get("query", params=soql).json()["totalSize"] == 299
    page = api.get("queryAll", params=soql, headers={"Sforce-Query-Options": "batchSize=200"}).json()
    assert (page["totalSize"], page["records"][0]["IsDeleted"]) == (300, True)
    assert "/queryAll/" in page["nextRecordsUrl"] and len(api.get(page["nextRecordsUrl"]).json()["records"]) == 100


def test_users_and_pages(api: Api, module_emulator: EmulatorProcess) -> None:
    emails = {row["Email"] for row in api.query("SELECT Email FROM User WHERE IsActive = true")}
    assert len(emails) == 6 and "ana.kovac@example.com" in emails
    (account, *_) = api.query("SELECT Id FROM Account LIMIT 1")
    module_emulator.seed("Contact", [{"LastName": f"N{i}", "AccountId": account["Id"]} for i in range(450)])
    options = {"Sforce-Query-Options": "batchSize=200"}
    first = api.get("query", params={"q": "SELECT Name FROM Contact"}, headers=options).json()
    assert (first["totalSize"], first["done"], len(first["records"])) == (450, False, 200)
    second = api.get(first["nextRecordsUrl"], headers=options).json()
    third = api.get(second["nextRecordsUrl"], headers=options).json()
    assert third["done"] and "nextRecordsUrl" not in third
    pages = (first, second, third)
    assert [r["Name"] for page in pages for r in page["records"]] == [f"N{i}" for i in range(450)]


@pytest.mark.parametrize(
    ("soql", "code"),
    [
        ("SELECT Id FROM Xyzzy", "INVALID_TYPE"),
        ("SELECT Nope FROM Account", "INVALID_FIELD"),
        ("SELECT Nope.Id FROM Account", "INVALID_FIELD"),
        ("SELECT Id FROM Account WHERE Name = 5", "INVALID_FIELD"),
        ("SELECT Id FROM Account WHERE AnnualRevenue = '5'", "INVALID_FIELD"),
        ("SELECT Id FROM Account WHERE Id = 'zzz'", "INVALID_QUERY_FILTER_OPERATOR"),
        ("SELECT Id Account", "MALFORMED_QUERY"),
        ("SELECT Id FROM Account WHERE", "MALFORMED_QUERY"),
        ("SELECT Id FROM Account WHERE Name = 'x", "MALFORMED_QUERY"),
        ("SELECT Id FROM Account extra words", "MALFORMED_QUERY"),
    ],
)
def test_wrong_queries(api: Api, soql: str, code: str) -> None:
    reply = api.get("query", params={"q": soql})
    assert (reply.status_code, reply.json()[0]["errorCode"]) == (400, code)
