from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator

import pytest
import requests

from seqsync_dagster_tests.emulator_process import Api, EmulatorProcess

ACCOUNTS = "External_Id__c,Name\n"


def rows(api: Api, job_id: str, part: str) -> list[dict[str, str]]:
    reply = api.get(f"jobs/ingest/{job_id}/{part}")
    assert reply.headers["content-type"] == "text/csv"
    return list(csv.DictReader(io.StringIO(reply.content.decode(), newline="")))


def error(reply: requests.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()[0]["errorCode"]


def test_job_as_its_states_show_it(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    emulator.settings(bulk_delay_s=3600)
    body = {"object": "account", "operation": "upsert", "externalIdFieldName": "external_id__c"}
    created = api.post("jobs/ingest/", json=body)
    assert created.status_code == 200 and '"apiVersion":64.0' in created.text
    job = created.json()
    assert list(job) == [
        "id", "operation", "object", "createdById", "createdDate", "systemModstamp", "state", "externalIdFieldName",
        "concurrencyMode", "contentType", "apiVersion", "contentUrl", "lineEnding", "columnDelimiter",
    ]  # fmt: skip
    assert job["contentUrl"] == f"services/data/v64.0/jobs/ingest/{job['id']}/batches"
    assert job["createdDate"].endswith("+0000") and job["object"] == "Account"
    here = f"jobs/ingest/{job['id']}"
    assert "numberRecordsProcessed" not in api.get(here).json()

    def chunks() -> Iterator[bytes]:
        yield ACCOUNTS.encode()
        yield b"A1,One\n"

    assert api.put(f"{here}/batches/", data=chunks(), headers={"Content-Type": "text/csv"}).status_code == 201
    assert list(api.get(here).json())[-6:] == [
        "numberRecordsProcessed", "numberRecordsFailed", "retries", "totalProcessingTime", "apiActiveProcessingTime",
        "apexProcessingTime",
    ]  # fmt: skip
    again = api.put(f"{here}/batches", data=b"x")
    assert again.status_code == 400 and "Found multiple contents for job" in again.json()[0]["message"]
    patched = api.patch(here, json={"state": "UploadComplete"}).json()
    assert list(patched)[-1] == "apiVersion" and patched["state"] == "UploadComplete"
    assert error(api.patch(here, json={"state": "UploadComplete"})) == (400, "INVALIDJOBSTATE")
    emulator.settings(bulk_delay_s=0)
    done = api.wait_for(job["id"])
    assert (done["state"], done["numberRecordsProcessed"], "contentUrl" in done) == ("JobComplete", 1, False)
    assert job["id"] in [j["id"] for j in api.get("jobs/ingest").json()["records"]]
    assert api.delete(here).status_code == 204
    assert error(api.get(here)) == (404, "NOT_FOUND")


def test_row_results(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    (known,) = emulator.seed("Account", [{"Name": "Old", "External_Id__c": "A1", "Phone": "1", "Website": "w"}])
    text = (
        '"External_Id__c",name,AnnualRevenue,Phone,Website,Last_Seen__c\n'
        'a1,"Néw, 🚀\nsecond ""line""",912260031,#N/A,,\n'
        "A2,Two,800,,,2024-01-01T00:00:00.000Z\n"
        "A3,,5,,,\n"
        "A4,Four,5,,,yesterday\n"
        ",Five,5,,,\n"
    )
    job = api.run_job(text, "upsert", "Account")
    assert (job["state"], job["numberRecordsProcessed"], job["numberRecordsFailed"]) == ("JobComplete", 5, 3)
    reply = api.get(f"jobs/ingest/{job['id']}/successfulResults/").content.decode()
    assert reply.startswith('"sf__Id","sf__Created","External_Id__c",name,AnnualRevenue,Phone')
    succeeded = {r["External_Id__c"]: r for r in rows(api, job["id"], "successfulResults")}
    assert (succeeded["a1"]["sf__Id"], succeeded["a1"]["sf__Created"]) == (known, "false")
    assert succeeded["a1"]["name"] == 'Néw, 🚀\nsecond "line"' and succeeded["a1"]["AnnualRevenue"] == "9.12260031E8"
    assert succeeded["A2"]["sf__Created"] == "true" and succeeded["A2"]["AnnualRevenue"] == "800.0"
    failed = {r["External_Id__c"]: r["sf__Error"] for r in rows(api, job["id"], "failedResults")}
    assert failed == {
        "A3": "REQUIRED_FIELD_MISSING:Required fields are missing: [Name]:Name --",
        "A4": "INVALID_FIELD:Failed to deserialize field at col 5. Due to, 'yesterday' is not a valid value for the "
        "type xsd:dateTime:Last_Seen__c --",
        "": "MISSING_ARGUMENT:External_Id__c not specified:--",
    }
    assert rows(api, job["id"], "unprocessedRecords") == []
    record = emulator.by_external_id("Account")["A1"]
    assert (record["Phone"], record["Website"]) == (None, "w")


def test_results_are_shuffled(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    sent = [f"A{i:04d}" for i in range(2500)]
    job = api.run_job(ACCOUNTS + "".join(f"{k},x\n" for k in sent), "upsert", "Account")
    got = [r["External_Id__c"] for r in rows(api, job["id"], "successfulresults")]
    assert got != sent and sorted(got) == sent


def test_parents_by_external_id(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    emulator.seed("Account", [{"Name": "One", "External_Id__c": "A1"}])
    text = "External_Id__c,Name,Account__r.External_Id__c\nW1,w,A1\nW2,w,A9\nW3,w,\n"
    job = api.run_job(text, "upsert", "Workspace__c")
    failed = {r["External_Id__c"]: r["sf__Error"] for r in rows(api, job["id"], "failedResults")}
    missing = "Foreign key external ID: A9 not found for field External_Id__c in entity Account"
    assert failed["W2"] == f"INVALID_FIELD:{missing}:--" and failed["W3"].startswith("REQUIRED_FIELD_MISSING:")
    assert emulator.by_external_id("Workspace__c").keys() == {"W1"}


def test_rows_of_one_job_are_never_each_others_parents(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    text = "External_Id__c,Name,Parent.External_Id__c\n" + "".join(f"A{i},x,\n" for i in range(300)) + "B,x,A0\n"
    assert api.run_job(text, "upsert", "Account")["numberRecordsFailed"] == 1
    assert api.run_job(text, "upsert", "Account")["numberRecordsFailed"] == 0


def test_update_delete_insert(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    one, two = emulator.seed("Account", [{"Name": "One"}, {"Name": "Two"}])
    job = api.run_job(f"Id,Name\n{one},Uno\n{two[:15]},\n{one[:14]}9,x\nnonsense,x\n", "update", "Account")
    assert (job["numberRecordsProcessed"], job["numberRecordsFailed"]) == (4, 2)
    assert {r["sf__Created"] for r in rows(api, job["id"], "successfulResults")} == {"false"}
    errors = sorted(r["sf__Error"] for r in rows(api, job["id"], "failedResults"))
    assert errors[0] == "INVALID_CROSS_REFERENCE_KEY:invalid cross reference id:--"
    assert errors[1].startswith("MALFORMED_ID:")
    job = api.run_job(f"Id\n{one}\n{two}\n", "delete", "Account")
    assert job["numberRecordsFailed"] == 0 and emulator.records("Account") == []
    job = api.run_job(f"Id\n{one}\n", "hardDelete", "Account")
    (gone,) = rows(api, job["id"], "failedResults")
    assert (gone["sf__Id"], gone["sf__Error"]) == (one, "ENTITY_IS_DELETED:entity is deleted:--")
    api.run_job("Name|Active__c\r\nThree|true\r\n", "insert", "Account", lineEnding="CRLF", columnDelimiter="PIPE")
    (record,) = emulator.records("Account")
    assert (record["Name"], record["Active__c"]) == ("Three", True) and record["Id"] not in (one, two)


BAD_QUOTE = "InvalidBatch : Failed to parse CSV. Found unescaped quote. A value with quote should be within a quote"
WRONG_END = "ClientInputError : LineEnding is invalid on user data. Current LineEnding setting is"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("External_Id__c,Nope\nA1,x\n", "InvalidBatch : Field name not found : Nope"),
        (
            '\ufeff"External_Id__c",Name\nA1,x\n',
            "InvalidBatch : Failed to parse CSV. Found unescaped quote. A value with quote should be within a quote",
        ),
        ("\ufeffExternal_Id__c,Name\nA1,x\n", "InvalidBatch : Field name not found : \ufeffExternal_Id__c"),
        (
            "External_Id__c,Name\r\nA1,x\r\n",
            "ClientInputError : LineEnding is invalid on user data. Current LineEnding setting is LF",
        ),
        ("Name\nx\n", "InvalidBatch : Field name not found : External_Id__c"),
        (
            "External_Id__c,Account:Parent.External_Id__c\nA1,x\n",
            "InvalidBatch : type is not needed for non polymorphic foreign key references: Parent",
        ),
        (
            "External_Id__c,Parent:Account.External_Id__c\nA1,x\n",
            "InvalidBatch : Unable to find relationship: Account",
        ),
        ("External_Id__c;Name\nA1;x\n", "InvalidBatch : Field name not found : External_Id__c;Name"),
        ("External_Id__c,Name,name\nA1,x,y\n", "InvalidBatch : Duplicate field name : name"),
        ('External_Id__c,Name\nA1,"one\r\ntwo"\n', f"{WRONG_END} LF"),
        ('External_Id__c,Name\nA1, "x"\n', BAD_QUOTE),
        ('External_Id__c,Name\nA1,"x" \n', BAD_QUOTE),
        ('External_Id__c,Name\nA1,a 19" rack\n', BAD_QUOTE),
        ('External_Id__c,Name\nA1,"never closed\n', BAD_QUOTE),
    ],
)
def test_what_fails_a_whole_job(api: Api, text: str, message: str) -> None:
    job = api.run_job(text, "upsert", "Account")
    assert (job["state"], job["numberRecordsProcessed"], job["numberRecordsFailed"]) == ("Failed", 0, 0)
    assert job["errorMessage"] == message and list(job)[-1] == "errorMessage"
    assert rows(api, job["id"], "failedResults") == []


def test_a_job_that_fails_half_way(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    text = ACCOUNTS + "A1,One\n\nA2,Two\nA3,too,many\nA4,Four\n"
    job = api.run_job(text, "upsert", "Account")
    assert (job["state"], job["numberRecordsProcessed"]) == ("Failed", 2)
    reply = api.get(f"jobs/ingest/{job['id']}/unprocessedrecords").text
    assert reply == ACCOUNTS + '"A3","too","many"\n"A4","Four"\n'


def test_empty_job(api: Api) -> None:
    body = {"object": "Account", "operation": "insert"}
    job_id = api.post("jobs/ingest", json=body).json()["id"]
    api.patch(f"jobs/ingest/{job_id}", json={"state": "UploadComplete"})
    job = api.wait_for(job_id)
    assert (job["state"], job["numberRecordsProcessed"]) == ("JobComplete", 0)


@pytest.mark.parametrize(
    "body",
    [
        {"object": "Nope", "operation": "insert"},
        {"object": "Account", "operation": "merge"},
        {"object": "Account", "operation": "upsert", "externalIdFieldName": "website"},
        {"object": "Account", "operation": "insert", "lineEnding": "CR"},
    ],
)
def test_jobs_that_are_not_created(api: Api, body: dict[str, str]) -> None:
    assert error(api.post("jobs/ingest", json=body)) == (400, "INVALIDJOB")


def test_abort_keeps_what_was_done(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    emulator.settings(bulk_rows_per_s=1000)
    sent = [f"A{i}" for i in range(5000)]
    job_id = api.start_job(ACCOUNTS + "".join(f"{k},x\n" for k in sent), "upsert", "Account")
    while not api.get(f"jobs/ingest/{job_id}").json()["numberRecordsProcessed"]:
        pass
    assert error(api.delete(f"jobs/ingest/{job_id}")) == (400, "INVALIDJOBSTATE")
    assert api.patch(f"jobs/ingest/{job_id}", json={"state": "Aborted"}).json()["state"] == "Aborted"
    done = {r["External_Id__c"] for r in rows(api, job_id, "successfulResults")}
    left = {r["External_Id__c"] for r in rows(api, job_id, "unprocessedrecords")}
    assert 0 < len(done) < 5000 and len(done) % 200 == 0
    assert done == emulator.by_external_id("Account").keys() and done | left == set(sent) and not done & left


def test_jobs_run_side_by_side(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    emulator.settings(bulk_rows_per_s=1000)
    long = api.start_job("Name\n" + "x\n" * 100_000, "insert", "Account")
    api.wait_for(long, "InProgress")
    assert api.run_job("LastName\nx\n", "insert", "Contact")["state"] == "JobComplete"
    assert api.get(f"jobs/ingest/{long}").json()["state"] == "InProgress"


def test_locked_rows(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    emulator.fault("lock", "jobs/ingest Account", times=1)
    job = api.run_job(ACCOUNTS + "A1,x\nA2,x\n", "upsert", "Account")
    (locked,) = rows(api, job["id"], "failedResults")
    assert locked["sf__Error"].startswith("UNABLE_TO_LOCK_ROW:unable to obtain exclusive access")


def test_crlf_jobs_have_no_other_line_ending(api: Api) -> None:
    job = api.run_job("Name\r\nx\ny\r\n", "insert", "Account", lineEnding="CRLF")
    assert (job["state"], job["errorMessage"]) == ("Failed", f"{WRONG_END} CRLF")


def test_quotes_where_they_belong(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    job = api.run_job('Name,Phone\n"a 19"" rack",#N/A\n"","1"\nb,"two\nlines, ""quoted"""\n', "insert", "Account")
    assert (job["state"], job["numberRecordsFailed"]) == ("JobComplete", 1)
    found = {r["Name"]: r["Phone"] for r in emulator.records("Account")}
    assert found == {'a 19" rack': None, "b": 'two\nlines, "quoted"'}


def test_a_job_and_its_rows_in_one_call(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    parts = {
        "job": (None, '{"object": "Account", "operation": "insert"}', "application/json"),
        "content": ("content", b"Name\nOne\n", "text/csv"),
    }
    created = api.post("jobs/ingest", files=parts)
    assert (created.status_code, created.json()["state"]) == (200, "UploadComplete")
    assert "contentUrl" not in created.json()
    assert api.wait_for(created.json()["id"])["numberRecordsProcessed"] == 1
    too_long = {**parts, "content": ("content", b"Name\n" + b"x" * 100_000, "text/csv")}
    assert error(api.post("jobs/ingest", files=too_long)) == (400, "INVALIDJOB")


def test_bodies_are_compressed_both_ways(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    zipped = gzip.compress(b'{"object": "Account", "operation": "insert"}')
    job_id = api.post("jobs/ingest", data=zipped, headers={"Content-Encoding": "gzip"}).json()["id"]
    text = gzip.compress(("Name\n" + "x\n" * 5000).encode())
    assert api.put(f"jobs/ingest/{job_id}/batches", data=text, headers={"Content-Encoding": "gzip"}).ok
    api.patch(f"jobs/ingest/{job_id}", json={"state": "UploadComplete"})
    assert api.wait_for(job_id)["numberRecordsProcessed"] == 5000
    results = api.get(f"jobs/ingest/{job_id}/successfulResults")
    assert results.headers["Content-Encoding"] == "gzip" and results.text.count('"true"') == 5000
    plain = api.get(f"jobs/ingest/{job_id}/successfulResults", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers and plain.text == results.text
    broken = api.post("jobs/ingest", data=b"{}", headers={"Content-Encoding": "gzip"})
    assert error(broken) == (400, "MALFORMED_REQUEST")


def test_uploads_are_measured_as_base64(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    emulator.settings(upload_limit=4000)
    job_id = api.post("jobs/ingest", json={"object": "Account", "operation": "insert"}).json()["id"]
    refused = api.put(f"jobs/ingest/{job_id}/batches", data=b"Name\n" + b"x" * 3000)
    assert error(refused) == (413, "CLIENTINPUTERROR")
    assert api.put(f"jobs/ingest/{job_id}/batches", data=b"Name\n" + b"x" * 2900).status_code == 201


def test_ended_jobs_go_after_some_time(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    job = api.run_job("Name\nx\n", "insert", "Account")
    unfinished = api.post("jobs/ingest", json={"object": "Account", "operation": "insert"}).json()["id"]
    emulator.settings(results_age_s=0)
    assert error(api.get(f"jobs/ingest/{job['id']}/successfulResults")) == (404, "NOT_FOUND")
    assert error(api.get(f"jobs/ingest/{job['id']}")) == (404, "NOT_FOUND")
    assert api.get(f"jobs/ingest/{unfinished}").ok


def test_query_jobs(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    (parent,) = emulator.seed("Account", [{"Name": 'One, "two"\nthree', "Active__c": True, "AnnualRevenue": 1.5}])
    emulator.seed("Account", [{"Name": f"n{i}", "ParentId": parent} for i in range(3)])
    soql = "SELECT Name, Parent.Name, Active__c, AnnualRevenue FROM Account ORDER BY Name"
    created = api.post("jobs/query", json={"operation": "query", "query": soql}).json()
    assert (created["state"], created["object"], created["operation"]) == ("UploadComplete", "Account", "query")
    here = f"jobs/query/{created['id']}"
    while (job := api.get(here).json())["state"] != "JobComplete":
        pass
    assert (job["jobType"], job["numberRecordsProcessed"]) == ("V2Query", 4)
    first = api.get(f"{here}/results", params={"maxRecords": 3})
    assert (first.headers["Sforce-NumberOfRecords"], first.headers["Sforce-Locator"]) == ("3", "3")
    rest = api.get(f"{here}/results", params={"maxRecords": 3, "locator": "3"})
    assert (rest.headers["Sforce-NumberOfRecords"], rest.headers["Sforce-Locator"]) == ("1", "null")
    found = [row for page in (first, rest) for row in csv.reader(io.StringIO(page.text, newline=""))]
    assert found[0] == found[4] == ["Name", "Parent.Name", "Active__c", "AnnualRevenue"]
    assert found[1] == ["n0", 'One, "two"\nthree', "false", ""]
    assert found[5] == ['One, "two"\nthree', "", "true", "1.50"]
    assert error(api.post("jobs/query", json={"operation": "query", "query": "SELECT x"})) == (400, "MALFORMED_QUERY")
    assert error(api.get(f"jobs/ingest/{created['id']}")) == (404, "NOT_FOUND")
    assert api.get("limits").json()["DailyBulkV2QueryJobs"]["Remaining"] == 9999
    emulator.restart()
    assert emulator.login().get(f"{here}/results").ok
    assert emulator.login().delete(here).status_code == 204
