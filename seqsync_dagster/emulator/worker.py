"""Bulk API 2.0 ingest: the work. One thread, every job a transaction's worth of rows in turn."""

from __future__ import annotations

import csv
import io
import random
import threading
import time
import traceback
from collections.abc import Iterator
from functools import partial
from typing import Any

from seqsync_dagster.emulator.bulk import (
    DELIMITERS,
    LINE_ENDINGS,
    Job,
    body_path,
    find,
    jobs_in,
    precisely_now,
)
from seqsync_dagster.emulator.errors import RowError
from seqsync_dagster.emulator.faults import Controls
from seqsync_dagster.emulator.rules import Row, Writer
from seqsync_dagster.emulator.schema import DECIMAL_TYPES, Column, Field, PolymorphismError, SObject
from seqsync_dagster.emulator.store import Store
from seqsync_dagster.emulator.values import java_double

_GROUP = 200  # rows that Salesforce saves at once, and that cannot see each other
_TRANSACTION = 2000
_NULL = "#N/A"
_BOM = "\ufeff"


class JobFailedError(Exception):
    """The job as a whole ends here; the message is its errorMessage."""


class JobRun:
    """A job being worked on. What it has done is committed with the rows themselves, so a restart repeats nothing."""

    def __init__(self, store: Store, controls: Controls, job: Job) -> None:
        self.store, self.controls, self.job = store, controls, job
        self.not_before = 0.0
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
        self._check_line_endings()
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
            partial(self.controls.lock_hits, f"/jobs/ingest {job.object}"), watermark,
        )  # fmt: skip
        for _ in range(job.read):
            next(self._rows)

    def _check_line_endings(self) -> None:
        if self._body is None:
            return
        setting = self.job.line_ending
        wrong = f"ClientInputError : LineEnding is invalid on user data. Current LineEnding setting is {setting}"
        with body_path(self.store, self.job).open("rb") as raw:
            if self.job.line_ending == "CRLF":
                header = raw.readline()
                if header.endswith(b"\n") and not header.endswith(b"\r\n"):
                    raise JobFailedError(wrong)
            elif any(b"\r" in block for block in iter(partial(raw.read, 1 << 20), b"")):
                raise JobFailedError(wrong)

    def _read_header(self) -> None:
        job = self.job
        first = self._body.readline() if self._body else ""
        if not first:
            return
        if first.startswith(_BOM + '"'):
            raise JobFailedError("InvalidBatch : Failed to parse CSV. Found unescaped quote")
        self._header = first.rstrip("\r\n")
        assert self._body is not None
        self._rows = filter(None, csv.reader(self._body, delimiter=DELIMITERS[job.delimiter], strict=True))
        try:
            names = next(csv.reader([self._header], delimiter=DELIMITERS[job.delimiter], strict=True))
        except csv.Error as error:
            raise JobFailedError(f"InvalidBatch : Failed to parse CSV. {error}") from None
        self._columns = [_column(job.sobject, name) for name in names]
        self._decimals = [i for i, c in enumerate(self._columns) if c.via is None and c.field.type in DECIMAL_TYPES]
        needed = job.key or ("Id" if job.operation != "insert" else None)
        if needed and not any(c.via is None and c.field.name == needed for c in self._columns):
            raise JobFailedError(f"InvalidBatch : Field name not found : {needed}")

    def _mistyped(self, field: Field, raw: Any) -> RowError:
        at = next(i for i, column in enumerate(self._columns) if column.field is field)
        message = (
            f"Failed to deserialize field at col {at}. Due to, '{raw}' is not a valid value for the type {field.xsd}"
        )
        return RowError("INVALID_FIELD", message, (field.name,))

    def _read(self, count: int) -> tuple[list[list[str]], str | None, bool]:
        """Rows, what makes going on impossible, and whether this was the end."""
        rows: list[list[str]] = []
        try:
            for cells in self._rows:
                if len(cells) != len(self._columns):
                    message = "InvalidBatch : Failed to parse CSV. A row has another number of columns than the header"
                    return rows, message, True
                rows.append(cells)
                if len(rows) == count:
                    return rows, None, False
        except (csv.Error, UnicodeDecodeError) as error:
            return rows, f"InvalidBatch : Failed to parse CSV. {error}", True
        return rows, None, True

    def step(self) -> bool:
        """One transaction of rows; whether there may be more."""
        began = time.monotonic()
        speed = self.controls.speed.rows_per_s
        count = min(_TRANSACTION, max(_GROUP, speed // 10 // _GROUP * _GROUP)) if speed else _TRANSACTION
        read, error, ended = self._read(count)
        columns = self._columns
        rows = [
            Row([(c, None if v == _NULL else v) for c, v in zip(columns, cells, strict=True) if v]) for cells in read
        ]
        self._writer.clean(rows)
        with self.store.write() as db:
            job = find(db, self.job.n)
            if job is None or job.state != "InProgress":
                return False
            for start in range(0, len(rows), _GROUP):
                self._writer.write(db, rows[start : start + _GROUP])
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


def _column(obj: SObject, name: str) -> Column:
    try:
        column = obj.column(name)
    except PolymorphismError as polymorphism:
        relationship = str(polymorphism)
        if relationship:
            message = f"type is not needed for non polymorphic foreign key references: {relationship}"
        else:
            message = f"Unable to find relationship: {name.partition(':')[2].partition('.')[0]}"
        raise JobFailedError(f"InvalidBatch : {message}") from None
    if column is None:
        raise JobFailedError(f"InvalidBatch : Field name not found : {name}")
    return column


class Worker(threading.Thread):
    """Works on every job that was handed in until told to stop."""

    def __init__(self, store: Store, controls: Controls) -> None:
        super().__init__(name="bulk-worker", daemon=True)
        self._store, self._controls = store, controls
        self._news = threading.Event()
        self._ending = False
        self._runs: dict[int, JobRun] = {}

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
        while not self._ending:
            self._news.clear()
            jobs = jobs_in(self._store, "UploadComplete", "InProgress")
            for gone in self._runs.keys() - {job.n for job in jobs}:
                self._runs.pop(gone).close()
            worked = [self._advance(job) for job in jobs if not self._ending]
            if not any(worked):
                self._news.wait(0.02 if jobs else None)

    def _advance(self, job: Job) -> bool:
        run = self._runs.get(job.n)
        try:
            if run is None:
                if job.state == "UploadComplete" and time.time() < (job.handed_in or 0) + self._controls.speed.delay_s:
                    return False
                run = self._runs[job.n] = JobRun(self._store, self._controls, job)
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

    def _fail(self, job: Job, message: str) -> None:
        with self._store.write() as db:
            db.execute(
                "UPDATE jobs SET state = 'Failed', error = ?, modstamp = ? "
                "WHERE n = ? AND state IN ('UploadComplete', 'InProgress')",
                (message, precisely_now(), job.n),
            )
