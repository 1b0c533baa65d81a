"""Runs when a job of dbt Cloud has succeeded."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from seqsync_dagster.components.triggers.target import Target, sensor_status, what_runs
from seqsync_dagster.errors import ConfigurationError, DbtCloudRefused, DbtCloudUnreachable
from seqsync_dagster.sequence.triggers import DbtCloudTrigger

if TYPE_CHECKING:
    from seqsync_dagster.components.triggers.dbt_cloud_api import Ended

#: Two calls per look, of an API that counts calls.
_LOOK_S = 60


def build_dbt_cloud(target: Target, trigger: DbtCloudTrigger, name: str) -> dg.SensorDefinition:
    """The sensor. A look that dbt Cloud does not answer is skipped; one that it refuses is a failed tick."""
    told = f"dbt Cloud job {_shown(trigger)}"

    @dg.sensor(
        name=name,
        job_name=target.job,
        minimum_interval_seconds=_LOOK_S,
        default_status=sensor_status(trigger.enabled),
        description=f"{what_runs(target.job, build=False)} when the {told} has succeeded.",
    )
    def tick(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        # Imported here: it takes a second, and only the daemon's ticks need it.
        from seqsync_dagster.components.triggers.dbt_cloud_api import Ended, ended_runs

        first = context.cursor is None
        # What has ended before the first look is old, by dbt Cloud's own clock.
        after = Ended(datetime.now(UTC) - timedelta(days=1)) if context.cursor is None else _kept(context.cursor)
        try:
            ended, last = ended_runs(trigger.dbt_cloud, after)
        except DbtCloudUnreachable as error:
            return dg.SkipReason(f"{error} The next look is in {_LOOK_S} s.")
        except (ConfigurationError, DbtCloudRefused) as error:
            # Nothing but a person mends it, and skipped ticks are looked at by nobody.
            raise dg.Failure(description=str(error), allow_retries=False) from None
        cursor = json.dumps({"finished_at": last.finished_at.isoformat(), "run": last.number})
        succeeded = [run for run in ended if run.status == "success"]
        if first or not succeeded:
            reason = f"No run of the {told} has ended since the last look."
            if first:
                reason = f"Runs of the {told} that end from now on count."
            elif ended:
                reason = f"Run {ended[-1].number} of the {told} does not count: it ended as {ended[-1].status}."
            return dg.SensorResult(skip_reason=reason, cursor=cursor)
        if busy := target.busy(context.instance):
            # The cursor stays, so the end is still news when that run has ended.
            return dg.SkipReason(busy)
        number = str(succeeded[-1].number)
        return dg.SensorResult(run_requests=[target.run(number, f"{told} run {number}", build=False)], cursor=cursor)

    return tick


def _shown(trigger: DbtCloudTrigger) -> str:
    job = trigger.dbt_cloud.job
    return str(job) if isinstance(job, int) else f"of {job.env}"


def _kept(cursor: str) -> Ended:
    from seqsync_dagster.components.triggers.dbt_cloud_api import Ended

    kept = json.loads(cursor)
    return Ended(datetime.fromisoformat(kept["finished_at"]), kept["run"])
