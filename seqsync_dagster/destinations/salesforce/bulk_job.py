"""The life of a Bulk API 2.0 ingest job: create, upload, close, wait, abort.

Bulk API 2.0 developer guide, "Walkthrough for Bulk Ingest" and "Job states".
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from typing import IO, Any

from seqsync_dagster.destinations.protocol import Progress, Request
from seqsync_dagster.destinations.salesforce.connection import CallRefused, Connection
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings
from seqsync_dagster.destinations.salesforce.sync_options import read_options
from seqsync_dagster.errors import DestinationStillBusy, DestinationUnreachable

ENDED = ("JobComplete", "Failed", "Aborted")

_FIRST_POLL_S = 0.05
_POLL_GROWTH = 1.6
_LONGEST_POLL_S = 30.0
#: Progress goes to a log that is read by people.
_PROGRESS_EVERY_S = 5.0


class JobDeleted(DestinationUnreachable):
    """Somebody deleted a job in the org while it was needed."""

    def __init__(self, job: str) -> None:
        super().__init__(
            f"salesforce: Bulk job {job} was deleted in the org before its results were read. "
            "The next run sends its rows again."
        )


class BulkJobs:
    """Ingest jobs of one org. A job is aborted on request only, never because a poll failed."""

    def __init__(self, connection: Connection, settings: SalesforceSettings) -> None:
        self._connection = connection
        self._settings = settings

    def create(self, request: Request) -> str:
        """Open a job and hand back its id. An Open job that nobody uploads to expires by itself."""
        body = {
            "object": request.object,
            "operation": request.operation,
            "contentType": "CSV",
            "lineEnding": "LF",
            "columnDelimiter": "COMMA",
        }
        if request.operation == "upsert":
            body["externalIdFieldName"] = str(request.match)
        rule = read_options(request.options).rule
        if rule is not None and request.operation != "delete":
            body["assignmentRuleId"] = rule
        try:
            return str(self._connection.call("POST", "jobs/ingest", json=body).json("id")["id"])
        except CallRefused as refusal:
            if "QUOTA" in refusal.code.upper() or "LIMIT" in refusal.code.upper():
                raise DestinationUnreachable(
                    f"{refusal} The limits are rolling ones: the next run goes on from here."
                ) from None
            raise

    def upload(self, job: str, csv: IO[bytes]) -> None:
        """Stream the file into the job, which takes one upload only."""
        try:
            self._connection.call("PUT", f"jobs/ingest/{job}/batches", body=csv)
        except CallRefused as refusal:
            if refusal.status == 404:
                raise JobDeleted(job) from None
            # An earlier try arrived whole although its reply did not.
            if "multiple contents" not in refusal.words:
                raise

    def close(self, job: str) -> None:
        """Say that the upload is complete; the org starts working."""
        self._patch(job, "UploadComplete")

    def abort(self, job: str) -> Mapping[str, Any] | None:
        """Stop a job that has not started, and hand back the job as it then is, None when it no longer exists."""
        with suppress(JobDeleted):
            self._patch(job, "Aborted")
        return self.look(job)

    def look(self, job: str) -> Mapping[str, Any] | None:
        """The job as the org sees it, None when it no longer exists (jobs live 7 days)."""
        try:
            found: Mapping[str, Any] = self._connection.call("GET", f"jobs/ingest/{job}").json("id", "state")
        except CallRefused as refusal:
            if refusal.status == 404:
                return None
            raise
        return found

    def wait(self, job: str, rows: int, before: int, total: int) -> Generator[Progress, None, Mapping[str, Any] | None]:
        """Wait until the job has ended and hand it back.

        `before` rows of `total` were done by earlier jobs. Raises
        `DestinationStillBusy` after `bulk_wait_s`; the job goes on.
        """
        started = time.monotonic()
        said = -_PROGRESS_EVERY_S
        pause = _FIRST_POLL_S
        while True:
            found = self.look(job)
            if found is None or found["state"] in ENDED:
                return found
            waited = time.monotonic() - started
            done = int(found.get("numberRecordsProcessed") or 0)
            if waited - said >= _PROGRESS_EVERY_S:
                said = waited
                text = f"Bulk job {job} is {found['state']}: {done:,} of {rows:,} rows processed"
                yield Progress(text, done=before + done, total=total)
            if waited >= self._settings.bulk_wait_s:
                raise DestinationStillBusy(
                    f"salesforce: Bulk job {job} is still {found['state']} after {waited:.0f} s "
                    f"({done:,} of {rows:,} rows processed). It goes on in the org; the next run takes it up. "
                    "bulk_wait_s sets how long a run waits."
                )
            # Growing pauses alone would notice the end of a job half its length too late.
            left = waited * (rows - done) / done if done else pause
            nap = max(min(pause, left), pause / 8, _FIRST_POLL_S) * random.uniform(0.9, 1.1)
            time.sleep(min(nap, max(0.0, self._settings.bulk_wait_s - waited)))
            pause = min(pause * _POLL_GROWTH, _LONGEST_POLL_S)

    def _patch(self, job: str, state: str) -> None:
        try:
            self._connection.call("PATCH", f"jobs/ingest/{job}", json={"state": state})
        except CallRefused as refusal:
            if refusal.status == 404:
                raise JobDeleted(job) from None
            # The job has left Open already: an earlier try of this call arrived, or someone was faster.
            if "STATE" not in refusal.code.upper():
                raise
