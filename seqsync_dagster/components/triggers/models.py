"""Runs when the models were built by something else than the sequence itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import dagster as dg

from seqsync_dagster.components.triggers.runs import elsewhere, own_location
from seqsync_dagster.components.triggers.target import Target, listed, sensor_status, what_runs
from seqsync_dagster.sequence.triggers import ModelsTrigger


def build_models(
    target: Target, trigger: ModelsTrigger, models: Sequence[dg.AssetKey], name: str
) -> dg.SensorDefinition:
    """The sensor. Its cursor is, for each model, the latest materialisation that is no news any more; 0: none."""
    need = len(models) if trigger.models == "all" else 1

    @dg.sensor(
        name=name,
        job_name=target.job,
        minimum_interval_seconds=30,
        default_status=sensor_status(trigger.enabled),
        description=f"{what_runs(target.job, build=False)} when {need} of {len(models)} models were materialised by "
        "something else.",
    )
    def tick(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        before: Mapping[str, int] | None = None if context.cursor is None else json.loads(context.cursor)
        seen, fresh = _news(context, target, models, before)
        if len(fresh) < need:
            waiting = [
                f"{name} (never built)" if not last else name for name, last in seen.items() if name not in fresh
            ]
            return dg.SensorResult(
                skip_reason=f"{len(fresh)} of {len(models)} models are new; waiting for {listed(waiting)}.",
                cursor=json.dumps(seen),
            )
        if reason := target.busy(context.instance):
            # The cursor stays, so the news is still news when that run has ended.
            return dg.SkipReason(reason)
        cursor = json.dumps(seen | fresh, sort_keys=True)
        # It becomes a tag, and PostgreSQL's index over those takes no long ones.
        run_key = hashlib.sha256(cursor.encode()).hexdigest()
        request = target.run(run_key, f"models {listed(list(fresh))}", build=False)
        return dg.SensorResult(run_requests=[request], cursor=cursor)

    return tick


def _news(
    context: dg.SensorEvaluationContext,
    target: Target,
    models: Sequence[dg.AssetKey],
    before: Mapping[str, int] | None,
) -> tuple[dict[str, int], dict[str, int]]:
    """Per model the latest materialisation: of those that are no news, and of those that are."""
    seen: dict[str, int] = {}
    fresh: dict[str, int] = {}
    for model in models:
        name = model.to_user_string()
        record = next(iter(context.instance.fetch_materializations(model, limit=1).records), None)
        latest = record.storage_id if record else 0
        # What was built before the first look at it is old: at the first tick, and when a sync was added later.
        known = latest if before is None else before.get(name, latest)
        if record is not None and latest > known and not _own(context, target, record.run_id):
            seen[name], fresh[name] = known, latest
        else:
            seen[name] = latest
    return seen, fresh


def _own(context: dg.SensorEvaluationContext, target: Target, run_id: str) -> bool:
    """Whether a run has built the model that runs the syncs too, so that nothing is left to do for its sake."""
    run = context.instance.get_run_by_id(run_id)
    if run is None or elsewhere(run, own_location(context)):
        return False
    return run.job_name == target.job or frozenset(target.syncs) <= (run.asset_selection or frozenset())
