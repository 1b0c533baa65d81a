"""Runs at the times of a cron expression."""

from __future__ import annotations

import dagster as dg

from seqsync_dagster.components.triggers.target import Target, what_runs
from seqsync_dagster.sequence.triggers import CronTrigger
from seqsync_dagster.sequence.words import known_zone


def build_cron(target: Target, index: int, trigger: CronTrigger, name: str) -> dg.ScheduleDefinition:
    """The schedule. Raises the target's error for a zone or an expression that Dagster cannot use."""
    try:
        known_zone(trigger.timezone, "timezone")
    except ValueError as error:
        raise target.error(str(error), "runs_on", index, "timezone") from None
    try:
        return _schedule(target, trigger, name)
    except dg.DagsterInvalidDefinitionError:
        raise target.error(
            f"cron {trigger.cron!r} is no cron expression. It has five fields, minute hour day month weekday, "
            'e.g. "0 * * * *" for every full hour.',
            "runs_on",
            index,
            "cron",
        ) from None


def _schedule(target: Target, trigger: CronTrigger, name: str) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=name,
        job_name=target.job,
        cron_schedule=trigger.cron,
        execution_timezone=trigger.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING if trigger.enabled else dg.DefaultScheduleStatus.STOPPED,
        description=f"{what_runs(target.job, trigger.build)} at {trigger.cron}, {trigger.timezone}. "
        "A tick is skipped while a run is under way.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | dg.RunRequest:
        if reason := target.busy(context.instance):
            return dg.SkipReason(reason)
        return target.run(context.scheduled_execution_time.isoformat(), "schedule", build=trigger.build)

    return tick
