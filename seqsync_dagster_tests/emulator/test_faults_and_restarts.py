from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import requests

from seqsync_dagster_tests.emulator_process import Api, EmulatorProcess

UPSERT = "composite/sobjects/Account/External_Id__c"


def send(api: Api, key: str) -> requests.Response:
    record = {"attributes": {"type": "Account"}, "External_Id__c": key, "Name": key}
    return api.patch(UPSERT, json={"records": [record]})


def test_refusals(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    emulator.fault("503", "composite", times=2)
    emulator.fault("401", "limits")
    assert [send(api, "A1").status_code for _ in range(3)] == [503, 503, 200]
    assert [api.get("limits").status_code for _ in range(2)] == [401, 200]
    emulator.fault("503")
    emulator.clear_faults()
    assert api.get("limits").ok


@pytest.mark.parametrize(("kind", "done"), [("reset_before", 0), ("reset_after", 1)])
def test_lost_connections(emulator: EmulatorProcess, kind: str, done: int) -> None:
    api = emulator.login()
    emulator.fault(kind, "composite")
    with pytest.raises(requests.ConnectionError):
        send(api, "A1")
    assert len(emulator.records("Account")) == done
    assert send(api, "A1").json()[0]["created"] is not bool(done)


def test_a_lost_reply_to_an_upload_leaves_the_upload(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    job_id = api.post("jobs/ingest", json={"object": "Account", "operation": "insert"}).json()["id"]
    emulator.fault("reset_after", "/batches")
    with pytest.raises(requests.ConnectionError):
        api.put(f"jobs/ingest/{job_id}/batches", data=b"Name\nx\n")
    api.patch(f"jobs/ingest/{job_id}", json={"state": "UploadComplete"})
    assert api.wait_for(job_id)["numberRecordsProcessed"] == 1


def test_a_stopped_emulator_ends_well_and_keeps_everything(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    send(api, "A1")
    url, org = emulator.url, api.get("/services/oauth2/userinfo").json()["organization_id"]
    used = api.get("limits").json()["DailyApiRequests"]["Remaining"]
    assert emulator.stop() == 0
    emulator.start()
    assert emulator.url == url
    assert api.get("/services/oauth2/userinfo").json()["organization_id"] == org
    assert api.get("limits").json()["DailyApiRequests"]["Remaining"] < used
    assert [r["Name"] for r in emulator.records("Account")] == ["A1"]


def test_organization_id_can_be_given_once(tmp_path: Path) -> None:
    forced = EmulatorProcess(tmp_path / "forced.sqlite", "--org-id", "00D5g000000QzXv")
    assert forced.login().query("SELECT Id FROM Organization")[0]["Id"][:15] == "00D5g000000QzXv"
    forced.stop()
    with pytest.raises(RuntimeError):
        EmulatorProcess(forced.store, "--org-id", "00D5g000000AAAA")


def test_a_reset_leaves_an_org_as_new(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    org = api.query("SELECT Id FROM Organization")
    send(api, "A1")
    api.run_job("Name\nx\n", "insert", "Account")
    emulator.settings(bulk_delay_s=3600)
    unfinished = api.start_job("Name\nlong ago\n", "insert", "Account")
    emulator.fault("503")
    emulator.reset()
    assert api.get("limits").status_code == 401
    assert emulator.calls()["row_bearing"] == 0
    api = emulator.login()
    assert api.query("SELECT Id FROM Organization") == org
    assert emulator.records("Account") == []
    assert len(api.query("SELECT Id FROM User")) == 7
    assert api.get("jobs/ingest").json()["records"] == []
    # A job with the number of one that was at work does its own work.
    assert api.run_job("Name\nx\n", "insert", "Account")["numberRecordsProcessed"] == 1
    again = api.start_job("Name\nnow\n", "insert", "Account")
    assert again == unfinished
    assert api.wait_for(again)["state"] == "JobComplete"
    assert [r["Name"] for r in emulator.records("Account")] == ["x", "now"]


@pytest.mark.parametrize("kill", [False, True])
def test_a_job_goes_on_after_a_restart_and_repeats_nothing(emulator: EmulatorProcess, kill: bool) -> None:
    api = emulator.login()
    emulator.settings(bulk_rows_per_s=2000)
    sent = [f"A{i}" for i in range(3000)]
    # Inserts, so that a row that is written twice shows.
    job_id = api.start_job("BillingCity,Name\n" + "".join(f'{k},"two\nlines"\n' for k in sent), "insert", "Account")
    while not api.get(f"jobs/ingest/{job_id}").json()["numberRecordsProcessed"]:
        pass
    emulator.restart(kill=kill)
    job = api.wait_for(job_id)
    assert (job["state"], job["numberRecordsProcessed"], job["numberRecordsFailed"]) == ("JobComplete", 3000, 0)
    assert [r["BillingCity"] for r in emulator.records("Account")] == sent
    results = api.get(f"jobs/ingest/{job_id}/successfulResults").content.decode()
    ids = [r["sf__Id"] for r in csv.DictReader(io.StringIO(results, newline=""))]
    assert sorted(ids) == sorted(r["Id"] for r in emulator.records("Account"))
