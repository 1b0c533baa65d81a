"""Runs when another sequence has come to its end, in this code location or another one of the same Dagster."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from seqsync_dagster.components.triggers.runs import elsewhere, location_of, own_location
from seqsync_dagster.components.triggers.target import Target, sensor_status, what_runs
from seqsync_dagster.sequence.triggers import AfterTrigger
from seqsync_dagster.sequence.words import FINISH

#: Run tag: the sequences whose ends have led to this run, one after the other.
AFTER = "seqsync/after"

_ENDS = {
    "success": (dg.DagsterEventType.RUN_SUCCESS,),
    "finished": (dg.DagsterEventType.RUN_SUCCESS, dg.DagsterEventType.RUN_FAILURE),
}
_PAGE = 500
#: So that a tick stays short after a long absence; the next ones go on.
_PAGES = 20


def build_after(target: Target, trigger: AfterTrigger, name: str) -> dg.SensorDefinition:
    """The sensor. Its cursor is, for each kind of end, the number of the last event that was looked at."""
    where = f" in the code location {trigger.location}" if trigger.location else ""
    how = "succeeded" if trigger.when == "success" else "ended"

    @dg.sensor(
        name=name,
        job_name=target.job,
        minimum_interval_seconds=30,
        default_status=sensor_status(trigger.enabled),
        description=f"{what_runs(target.job, trigger.build)} when a run of {trigger.after}{where} has {how}.",
    )
    def tick(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if context.cursor is None:
            return dg.SensorResult(
                skip_reason=f"Runs of {trigger.after}{where} that end from now on count.",
                cursor=json.dumps({kind.value: _latest(context.instance, kind) for kind in _ENDS[trigger.when]}),
            )
        seen: Mapping[str, int] = json.loads(context.cursor)
        ended, reached = _ended_since(context.instance, trigger, seen)
        cursor = json.dumps(reached)
        location = own_location(context)
        reason = f"No run of {trigger.after}{where} has {how} since the last look."
        if not ended and not context.instance.get_run_records(dg.RunsFilter(job_name=trigger.after), limit=1):
            # Of a sequence in another code location nobody could say at load whether it is there.
            reason = f"Dagster has never seen a run of {trigger.after}{where}. Unless it is new, the name is wrong."
        for run in reversed(ended):
            no = _why_not(run, trigger, location) or _circle(run, target.job, location)
            if no is None:
                if busy := target.busy(context.instance):
                    # The cursor stays, so the end is still news when that run has ended.
                    return dg.SkipReason(busy)
                request = target.run(
                    run.run_id,
                    f"after {trigger.after} run {run.run_id[:8]}",
                    build=trigger.build,
                    tags={AFTER: ", ".join(_chain(run))},
                )
                return dg.SensorResult(run_requests=[request], cursor=cursor)
            reason = f"Run {run.run_id[:8]} of {run.job_name} does not count: {no}"
        return dg.SensorResult(skip_reason=reason, cursor=cursor)

    return tick


def _latest(instance: dg.DagsterInstance, kind: Any) -> int:
    records = instance.fetch_run_status_changes(kind, limit=1).records
    return records[0].storage_id if records else 0


def _ended_since(
    instance: dg.DagsterInstance, trigger: AfterTrigger, seen: Mapping[str, int]
) -> tuple[list[dg.DagsterRun], dict[str, int]]:
    """The runs of the other sequence that have ended since, the latest last; and how far was looked.

    Ends and not runs are followed: a run that began earlier may end later.
    """
    found: dict[int, str] = {}
    reached: dict[str, int] = {}
    for kind in _ENDS[trigger.when]:
        # A kind of end that the trigger says only now is looked at from now on.
        after = reached[kind.value] = seen[kind.value] if kind.value in seen else _latest(instance, kind)
        for record in _events(instance, kind, after):
            reached[kind.value] = record.storage_id
            if record.event_log_entry.job_name == trigger.after:
                found[record.storage_id] = record.run_id
    runs = [instance.get_run_by_id(run_id) for _, run_id in sorted(found.items())]
    return [run for run in runs if run is not None], reached


def _events(instance: dg.DagsterInstance, kind: Any, after: int) -> Iterator[dg.EventLogRecord]:
    for _ in range(_PAGES):
        wanted = dg.RunStatusChangeRecordsFilter(kind, after_storage_id=after)
        page = instance.fetch_run_status_changes(wanted, limit=_PAGE, ascending=True).records
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].storage_id


def _why_not(run: dg.DagsterRun, trigger: AfterTrigger, location: str | None) -> str | None:
    wanted = trigger.location or location
    if elsewhere(run, wanted):
        return f"it is of the code location {location_of(run)}, and not of {wanted}."
    if run.asset_selection and dg.AssetKey([trigger.after, FINISH]) not in run.asset_selection:
        return f"it was of some syncs only, without {trigger.after}/{FINISH}."
    return None


def _circle(run: dg.DagsterRun, job: str, location: str | None) -> str | None:
    # What one location's YAML shows is refused at load; over several locations a circle shows in its runs only.
    chain = _chain(run)
    if job in chain or f"{job}@{location}" in chain:
        return f"it was started after {job} itself ({', '.join(chain)}), and that would go on for ever."
    return None


def _chain(run: dg.DagsterRun) -> list[str]:
    """The sequences that led to whatever starts after this run, the run's own last."""
    where = location_of(run)
    before = [name for name in run.tags.get(AFTER, "").split(", ") if name]
    return [*before, f"{run.job_name}@{where}" if where else run.job_name]
