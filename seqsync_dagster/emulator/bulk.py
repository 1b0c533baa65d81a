"""Bulk API 2.0 ingest: the jobs, as their callers see them."""

from __future__ import annotations

import csv
import io
import random
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from seqsync_dagster.emulator.errors import ApiError, not_found
from seqsync_dagster.emulator.schema import OBJECTS, Field, SObject, find_object
from seqsync_dagster.emulator.soql import compile_query
from seqsync_dagster.emulator.store import INTEGRATION_USER, Store, wire_datetime

JOB_PREFIX = "750"
BATCH = 10_000
ENDED = ("JobComplete", "Failed", "Aborted")
OPERATIONS = ("insert", "update", "upsert", "delete", "hardDelete")
DELIMITERS = {"BACKQUOTE": "`", "CARET": "^", "COMMA": ",", "PIPE": "|", "SEMICOLON": ";", "TAB": "\t"}
LINE_ENDINGS = {"LF": "\n", "CRLF": "\r\n"}
_COLUMNS = (
    "n, object, operation, key, line_ending, delimiter, version, state, created, modstamp, uploaded, handed_in, read, "
    "processed, failed, took_ms, error, header, watermark, soql, assignment"
)


@dataclass(frozen=True, slots=True)
class Job:
    """A row of the table `jobs`. `read` counts the CSV rows done with, so that a restart skips them."""

    n: int
    object: str
    operation: str
    key: str | None
    line_ending: str
    delimiter: str
    version: float
    state: str
    created: str
    modstamp: str
    uploaded: int
    handed_in: float | None
    read: int
    processed: int
    failed: int
    took_ms: int
    error: str | None
    header: str
    watermark: int
    soql: str | None = None
    assignment: str | None = None

    @property
    def sobject(self) -> SObject:
        return OBJECTS[self.object]

    @property
    def key_field(self) -> Field | None:
        return self.sobject.find(self.key) if self.key else None


def precisely_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]


def body_path(store: Store, job: Job) -> Path:
    return store.uploads / f"{job.n}.csv"


def invalid_state(what: str) -> ApiError:
    return ApiError(400, "INVALIDJOBSTATE", f"InvalidJobState : {what}")


def load(store: Store, job_id: str, kind: str = "ingest", results_age_s: float | None = None) -> Job:
    """The job of an id, or 404, which is also what becomes of a job some time after its end."""
    try:
        number = store.ids.decode(job_id, JOB_PREFIX)
    except ValueError:
        raise not_found() from None
    job = find(store.reader(), number)
    if job is None or (job.soql is None) != (kind == "ingest"):
        raise not_found()
    if results_age_s is not None and job.state in ENDED:
        oldest = datetime.now(UTC) - timedelta(seconds=results_age_s)
        if datetime.fromisoformat(job.modstamp).replace(tzinfo=UTC) < oldest:
            raise not_found()
    return job


@dataclass(frozen=True, slots=True)
class Used:
    """How much of the day's allocations is spent."""

    batches: int
    queries: int


def used_today(store: Store) -> Used:
    """What the jobs so far have taken: a batch for 10,000 rows begun ("How Requests Are Processed", Bulk API 2.0)."""
    day = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    sql = (
        "SELECT coalesce(sum((read + ?) / ?), 0), count(soql) FROM jobs "
        "WHERE created > ? AND (soql IS NOT NULL OR read > 0)"
    )
    return Used(*store.reader().execute(sql, (BATCH - 1, BATCH, day)).fetchone())


def find(db: sqlite3.Connection, number: int) -> Job | None:
    row = db.execute(f"SELECT {_COLUMNS} FROM jobs WHERE n = ? AND state != 'Deleted'", (number,)).fetchone()
    return Job(*row) if row else None


def jobs_in(store: Store, *states: str) -> list[Job]:
    marks = ", ".join("?" * len(states)) or "state"
    sql = f"SELECT {_COLUMNS} FROM jobs WHERE state IN ({marks}) AND state != 'Deleted' ORDER BY n"
    return [Job(*row) for row in store.reader().execute(sql, states)]


def create(store: Store, version: float, body: Any, content: bytes | None = None) -> Job:
    """An open job, or one handed in with its content, or why there is none."""
    if not isinstance(body, dict):
        raise ApiError(400, "INVALIDJOB", "InvalidJob : The request body must be a JSON object")
    obj, operation = find_object(str(body.get("object"))), body.get("operation")
    if obj is None:
        message = f"InvalidJob : The entity '{body.get('object')}' is not supported by the Bulk API."
        raise ApiError(400, "INVALIDJOB", message)
    if operation not in OPERATIONS:
        raise ApiError(400, "INVALIDJOB", f"InvalidJob : Invalid operation: {operation}")
    key = None
    if operation == "upsert":
        key = obj.find(str(body.get("externalIdFieldName")))
        if key is None or not (key.match or key.name == "Id"):
            message = (
                f"InvalidJob : Field name provided, {body.get('externalIdFieldName')} does not match an External ID, "
                f"Salesforce Id, or indexed field for {obj.name}"
            )
            raise ApiError(400, "INVALIDJOB", message)
    ending, delimiter = body.get("lineEnding", "LF"), body.get("columnDelimiter", "COMMA")
    if ending not in LINE_ENDINGS or delimiter not in DELIMITERS or body.get("contentType", "CSV") != "CSV":
        raise ApiError(400, "INVALIDJOB", "InvalidJob : unknown contentType, lineEnding or columnDelimiter")
    rule = body.get("assignmentRuleId")
    return _insert(store, obj, operation, key.name if key else None, ending, delimiter, version, None, content, rule)


