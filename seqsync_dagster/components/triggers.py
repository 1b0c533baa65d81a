"""When a sequence runs by itself: cron schedules, and a sensor on its models."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from zoneinfo import available_timezones

import dagster as dg

from seqsync_dagster.errors import SeqsyncError
from seqsync_dagster.sequence.strict import nearest
from seqsync_dagster.sequence.triggers import CronTrigger, ModelsTrigger

if TYPE_CHECKING:
    from seqsync_dagster.sequence.spec import SequenceSpec

#: Says which living run holds the lease of one of the sequence's syncs, as ``crm/accounts is held by run 1234abcd``.
HeldBy = Callable[[], str | None]

#: Run tag that says what started the run.
TRIGGER = "seqsync/trigger"

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


def build_schedules(
    sequence: SequenceSpec, held_by: HeldBy, error: Callable[..., Exception]
) -> Iterator[dg.ScheduleDefinition]:
    """One schedule per cron trigger. `error` makes the exception for a trigger that Dagster cannot use."""
    number = 0
    for index, trigger in enumerate(sequence.runs_on):
        if isinstance(trigger, CronTrigger):
            number += 1
            name = f"{sequence.name}_schedule" + (f"_{number}" if number > 1 else "")
            if trigger.timezone not in available_timezones():
                raise error(
                    f"timezone {trigger.timezone!r} is no known time zone."
                    f"{nearest(trigger.timezone, available_timezones())} Zones look like Europe/Paris or UTC.",
                    "runs_on",
                    index,
                    "timezone",
                )
            try:
                schedule = _schedule(name, sequence.name, trigger, held_by)
            except dg.DagsterInvalidDefinitionError:
                raise error(
                    f"cron {trigger.cron!r} is no cron expression. It has five fields, minute hour day month weekday, "
                    'e.g. "0 * * * *" for every full hour.',
                    "runs_on",
                    index,
                    "cron",
                ) from None
            yield schedule


def build_sensors(
    sequence: SequenceSpec,
    models: Sequence[dg.AssetKey],
    launches: Sequence[dg.AssetKey],
    held_by: HeldBy,
    error: Callable[..., Exception],
) -> Iterator[dg.SensorDefinition]:
    """The sensor on the models, when there is a trigger for it."""
    triggers = [(i, t) for i, t in enumerate(sequence.runs_on) if isinstance(t, ModelsTrigger)]
    if len(triggers) > 1:
        second = triggers[1][0]
        raise error("runs_on names models twice; one of {models: all} and {models: any} counts.", "runs_on", second)
    for index, trigger in triggers:
        if not models:
            raise error(
                "runs_on: models needs syncs that read a dbt model, or that name assets in deps.", "runs_on", index
            )
        need = len(models) if trigger.models == "all" else 1
        yield _sensor(sequence.name, models, need, list(launches), held_by)


def _schedule(name: str, job: str, trigger: CronTrigger, held_by: HeldBy) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=name,
        job_name=job,
        cron_schedule=trigger.cron,
        execution_timezone=trigger.timezone,
        description=f"Builds the models and runs the sequence {job}. A tick is skipped while a run is under way.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | dg.RunRequest:
        if reason := busy(context.instance, job, held_by):
            return dg.SkipReason(reason)
        return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat(), tags={TRIGGER: "schedule"})

    return tick


def _sensor(
    job: str, models: Sequence[dg.AssetKey], need: int, launches: Sequence[dg.AssetKey], held_by: HeldBy
) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{job}_models",
        job_name=job,
        minimum_interval_seconds=30,
        description=f"Runs the syncs of {job}, without building models, when {need} of {len(models)} models were "
        "materialised by something else.",
    )
    def tick(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        seen: dict[str, int] = json.loads(context.cursor or "{}")
        fresh: dict[str, int] = {}
        for model in models:
            record = next(iter(context.instance.fetch_materializations(model, limit=1).records), None)
            if record is None:
                continue
            name = model.to_user_string()
            run = context.instance.get_run_by_id(record.run_id)
            # Before the first tick everything is old; what the sequence built itself is no news to it.
            if context.cursor is None or (run is not None and run.job_name == job):
                seen[name] = record.storage_id
            elif record.storage_id > seen.get(name, 0):
                fresh[name] = record.storage_id
        if len(fresh) < need:
            waiting = [m.to_user_string() for m in models if m.to_user_string() not in fresh]
            return dg.SensorResult(
                skip_reason=f"{len(fresh)} of {len(models)} models are new; waiting for {', '.join(waiting)}.",
                cursor=json.dumps(seen),
            )
        if reason := busy(context.instance, job, held_by):
            # The cursor stays, so the news is still news when that run has ended.
            return dg.SkipReason(reason)
        seen |= fresh
        cursor = json.dumps(seen, sort_keys=True)
        request = dg.RunRequest(
            run_key=cursor, asset_selection=list(launches), tags={TRIGGER: f"models {', '.join(fresh)}"}
        )
        return dg.SensorResult(run_requests=[request], cursor=cursor)

    return tick


def busy(instance: dg.DagsterInstance, job: str, held_by: HeldBy, now: float | None = None) -> str | None:
    """Why a run of `job` must not be started now; None when it may."""
    records = instance.get_run_records(dg.RunsFilter(job_name=job, statuses=_ACTIVE), limit=10)
    for record in records:
        run = record.dagster_run
        text = f"{job} is already running: run {run.run_id[:8]} ({run.status.value.lower()})."
        if run.status == dg.DagsterRunStatus.QUEUED:
            return text
        if (now or time.time()) - _last_sign_of_life(instance, record) < SILENT_S:
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


def _last_sign_of_life(instance: dg.DagsterInstance, record: dg.RunRecord) -> float:
    latest = instance.get_records_for_run(record.dagster_run.run_id, limit=1, ascending=False).records
    if latest:
        return latest[0].timestamp
    return record.start_time or record.create_timestamp.timestamp()
