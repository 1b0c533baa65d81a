"""Bulk API 2.0 ingest: the work. One thread, every job a transaction's worth of rows in turn."""

from __future__ import annotations

import csv
import io
import random
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

from seqsync_dagster.emulator.bulk import (
    BATCH,
    DELIMITERS,
    LINE_ENDINGS,
    Job,
    body_path,
    find,
    jobs_in,
    precisely_now,
    used_today,
    write_extract,
)
from seqsync_dagster.emulator.csv_rules import JobFailedError, check_line_endings, columns, rows
from seqsync_dagster.emulator.errors import RowError
from seqsync_dagster.emulator.faults import Controls
from seqsync_dagster.emulator.orgrules import owner_by
from seqsync_dagster.emulator.rules import Guards, Row, Writer
from seqsync_dagster.emulator.schema import DECIMAL_TYPES, Column, Field
from seqsync_dagster.emulator.store import Store
from seqsync_dagster.emulator.values import java_double

_GROUP = 200  # rows that Salesforce saves at once, and that cannot see each other
_TRANSACTION = 2000
_NULL = "#N/A"
_FAILED_MIDWAY = "TooManyLockFailure : Too many lock failure 200 Trying again later."
_NO_BATCH_LEFT = "ExceededQuota : ApiBatchItems Limit exceeded."

#: Which batch (job, number in it) was the last to have a row of a parent (object, number).
Held = dict[tuple[str, int], tuple[int, int]]


