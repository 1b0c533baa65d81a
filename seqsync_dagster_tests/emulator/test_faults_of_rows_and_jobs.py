"""What stands in the way of valid rows and healthy jobs: locks, rules of the org, limits, jobs that fail or crawl."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
import requests

from seqsync_dagster_tests.emulator_process import Api, EmulatorProcess

ACCOUNT = {"attributes": {"type": "Account"}}


def rows(api: Api, job_id: str, part: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(api.get(f"jobs/ingest/{job_id}/{part}").content.decode(), newline="")))


def switch_on(emulator: EmulatorProcess, **fault: Any) -> requests.Response:
    return requests.post(f"{emulator.url}/emulator/faults", json=fault, timeout=30)


def error(reply: requests.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()[0]["errorCode"]


def test_a_503_after_the_work_was_done(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    emulator.fault("503_after", "sobjects/Account")
    assert error(api.post("sobjects/Account", json={"Name": "x"})) == (503, "SERVER_UNAVAILABLE")
    assert [r["Name"] for r in emulator.records("Account")] == ["x"]


def test_a_token_that_expires_while_a_job_runs(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    emulator.settings(bulk_delay_s=3600)
    job_id = api.start_job("Name\nx\n", "insert", "Account")
    emulator.fault("expire", "jobs/ingest")
    assert [error(api.get(f"jobs/ingest/{job_id}")) for _ in range(2)] == [(401, "INVALID_SESSION_ID")] * 2
    assert emulator.login().get(f"jobs/ingest/{job_id}").ok


def test_spent_limits(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    emulator.settings(api_limit=3, api_calls=0)
    assert api.get("limits").json()["DailyApiRequests"] == {"Max": 3, "Remaining": 2}
    emulator.fault("limit")
    assert error(api.get("limits")) == (403, "REQUEST_LIMIT_EXCEEDED")
    third = api.get("limits")
    assert third.json()["DailyApiRequests"]["Remaining"] == 0
    assert third.headers["Sforce-Limit-Info"] == "api-usage=3/3"
    assert error(api.get("limits")) == (403, "REQUEST_LIMIT_EXCEEDED")
    assert requests.get(f"{emulator.url}/services/data", timeout=30).ok
    with pytest.raises(RuntimeError, match="no setting nonsense"):
        emulator.settings(nonsense=1)


def test_spent_batches_leave_rows_unprocessed(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    emulator.settings(bulk_batches_limit=1)
    job = api.run_job("Name\n" + "x\n" * 10_001, "insert", "Account")
    assert (job["state"], job["numberRecordsProcessed"]) == ("Failed", 10_000)
    assert job["errorMessage"] == "ExceededQuota : ApiBatchItems Limit exceeded."
    assert len(rows(api, job["id"], "unprocessedrecords")) == 1
    assert api.get("limits").json()["DailyBulkApiBatches"] == {"Max": 1, "Remaining": 0}


def test_a_job_that_fails_half_way(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    assert switch_on(emulator, fault="fail_job", path_contains="Account", rows=700).ok
    job = api.run_job("Name\n" + "".join(f"n{i}\n" for i in range(1000)), "insert", "Account")
    assert (job["state"], job["numberRecordsProcessed"]) == ("Failed", 700)
    assert job["errorMessage"].startswith("TooManyLockFailure : ")
    left = {r["Name"] for r in rows(api, job["id"], "unprocessedrecords")}
    done = {r["Name"] for r in rows(api, job["id"], "successfulResults")}
    assert (len(left), len(done)) == (300, 700) and not left & done
    assert api.run_job("Name\nx\n", "insert", "Account")["state"] == "JobComplete"


def test_a_slow_job(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    switch_on(emulator, fault="slow_job", path_contains="Account", rows=200)
    slow = api.start_job("Name\n" + "x\n" * 100_000, "insert", "Account")
    api.wait_for(slow, "InProgress")
    assert api.run_job("LastName\nx\n", "insert", "Contact")["state"] == "JobComplete"
    assert api.get(f"jobs/ingest/{slow}").json()["state"] == "InProgress"


def locked_rows(emulator: EmulatorProcess, seed: int) -> list[str]:
    emulator.reset()
    api = emulator.login()
    shared, own = emulator.seed("Account", [{"Name": "shared"}, {"Name": "own"}])
    switch_on(emulator, fault="contention", path_contains="Contact", rows=200, share=0.5, seed=seed)
    text = "LastName,AccountId\n" + "".join(f"n{i:03d},{own if i < 100 else shared}\n" for i in range(400))
    job = api.run_job(text, "insert", "Contact")
    failed = rows(api, job["id"], "failedResults")
    assert all(shared in r["sf__Error"] for r in failed)
    assert all(r["sf__Error"].startswith("UNABLE_TO_LOCK_ROW:unable to obtain exclusive access") for r in failed)
    return sorted(r["LastName"] for r in failed)


def test_batches_that_share_a_parent_lock_each_other_out(emulator: EmulatorProcess) -> None:
    locked = locked_rows(emulator, seed=1)
    # The second batch finds the parent of the first one's last rows taken; which rows suffer, the seed says.
    assert locked and all(name >= "n200" for name in locked)
    assert locked_rows(emulator, seed=1) == locked


def test_validation_rules(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    (kept,) = emulator.seed("Account", [{"Name": "old", "Phone": "000"}])
    rule = {"object": "account", "fields": ["Phone"], "matches": "^0", "message": "No zeros, please: ever"}
    assert switch_on(emulator, fault="validation_rule", **rule).ok
    refused = {"message": rule["message"], "errorCode": "FIELD_CUSTOM_VALIDATION_EXCEPTION", "fields": ["Phone"]}
    assert api.post("sobjects/Account", json={"Name": "x", "Phone": "01"}).json() == [refused]
    # A rule looks at the record as it would be, not at what is sent.
    assert api.patch(f"sobjects/Account/{kept}", json={"Name": "new"}).json() == [refused]
    assert api.patch(f"sobjects/Account/{kept}", json={"Phone": "1"}).status_code == 204
    job = api.run_job("Name,Phone\na,0\nb,1\n", "insert", "Account")
    (failed,) = rows(api, job["id"], "failedResults")
    assert failed["sf__Error"] == "FIELD_CUSTOM_VALIDATION_EXCEPTION:No zeros, please: ever:Phone --"
    emulator.clear_faults()
    assert api.post("sobjects/Account", json={"Name": "x", "Phone": "01"}).ok


def test_duplicate_rules(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    (known,) = emulator.seed("Account", [{"Name": "Acme"}])
    switch_on(emulator, fault="duplicate_rule", object="Account", fields=["Name"])
    refused = api.post("sobjects/Account", json={"Name": "ACME"})
    assert error(refused) == (400, "DUPLICATES_DETECTED")
    (body,) = refused.json()
    assert body["message"] == "Use one of these records?" and body["fields"] == []
    found = body["duplicateResult"]
    assert found["allowSave"] is True and found["duplicateRuleEntityType"] == "Account"
    assert found["matchResults"][0]["matchRecords"][0]["record"]["Id"] == known
    records = {"records": [{**ACCOUNT, "Name": "acme"}]}
    (row,) = api.post("composite/sobjects", json=records).json()
    assert row["errors"][0]["statusCode"] == "DUPLICATES_DETECTED" and row["errors"][0]["fields"] == []
    job = api.run_job("Name\nAcme\n", "insert", "Account")
    (failed,) = rows(api, job["id"], "failedResults")
    assert failed["sf__Error"] == "DUPLICATES_DETECTED:Use one of these records?:--"
    insist = {"Sforce-Duplicate-Rule-Header": "allowSave=true; includeRecordDetails=false"}
    assert api.post("composite/sobjects", json=records, headers=insist).json()[0]["success"]
    switch_on(emulator, fault="duplicate_rule", object="Account", fields=["Name"], block=True)
    assert not api.post("composite/sobjects", json=records, headers=insist).json()[0]["success"]
    # A record is no duplicate of itself, and one that keeps its values is not looked at again.
    assert api.patch(f"sobjects/Account/{known}", json={"Name": "Acme", "Phone": "1"}).status_code == 204


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "nonsense"},
        {"fault": "503", "nonsense": 1},
        {"fault": "validation_rule", "object": "Account", "fields": ["Nope"]},
        {"fault": "validation_rule", "object": "Account", "fields": ["Name"], "matches": "("},
    ],
)
def test_wrong_faults_are_refused(emulator: EmulatorProcess, fault: dict[str, Any]) -> None:
    assert error(switch_on(emulator, **fault)) == (400, "INVALID_INPUT")
