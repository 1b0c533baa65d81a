"""Runs at even intervals.

A sensor and no schedule: a cron expression knows no 45 minutes. Starts stay on one grid, however late a tick comes, and
what was missed while a run or no daemon was there is made up for by one run.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import dagster as dg

from seqsync_dagster.components.triggers.target import Target, sensor_status, what_runs
from seqsync_dagster.sequence.durations import span
from seqsync_dagster.sequence.triggers import IntervalTrigger

_LOOK_S = 30


def build_interval(target: Target, trigger: IntervalTrigger, name: str) -> dg.SensorDefinition:
    """The sensor. Its cursor is when the interval that runs began, in seconds since 1970."""

    @dg.sensor(
        name=name,
        job_name=target.job,
        minimum_interval_seconds=_LOOK_S,
        default_status=sensor_status(trigger.enabled),
        description=f"{what_runs(target.job, trigger.build)} every {trigger.every}, the first time when "
        "it is switched on. While a run is under way, the next one waits for its end.",
    )
    def tick(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        began, reason = start_of_interval(context.cursor, trigger, time.time())
        if reason is None:
            reason = target.busy(context.instance)
        if reason is not None:
            return dg.SkipReason(reason)
        request = target.run(str(began), f"every {trigger.every}", build=trigger.build)
        return dg.SensorResult(run_requests=[request], cursor=str(began))

    return tick


def start_of_interval(cursor: str | None, trigger: IntervalTrigger, now: float) -> tuple[int, str | None]:
    """When the interval that `now` is in began; and why it is no new one, or None when it is."""
    length = int(trigger.interval.total_seconds())
    # A clock that was set back would make the next start wait for as long.
    if cursor is None or int(cursor) > now:
        return int(now), None
    began = int(cursor)
    passed = int(now - began) // length
    if passed:
        return began + passed * length, None
    due = datetime.fromtimestamp(began + length, UTC)
    left = timedelta(seconds=max(1, round(began + length - now)))
    return began, (
        f"The next run is due in {span(left)}, at {due:%Y-%m-%d %H:%M} UTC: every {trigger.every} since "
        f"{datetime.fromtimestamp(began, UTC):%Y-%m-%d %H:%M} UTC."
    )
