"""The drift check of a sync: what it does when Dagster executes it.

It runs when a person executes it, with the job `<sequence>_drift`, and with the sequence's
job only if `in_job` says so: reading every record back costs calls, and finds nothing right
after the records were written. An asset that is materialised by hand brings all its checks
along, as Dagster's assets do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg

from seqsync_dagster.components import checks
from seqsync_dagster.components.assets import Step, fail, holder, remembers, step_aside
from seqsync_dagster.components.outcome import Outcome
from seqsync_dagster.components.watching import Ending, watched
from seqsync_dagster.errors import LeaseHeld, SeqsyncError
from seqsync_dagster.sequence.words import drift_step

if TYPE_CHECKING:
    from seqsync_dagster.components.inputs import Inputs


def run_drift_step(context: dg.AssetCheckExecutionContext, step: Step, inputs: Inputs) -> dg.AssetCheckResult:
    """Compare one sync's records with what was acknowledged, and tell Dagster what differs."""
    with watched(context, step.sequence, drift_step(step.name), step.watches) as watchers:
        return _run_drift_step(context, replace(step, watchers=watchers), inputs)


def _run_drift_step(context: dg.AssetCheckExecutionContext, step: Step, inputs: Inputs) -> dg.AssetCheckResult:
    from seqsync_dagster.engine.drift import check_drift

    try:
        with step.site() as site:
            report = check_drift(
                site,
                step.key.path[-1],
                inputs.source,
                run_id=context.run.run_id,
                holder=holder(context),
                remembered=remembers(context.instance, step.key),
                log=context.log.info,
            )
    except LeaseHeld as held:
        step_aside(context, step, held)
    except SeqsyncError as error:
        fail(context, step, str(error), error)
    except Exception:
        step.tag(context, "failed")
        raise
    outcome: Outcome = "partial" if report.drifted else "success"
    step.tag(context, outcome, changed=report.changed, deleted=report.deleted)
    context.log.info(report.summary)
    step.ended(Ending(outcome, report.summary, report))
    return checks.of_drift(step.key, report)