def create_query(store: Store, version: float, body: Any) -> Job:
    """A query job, handed in; or why there is none."""
    asked = body if isinstance(body, dict) else {}
    operation, soql = asked.get("operation"), str(asked.get("query") or "")
    ending, delimiter = asked.get("lineEnding", "LF"), asked.get("columnDelimiter", "COMMA")
    if operation not in ("query", "queryAll") or ending not in LINE_ENDINGS or delimiter not in DELIMITERS:
        raise ApiError(400, "INVALIDJOB", "InvalidJob : unknown operation, lineEnding or columnDelimiter")
    query = compile_query(store, soql, operation == "queryAll")
    if query.counting:
        raise ApiError(400, "API_ERROR", "Aggregate Relationships not supported in Bulk Query")
    return _insert(store, query.obj, operation, None, ending, delimiter, version, soql, None)


def _insert(
    store: Store, obj: SObject, operation: str, key: str | None, ending: str, delimiter: str, version: float,
    soql: str | None, content: bytes | None, rule: str | None = None,
) -> Job:  # fmt: skip
    stamp, given = precisely_now(), content is not None
    state = "Open" if soql is None and not given else "UploadComplete"
    values = (obj.name, operation, key, ending, delimiter, version, state, stamp, stamp, soql, given, time.time(), rule)
    with store.write() as db:
        number = db.execute(
            "INSERT INTO jobs (object, operation, key, line_ending, delimiter, version, state, created, modstamp, "
            "soql, uploaded, handed_in, assignment) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        ).lastrowid
        assert number is not None
        created = find(db, number)
        assert created is not None
        if content is not None:
            body_path(store, created).write_bytes(content)
    return created


def check_uploadable(store: Store, job: Job) -> None:
    if job.uploaded:
        job_id = store.ids.encode(JOB_PREFIX, job.n)
        raise ApiError(
            400, "CLIENTINPUTERROR",
            f"ClientInputError : Found multiple contents for job: <{job_id}>, please 'Close' / 'Abort' / 'Delete' the "
            "current Job then create a new Job and make sure you only do 'PUT' once on a given Job.",
        )  # fmt: skip
    if job.state != "Open":
        raise invalid_state(f"Batches cannot be added to a job in state {job.state}")


def set_uploaded(store: Store, job: Job, received: Path) -> None:
    """The whole body has come: it is the job's from now on."""
    with store.write() as db:
        current = find(db, job.n)
        check_uploadable(store, current or job)
        received.replace(body_path(store, job))
        db.execute("UPDATE jobs SET uploaded = 1, modstamp = ? WHERE n = ?", (precisely_now(), job.n))


def change_state(store: Store, job: Job, wanted: Any) -> Job:
    """Hand a job in, or abort it."""
    allowed = {"UploadComplete": ("Open",), "Aborted": ("Open", "UploadComplete", "InProgress")}
    if wanted not in allowed:
        raise ApiError(400, "INVALIDJOB", f"InvalidJob : Invalid job state: {wanted}")
    with store.write() as db:
        current = find(db, job.n)
        if current is None:
            raise not_found()
        if current.state not in allowed[wanted] or (current.soql and wanted != "Aborted"):
            raise invalid_state(f"Aborting or closing a job is not possible in state {current.state}")
        db.execute(
            "UPDATE jobs SET state = ?, modstamp = ?, handed_in = ? WHERE n = ?",
            (wanted, precisely_now(), time.time(), job.n),
        )
        changed = find(db, job.n)
        assert changed is not None
    return changed


def delete(store: Store, job: Job) -> None:
    with store.write() as db:
        current = find(db, job.n)
        if current is None or current.state not in ("UploadComplete", "JobComplete", "Aborted", "Failed"):
            raise invalid_state(f"A job in state {job.state} cannot be deleted")
        # Its row stays, without a state, so that its id is never given to another job.
        db.execute("UPDATE jobs SET state = 'Deleted' WHERE n = ?", (job.n,))
        db.execute("DELETE FROM job_results WHERE job = ?", (job.n,))
    body_path(store, job).unlink(missing_ok=True)


def as_json(store: Store, job: Job, part: str) -> dict[str, Any]:
    """A job as the reply to `part` shows it: create, patch, get or list; keys in Salesforce's order."""
    shown: dict[str, Any] = {
        "id": store.ids.encode(JOB_PREFIX, job.n), "operation": job.operation, "object": job.object,
        "createdById": store.id_of(OBJECTS["User"], INTEGRATION_USER),
        "createdDate": wire_datetime(job.created), "systemModstamp": wire_datetime(job.modstamp),
        "state": job.state,
    }  # fmt: skip
    if job.key:
        shown["externalIdFieldName"] = job.key
    if job.assignment:
        shown["assignmentRuleId"] = job.assignment
    shown |= {"concurrencyMode": "Parallel", "contentType": "CSV", "apiVersion": job.version}
    if part == "patch":
        return shown
    if part != "create":
        shown["jobType"] = "V2Query" if job.soql else "V2Ingest"
    if job.state == "Open":
        shown["contentUrl"] = f"services/data/v{job.version:.1f}/jobs/ingest/{shown['id']}/batches"
    shown |= {"lineEnding": job.line_ending, "columnDelimiter": job.delimiter}
    if part in ("create", "list"):
        return shown
    if job.soql:
        shown |= {"numberRecordsProcessed": job.processed, "retries": 0, "totalProcessingTime": job.took_ms}
        return shown | ({"errorMessage": job.error} if job.error else {})
    if job.uploaded or job.state != "Open":
        shown |= {"numberRecordsProcessed": job.processed, "numberRecordsFailed": job.failed}
    shown |= {"retries": 0, "totalProcessingTime": job.took_ms, "apiActiveProcessingTime": job.took_ms,
              "apexProcessingTime": 0}  # fmt: skip
    if job.error:
        shown["errorMessage"] = job.error
    return shown


def _writer(out: TextIO, job: Job) -> Any:
    end, delimiter = LINE_ENDINGS[job.line_ending], DELIMITERS[job.delimiter]
    return csv.writer(out, quoting=csv.QUOTE_ALL, delimiter=delimiter, lineterminator=end)


def unprocessed(store: Store, job: Job) -> Iterator[bytes]:
    """The rows that a failed or aborted job never came to."""
    yield (job.header + LINE_ENDINGS[job.line_ending]).encode()
    if job.state not in ("Failed", "Aborted") or not job.header or not body_path(store, job).exists():
        return
    with body_path(store, job).open(newline="", encoding="utf-8", errors="replace") as body:
        text = io.StringIO()
        writer = _writer(text, job)
        rows = csv.reader(body, delimiter=DELIMITERS[job.delimiter])
        for row in islice(filter(None, rows), job.read + 1, None):
            writer.writerow(row)
            if text.tell() > 1 << 16:
                yield text.getvalue().encode()
                text.seek(0)
                text.truncate()
        yield text.getvalue().encode()


def results(store: Store, job: Job, which: str) -> Iterator[bytes]:
    """`succeeded` or `failed` rows as CSV. Never in the order they were sent in: callers must not count on it."""
    end = LINE_ENDINGS[job.line_ending]
    marks = DELIMITERS[job.delimiter]
    second = "sf__Created" if which == "succeeded" else "sf__Error"
    yield f'"sf__Id"{marks}"{second}"{marks + job.header if job.header else ""}{end}'.encode()
    db = store.reader()
    chunks = [c for (c,) in db.execute("SELECT chunk FROM job_results WHERE job = ?", (job.n,))]
    random.Random(job.n).shuffle(chunks)
    for chunk in chunks:
        sql = f"SELECT {which} FROM job_results WHERE job = ? AND chunk = ?"
        yield store.reader().execute(sql, (job.n, chunk)).fetchone()[0].encode()


def write_extract(store: Store, job: Job) -> int:
    """The records of a query job into its file, every value quoted ("Get Results for a Query Job"); how many."""
    query = compile_query(store, job.soql or "", job.operation == "queryAll")
    names = [f"{via.relationship}.{column.name}" if via else column.name for via, _, column in query.paths]
    count = 0
    with body_path(store, job).open("w", newline="", encoding="utf-8") as out:
        writer = _writer(out, job)
        writer.writerow(names)
        for record in query.rows(store):
            writer.writerow(_exported(value) for value in record.values())
            count += 1
    return count


def _exported(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value).replace(".000+0000", ".000Z")


def extract(store: Store, job: Job, start: int, count: int) -> tuple[bytes, int]:
    """Rows of a query job's result with its header, and how many there are."""
    text = io.StringIO()
    writer = _writer(text, job)
    with body_path(store, job).open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file, delimiter=DELIMITERS[job.delimiter])
        writer.writerow(next(rows))
        found = list(islice(rows, start, start + count))
        writer.writerows(found)
    return text.getvalue().encode(), len(found)
