"""Whether a run of a sequence is under way, so that none is started beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import dagster as dg

from seqsync_dagster.errors import SeqsyncError

#: Says which living run holds the lease of one of the sequence's syncs, as ``crm/accounts is held by run 1234abcd``.
HeldBy = Callable[[], str | None]

#: A run that was killed stays "started" for ever; one that has been silent for so long counts only while it
#: holds a lease.
SILENT_S = 600

_ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def busy(instance: dg.DagsterInstance, job: str, held_by: HeldBy, now: float | None = None) -> str | None:
    """Why a run of `job` must not be started now; None when it may."""
    records = instance.get_run_records(dg.RunsFilter(job_name=job, statuses=_ACTIVE), limit=10)
    for record in records:
        run = record.dagster_run
        text = f"{job} is already running: run {run.run_id[:8]} ({run.status.value.lower()})."
        if run.status == dg.DagsterRunStatus.QUEUED:
            return text
        sign_of_life = _last_sign_of_life(instance, record)
        if (now or time.time()) - sign_of_life < SILENT_S and not _outlived(instance, job, sign_of_life):
            return text
        try:
            if held_by():
                return text
        except SeqsyncError as error:
            return f"{text} Whether it is alive cannot be told: {error}"
    # Somebody may have materialised a sync by hand, or run it from another Dagster: such runs are not of this job.
    # Where the journal cannot be asked, the run that starts will say why.
    with suppress(SeqsyncError):
        if held := held_by():
            return f"{job} is at work already: {held}."
    return None


def _outlived(instance: dg.DagsterInstance, job: str, sign_of_life: float) -> bool:
    """Whether another run of the job has begun and ended since then, and what is alive has said nothing meanwhile."""
    ended = dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE])
    latest = next(iter(instance.get_run_records(ended, limit=1)), None)
    return latest is not None and latest.start_time is not None and latest.start_time > sign_of_life


def _last_sign_of_life(instance: dg.DagsterInstance, record: dg.RunRecord) -> float:
    latest = instance.get_records_for_run(record.dagster_run.run_id, limit=1, ascending=False).records
    if latest:
        return latest[0].timestamp
    return record.start_time or record.create_timestamp.timestamp()
