"""The library that half the world uses, unmodified."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import simple_salesforce.api
from simple_salesforce.exceptions import SalesforceMalformedRequest, SalesforceMoreThanOneRecord

from seqsync_dagster_tests.emulator_process import EmulatorProcess, Loopback


@pytest.fixture
def sf(emulator: EmulatorProcess) -> Any:
    token = emulator.login().token["access_token"]
    return simple_salesforce.api.Salesforce(
        instance_url=emulator.url, session_id=token, session=Loopback(emulator.url), version="64.0"
    )


def test_describe_and_limits(sf: Any) -> None:
    assert sf.describe()["maxBatchSize"] == 200
    assert sf.Account.describe()["keyPrefix"] == "001"
    before = sf.limits()["DailyApiRequests"]["Remaining"]
    assert sf.limits()["DailyApiRequests"]["Remaining"] == before - 1
    assert sf.api_usage["api-usage"].total == 100_000


def test_single_records(sf: Any, emulator: EmulatorProcess) -> None:
    created = sf.Account.create({"Name": "One"})
    assert created["success"] and sf.Account.get(created["id"])["Name"] == "One"
    assert sf.Account.update(created["id"], {"External_Id__c": "A1"}) == 204
    assert sf.Account.upsert("External_Id__c/A1", {"Name": "Uno"}) == 200
    assert sf.Account.upsert("External_Id__c/A2", {"Name": "Two"}) == 201
    assert sf.Account.get_by_custom_id("External_Id__c", "A1")["Name"] == "Uno"
    assert sf.Account.delete(created["id"]) == 204
    with pytest.raises(SalesforceMalformedRequest, match="Required fields are missing"):
        sf.Account.create({})
    emulator.seed("Contact", [{"LastName": n, "Email": "a@example.com"} for n in "ab"])
    with pytest.raises(SalesforceMoreThanOneRecord):
        sf.Contact.get_by_custom_id("Email", "a@example.com")


def test_queries_and_their_pages(sf: Any, emulator: EmulatorProcess) -> None:
    ids = emulator.seed("Account", [{"Name": f"n{i:04d}"} for i in range(4500)])
    sf.Account.delete(ids[0])
    first = sf.query("SELECT Name FROM Account")
    assert (first["totalSize"], first["done"], len(first["records"])) == (4499, False, 2000)
    assert len(sf.query_more(first["nextRecordsUrl"], True)["records"]) == 2000
    every = sf.query_all("SELECT Name, Owner.Name FROM Account ORDER BY Name")
    assert [r["Name"] for r in every["records"]] == [f"n{i:04d}" for i in range(1, 4500)]
    assert sum(1 for _ in sf.query_all_iter("SELECT Id FROM Account", include_deleted=True)) == 4500


def test_bulk2(sf: Any, tmp_path: Path) -> None:
    records = [{"External_Id__c": f"A{i}", "Name": f"Näme {i}"} for i in range(3)]
    (summary,) = sf.bulk2.Account.upsert(records=records, external_id_field="External_Id__c", wait=0)
    assert (summary["numberRecordsProcessed"], summary["numberRecordsFailed"]) == (3, 0)
    assert sf.bulk2.Account.get_successful_records(summary["job_id"]).count("true") == 3
    (summary,) = sf.bulk2.Account.insert(records=[{"Name": "Four"}, {"Name": ""}], wait=0)
    assert "REQUIRED_FIELD_MISSING" in sf.bulk2.Account.get_failed_records(summary["job_id"])
    assert sf.bulk2.Account.get_unprocessed_records(summary["job_id"]).count("\n") == 1
    soql = "SELECT Id, Name FROM Account ORDER BY Name"
    pages = list(sf.bulk2.Account.query(soql, max_records=3, wait=0))
    assert [len(list(csv.DictReader(page.splitlines()))) for page in pages] == [3, 1]
    downloaded = sf.bulk2.Account.download(soql, path=str(tmp_path), wait=0)
    (file,) = [Path(part["file"]) for part in downloaded]
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    assert [r["Name"] for r in rows] == ["Four", "Näme 0", "Näme 1", "Näme 2"]
    (summary,) = sf.bulk2.Account.delete(records=[{"Id": r["Id"]} for r in rows], wait=0)
    assert (summary["numberRecordsProcessed"], summary["numberRecordsFailed"]) == (4, 0)
    assert sf.query("SELECT COUNT() FROM Account")["totalSize"] == 0


def test_collections(sf: Any, emulator: EmulatorProcess) -> None:
    emulator.seed("Account", [{"Name": "One", "External_Id__c": "A0"}])
    body = {"records": [{"attributes": {"type": "Account"}, "External_Id__c": "A0", "Name": "x"}]}
    (reply,) = sf.restful("composite/sobjects/Account/External_Id__c", method="PATCH", json=body)
    assert reply["success"] and not reply["created"]
