"""The library that half the world uses, unmodified."""

from __future__ import annotations

from typing import Any

import simple_salesforce.api

from seqsync_dagster_tests.emulator_process import EmulatorProcess, Loopback


def test_query_describe_and_bulk2(emulator: EmulatorProcess) -> None:
    token = emulator.login().token["access_token"]
    sf: Any = simple_salesforce.api.Salesforce(
        instance_url=emulator.url, session_id=token, session=Loopback(emulator.url), version="64.0"
    )
    assert sf.describe()["maxBatchSize"] == 200
    assert sf.Account.describe()["keyPrefix"] == "001"
    records = [{"External_Id__c": f"A{i}", "Name": f"Näme {i}"} for i in range(3)]
    (summary,) = sf.bulk2.Account.upsert(records=records, external_id_field="External_Id__c", wait=1)
    assert (summary["numberRecordsProcessed"], summary["numberRecordsFailed"]) == (3, 0)
    assert sf.bulk2.Account.get_successful_records(summary["job_id"]).count("true") == 3
    found = sf.query_all("SELECT Id, Name, Owner.Name FROM Account ORDER BY Name")
    assert [r["Name"] for r in found["records"]] == ["Näme 0", "Näme 1", "Näme 2"]
    body = {"records": [{"attributes": {"type": "Account"}, "External_Id__c": "A0", "Name": "x"}]}
    (reply,) = sf.restful("composite/sobjects/Account/External_Id__c", method="PATCH", json=body)
    assert reply["success"] and not reply["created"]
