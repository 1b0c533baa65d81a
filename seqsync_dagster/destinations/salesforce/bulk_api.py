"""Sending many rows through Bulk API 2.0, and taking up a job that an earlier run left."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from seqsync_dagster.destinations.protocol import Answered, Event, InFlight, Outcomes, Progress, Request
from seqsync_dagster.destinations.salesforce import bulk_results
from seqsync_dagster.destinations.salesforce.budget import BULK_JOB_CALLS
from seqsync_dagster.destinations.salesforce.bulk_job import ENDED, BulkJobs, JobDeleted
from seqsync_dagster.destinations.salesforce.bulk_parts import Part, parts, recollected
from seqsync_dagster.destinations.salesforce.bulk_results import Tally
from seqsync_dagster.destinations.salesforce.collections_api import (
    ROWS_PER_CALL,
    CollectionsSender,
    rechunked,
)
from seqsync_dagster.destinations.salesforce.connection import Connection
from seqsync_dagster.destinations.salesforce.errors import DUPLICATES_DETECTED, TRANSIENT_JOB_ERRORS
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings
from seqsync_dagster.destinations.salesforce.sync_options import read_options
from seqsync_dagster.errors import (
    BudgetSpent,
    DestinationError,
    DestinationRefused,
    DestinationUnreachable,
    ResultsUnclear,
)


@dataclass(frozen=True)
class _Job:
    """A job in the org and the rows it was made for; `before` counts the rows of this send that went with others."""

    id: str
    part: Part
    before: int


class BulkSender:
    """Sends rows of one operation on one object, one job after the other.

    Jobs of one object are never at work side by side: children of one parent in
    two jobs lock each other out (Bulk API 2.0 guide, "General Guidelines for
    Data Loads"). But while the org works at one, the next is uploaded, and while
    it works at that, the results of the first are read.
    """

    def __init__(self, connection: Connection, settings: SalesforceSettings, request: Request) -> None:
        self._connection = connection
        self._settings = settings
        self._request = request
        self._jobs = BulkJobs(connection, settings)
        self._cut_short: DestinationError | None = None

    def send(self, tables: Iterable[pa.Table]) -> Iterator[Event]:
        """Send all rows, announcing each job before its rows are uploaded.

        Raises `BudgetSpent` before a job that `api_budget` has no room for; a job
        that was begun is waited for and read whatever it takes.
        """
        _lean_memory()
        before = 0
        working: _Job | None = None
        part: Part | Outcomes | None = None
        try:
            for part in parts(tables, self._request, self._settings):
                if not isinstance(part, Part):
                    yield part
                    continue
                try:
                    # What the job at work may still need is not for the next one to spend.
                    calls = BULK_JOB_CALLS if working is None else 2 * BULK_JOB_CALLS
                    following = yield from self._upload(part, before, calls)
                except DestinationError as error:
                    if working is None:
                        raise
                    yield from self._read(working, (yield from self._ended(working)))
                    working.part.close()
                    working = None
                    if not isinstance(error, BudgetSpent):
                        raise
                    # It may not have needed all that was taken for it.
                    following = yield from self._upload(part, before, BULK_JOB_CALLS)
                before += len(part)
                if working is not None:
                    yield from self._hand_over(working, following)
                    working.part.close()
                else:
                    self._jobs.close(following.id)
                working = following
            if working is not None:
                yield from self._read(working, (yield from self._ended(working)))
        finally:
            for held in (part, working.part if working is not None else None):
                if isinstance(held, Part):
                    held.close()
        if self._cut_short is not None:
            # After the other parts, whose rows have done nothing wrong.
            raise self._cut_short

    def resume(self, token: Mapping[str, object], tables: Iterable[pa.Table]) -> Iterator[Event]:
        """Find out what became of a job. Ends with `Answered` when rows without an outcome were not written.

        Raises `ResultsUnclear` when its results cannot be understood.
        """
        job = str(token["job"])
        last_seq = token.get("last_seq")
        answered = Answered(last_seq if isinstance(last_seq, int) else 0)
        found = self._jobs.look(job)
        still_open = found is not None and found["state"] == "Open"
        if still_open:
            # Nothing has been processed yet; whether the upload was whole cannot be told.
            found = self._jobs.abort(job)
        if found is None:
            return
        if found["state"] in ENDED and _untouched(found):
            # Where somebody aborted it, the org may have been at work on rows that it had not counted.
            if still_open or found["state"] != "Aborted":
                yield answered
            return
        _lean_memory()
        part = recollected(tables, self._request)
        rows = token.get("rows")
        sent = rows if isinstance(rows, int) else len(part)
        try:
            found = yield from self._jobs.wait(job, sent, 0, sent)
            if found is None:
                return
            if not _untouched(found):
                yield from self._results(found, part, sent, resumed=True)
            yield answered
        except JobDeleted:
            return
        finally:
            part.close()

    def _upload(self, part: Part, before: int, calls: int) -> Generator[Event, None, _Job]:
        """A job with the part's rows, at which the org does not work yet; begun when `calls` calls can be afforded."""
        part.index.seal()
        self._connection.afford(calls)
        job = self._jobs.create(self._request)
        token = {"api": "bulk", "job": job, "rows": len(part), "last_seq": part.last_seq}
        yield InFlight(token, last_seq=part.last_seq)
        self._jobs.upload(job, part.csv)
        return _Job(job, part, before)

    def _hand_over(self, working: _Job, following: _Job) -> Iterator[Event]:
        """Let the org go on with the job that follows as soon as nothing of the one before can get in its way."""
        try:
            found = yield from self._ended(working)
            clean = found["state"] == "JobComplete" and not found.get("numberRecordsFailed")
            if not clean:
                # What met a lock goes again before other rows of the same parents do.
                yield from self._read(working, found)
        except DestinationError:
            with suppress(DestinationError):
                self._jobs.abort(following.id)
            raise
        self._jobs.close(following.id)
        if clean:
            yield from self._read(working, found)

    def _ended(self, job: _Job) -> Generator[Event, None, Mapping[str, Any]]:
        """The job as the org sees it after its end."""
        found = yield from self._jobs.wait(job.id, len(job.part), job.before, self._request.rows)
        if found is None:
            raise JobDeleted(job.id)
        return found

    def _read(self, job: _Job, found: Mapping[str, Any]) -> Iterator[Event]:
        if found["state"] == "Failed" and _untouched(found):
            raise self._failure(found)
        unprocessed = yield from self._results(found, job.part, len(job.part))
        yield Answered(job.part.last_seq)
        if found["state"] == "Failed" and unprocessed:
            self._cut_short = self._cut_short or self._failure(found, unprocessed)
        if found["state"] == "Aborted":
            raise DestinationRefused(
                f"salesforce: someone aborted Bulk job {job.id} in the org (Setup > Bulk Data Load Jobs). "
                "Rows it had not come to stay due and go with the next run."
            )

    def _results(
        self, found: Mapping[str, Any], part: Part, sent: int, *, resumed: bool = False
    ) -> Generator[Event, None, int]:
        """Outcomes of the rows that have one; hands back how many rows the org did not come to."""
        job, operation, tally = str(found["id"]), self._request.operation, Tally()
        yield from bulk_results.successful(self._connection, job, part.index, operation, tally)
        if found.get("numberRecordsFailed") or found["state"] != "JobComplete":
            # Bulk API 2.0 has no header for duplicate rules, Collections have.
            again = (DUPLICATES_DETECTED,) if read_options(self._request.options).allow_duplicates else ()
            yield from bulk_results.failed(self._connection, job, part.index, operation, tally, again)
        if found["state"] != "JobComplete":
            bulk_results.unprocessed(self._connection, job, part.index, tally)
        yield from self._once_more(tally, part, resumed=resumed)
        left = sent - tally.successful - tally.failed
        ended_early = found["state"] != "JobComplete"
        if ended_early and left > 0:
            reason = found.get("errorMessage") or f"the job is {found['state']}"
            yield Progress(f"Bulk job {job}: {left:,} rows were not processed ({reason}); they stay due")
        # Rows of batches beyond the daily allocation are in none of the three files.
        adds_up = tally.total == sent or (ended_early and tally.total < sent)
        if not adds_up or tally.unknown:
            raise ResultsUnclear(
                f"salesforce: Bulk job {job} for {self._request.object} does not add up: {sent:,} rows sent; "
                f"results name {tally.successful:,} successful, {tally.failed:,} failed and "
                f"{tally.unprocessed:,} unprocessed rows, {tally.unknown:,} of which were not sent. "
                "Rows with a result are settled, the others stay due."
            )
        return max(0, left)

    def _once_more(self, tally: Tally, part: Part, *, resumed: bool) -> Iterator[Event]:
        """Rows that met a lock or an alert go again, one call at a time; the job's token still covers them."""
        seqs = pa.concat_arrays([pa.array([], pa.int64()), *tally.again])
        if not len(seqs):
            return
        alert = " or a duplicate rule" if read_options(self._request.options).allow_duplicates else ""
        yield Progress(f"{len(seqs):,} rows met a lock{alert} and are sent again, {ROWS_PER_CALL} at a time")
        sender = CollectionsSender(self._connection, self._settings, self._request)
        for chunk in rechunked(part.rows_of(seqs), ROWS_PER_CALL):
            # The run that left the job may have come as far as this, and created them.
            yield from sender.send_rows(chunk, repeated=resumed)

    def _failure(self, found: Mapping[str, Any], unprocessed: int = 0) -> DestinationError:
        words = str(found.get("errorMessage") or "no reason given")
        called = f"salesforce: Bulk job {found['id']} for {self._request.object}"
        if unprocessed:
            text = f"{called} failed before it came to {unprocessed:,} of its rows: {words}. Rows with a result are "
            text += "settled, the others go with the next run."
            passing = words.startswith(TRANSIENT_JOB_ERRORS)
            return DestinationUnreachable(text) if passing else DestinationRefused(text)
        text = f"{called} failed before any row: {words}. "
        if words.startswith(TRANSIENT_JOB_ERRORS):
            return DestinationUnreachable(text + "Nothing was written; the next run sends the rows again.")
        return DestinationRefused(
            text + "Nothing was written. Check that every mapped field exists and that the user may edit it "
            "(field-level security makes a field look as if it did not exist)."
        )


def _untouched(found: Mapping[str, Any]) -> bool:
    """Whether the org gave up on the job's header, before its first row."""
    return not found.get("numberRecordsProcessed") and not found.get("numberRecordsFailed")


def _lean_memory() -> None:
    # Arrow's own allocator keeps caches per thread that grow with every part: 250 MB against
    # 210 MB after 300,000 rows, at the same speed. Arrays made before are not affected.
    pa.set_memory_pool(pa.system_memory_pool())