class JobRun:
    """A job being worked on. What it has done is committed with the rows themselves, so a restart repeats nothing."""

    def __init__(self, store: Store, controls: Controls, job: Job, held: Held) -> None:
        self.store, self.controls, self.job, self._held = store, controls, job, held
        self.not_before = 0.0
        self._done = job.read
        self._where = f"/jobs/ingest {job.object}"
        self._failing = controls.strikes(("fail_job",), self._where)
        self._slow = controls.strikes(("slow_job",), self._where)
        self._contention = controls.contention(self._where)
        self._rows: Iterator[list[str]] = iter(())
        self._columns: list[Column] = []
        self._decimals: list[int] = []
        path = body_path(store, job)
        self._body: io.TextIOBase | None = None
        if job.uploaded and path.exists():
            self._body = path.open(newline="", encoding="utf-8")
        self._header = ""
        self._writer: Writer

    def close(self) -> None:
        if self._body:
            self._body.close()

    def begin(self) -> None:
        """Read the header and take the job up where it stands."""
        job = self.job
        if self._body:
            check_line_endings(body_path(self.store, job), job.line_ending)
        self._read_header()
        watermark = job.watermark
        with self.store.write() as db:
            if job.state == "UploadComplete":
                (watermark,) = db.execute(f'SELECT coalesce(max("Id"), 0) FROM "{job.object}"').fetchone()
            db.execute(
                "UPDATE jobs SET state = 'InProgress', header = ?, watermark = ?, modstamp = ? "
                "WHERE n = ? AND state IN ('UploadComplete', 'InProgress')",
                (self._header, watermark, precisely_now(), job.n),
            )
        self._writer = Writer(
            self.store, job.sobject, job.operation, job.key_field, self._mistyped,
            Guards(self._locked, tuple(self.controls.rules_of(job.object)), owner=self._owner()), watermark,
        )  # fmt: skip
        for _ in range(job.read):
            next(self._rows)

    def _read_header(self) -> None:
        job = self.job
        first = self._body.readline() if self._body else ""
        if not first:
            return
        self._header = first.rstrip("\r\n")
        needed = job.key or ("Id" if job.operation != "insert" else None)
        self._columns = columns(job.sobject, self._header, DELIMITERS[job.delimiter], needed)
        self._decimals = [i for i, c in enumerate(self._columns) if c.via is None and c.field.type in DECIMAL_TYPES]
        assert self._body is not None
        self._rows = rows(self._body, DELIMITERS[job.delimiter], len(self._columns))

    def _owner(self) -> int | None:
        # No assignment rule is used unless the job names one.
        return owner_by(self.store, self.controls.assigning(self.job.object, self.job.assignment or ""))

    def _locked(self, row: Row) -> bool:
        """Batches of a job run in parallel, so rows of one parent in two of them may lock each other out."""
        fault, locked = self._contention, self.controls.lock_hits(self._where)
        if fault is None:
            return locked
        batch = (self.job.n, self._done // fault.rows)
        for lookup in (f for f in self.job.sobject.own if f.refers and row.values.get(f.name)):
            parent = (lookup.refers, row.values[lookup.name])
            other = self._held.setdefault(parent, batch)
            locked = locked or (other != batch and self.controls.strikes(("contention",), self._where) is not None)
            self._held[parent] = batch
        return locked

    def _mistyped(self, field: Field, raw: Any) -> RowError:
        at = next(i for i, column in enumerate(self._columns) if column.field is field)
        message = (
            f"Failed to deserialize field at col {at}. Due to, '{raw}' is not a valid value for the type {field.xsd}"
        )
        return RowError("INVALID_FIELD", message, (field.name,))

    def _read(self, count: int) -> tuple[list[list[str]], str | None, bool]:
        """Rows, what makes going on impossible, and whether this was the end."""
        found: list[list[str]] = []
        try:
            for cells in self._rows:
                found.append(cells)
                if len(found) == count:
                    return found, None, False
        except JobFailedError as failure:
            return found, str(failure), True
        return found, None, True

    def step(self) -> bool:
        """One transaction of rows; whether there may be more."""
        began = time.monotonic()
        speed = self._slow.rows if self._slow else self.controls.settings.bulk_rows_per_s
        count = min(_TRANSACTION, max(_GROUP, speed // 10 // _GROUP * _GROUP)) if speed else _TRANSACTION
        if self._failing:
            count = min(count, max(0, self._failing.rows - self._done))
        read, error, ended = self._read(count) if count else ([], None, False)
        if self._failing and not ended and self._done + len(read) >= self._failing.rows:
            error, ended = self._failing.message or _FAILED_MIDWAY, True
        if read and self._done % BATCH == 0 and not self._batch_is_left():
            read, error, ended = [], _NO_BATCH_LEFT, True
        rows = [
            Row([(c, None if v == _NULL else v) for c, v in zip(self._columns, cells, strict=True) if v])
            for cells in read
        ]
        self._writer.clean(rows)
        with self.store.write() as db:
            job = find(db, self.job.n)
            if job is None or job.state != "InProgress":
                return False
            for start in range(0, len(rows), _GROUP):
                self._done = job.read + start
                self._writer.write(db, rows[start : start + _GROUP])
            self._done = job.read + len(rows)
            succeeded, failed = self._results(job, read, rows)
            db.execute("INSERT INTO job_results VALUES (?, ?, ?, ?)", (job.n, job.read, succeeded, failed))
            state = ("Failed" if error else "JobComplete") if ended else "InProgress"
            db.execute(
                "UPDATE jobs SET state = ?, error = ?, read = read + ?, processed = processed + ?, "
                "failed = failed + ?, took_ms = took_ms + ?, modstamp = ? WHERE n = ?",
                (state, error, len(rows), len(rows), sum(row.error is not None for row in rows),
                 int((time.monotonic() - began) * 1000) + 1, precisely_now(), job.n),
            )  # fmt: skip
        if speed:
            self.not_before = began + len(rows) / speed
        return not ended

    def _batch_is_left(self) -> bool:
        return used_today(self.store).batches < self.controls.settings.bulk_batches_limit

    def _results(self, job: Job, read: list[list[str]], rows: list[Row]) -> tuple[str, str]:
        succeeded, failed = io.StringIO(), io.StringIO()
        write, fail = (
            csv.writer(
                out, quoting=csv.QUOTE_ALL, delimiter=DELIMITERS[job.delimiter],
                lineterminator=LINE_ENDINGS[job.line_ending],
            ).writerow
            for out in (succeeded, failed)
        )  # fmt: skip
        order = list(range(len(rows)))
        random.Random(f"{job.n}/{job.read}").shuffle(order)
        encode, prefix = self.store.ids.encode, job.sobject.prefix
        for at in order:
            row, cells = rows[at], read[at]
            for i in self._decimals:
                if cells[i]:
                    cells[i] = java_double(cells[i])
            if row.error is None:
                write((encode(prefix, row.record or 0), "true" if row.created else "false", *cells))
            else:
                known = encode(prefix, row.record) if row.record and row.record > 0 and not row.created else ""
                fail((known, row.error.for_bulk(), *cells))
        return succeeded.getvalue(), failed.getvalue()


class Worker(threading.Thread):
    """Works on every job that was handed in until told to stop."""

    def __init__(self, store: Store, controls: Controls) -> None:
        super().__init__(name="bulk-worker", daemon=True)
        self._store, self._controls = store, controls
        self._news = threading.Event()
        self._ending = False
        self._runs: dict[int, JobRun] = {}
        self._held: Held = {}

    def wake(self) -> None:
        """A job was handed in, or a setting changed."""
        self._news.set()

    def stop(self) -> None:
        self._ending = True
        self._news.set()
        self.join(timeout=10)

    def run(self) -> None:
        try:
            self._work()
        finally:
            for run in self._runs.values():
                run.close()

    def _work(self) -> None:
        while True:
            # Looked at after the clearing, which may have swallowed the word of `stop`.
            self._news.clear()
            if self._ending:
                return
            jobs = jobs_in(self._store, "UploadComplete", "InProgress")
            if not jobs:
                self._held.clear()
            for gone in self._runs.keys() - {job.n for job in jobs}:
                self._runs.pop(gone).close()
            worked = [self._advance(job) for job in jobs if not self._ending]
            if not any(worked):
                self._news.wait(0.02 if jobs else None)

    def _advance(self, job: Job) -> bool:
        run = self._runs.get(job.n)
        try:
            if run is None:
                if (
                    job.state == "UploadComplete"
                    and time.time() < (job.handed_in or 0) + self._controls.settings.bulk_delay_s
                ):
                    return False
                if job.soql is not None:
                    self._extract(job)
                    return True
                run = self._runs[job.n] = JobRun(self._store, self._controls, job, self._held)
                run.begin()
            if time.monotonic() < run.not_before:
                return False
            run.step()
        except JobFailedError as failure:
            self._fail(job, str(failure))
        except Exception as error:  # a bug here must be seen, not waited for
            traceback.print_exc()
            self._fail(job, f"Unknown : {error!r}")
        return True

    def _extract(self, job: Job) -> None:
        began = time.monotonic()
        count = write_extract(self._store, job)
        with self._store.write() as db:
            db.execute(
                "UPDATE jobs SET state = 'JobComplete', processed = ?, took_ms = ?, modstamp = ? "
                "WHERE n = ? AND state = 'UploadComplete'",
                (count, int((time.monotonic() - began) * 1000) + 1, precisely_now(), job.n),
            )

    def _fail(self, job: Job, message: str) -> None:
        with self._store.write() as db:
            db.execute(
                "UPDATE jobs SET state = 'Failed', error = ?, modstamp = ? "
                "WHERE n = ? AND state IN ('UploadComplete', 'InProgress')",
                (message, precisely_now(), job.n),
            )
