"""One asset per sync, and the closing one: what they do when Dagster runs them.

Three events of a step are independent: its output lets the children go, the materialisation
shows the asset as fresh, a failure makes step and run red. Which of them are emitted:

    a run that ends                  | output | materialised | red  | tag seqsync/outcome
    in order                         | yes    | yes          | no   | success
    with rejected, held, invalid rows| yes    | yes          | no   | partial
    with too many rejected rows      | yes    | yes          | yes  | failed
    while the destination still works| yes    | no           | no   | partial
    with the API budget spent        | yes    | no           | no   | partial
    with nothing sent (error)        | no     | no           | yes  | failed
    because another run is at it     | no     | no           | cancelled
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import dagster as dg

from seqsync_dagster.components import checks, metadata
from seqsync_dagster.components.gate import check_gate
from seqsync_dagster.components.outcome import Outcome, tag_run
from seqsync_dagster.components.private import HIDE
from seqsync_dagster.errors import BudgetSpent, DestinationStillBusy, GuardTripped, LeaseHeld, SeqsyncError

if TYPE_CHECKING:
    from seqsync_dagster.components.inputs import Inputs
    from seqsync_dagster.components.options import RunOptionsResource
    from seqsync_dagster.engine.report import FinishReport, SyncReport
    from seqsync_dagster.engine.run import Site

Events = Iterator[Any]
Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext


@dataclass(frozen=True)
class Step:
    """What the asset of one sync, or of `finish`, works with."""

    key: dg.AssetKey
    open_site: Callable[[], AbstractContextManager[Site]]

    @property
    def label(self) -> str:
        """``sequence/sync``."""
        return self.key.to_user_string()


def run_sync_step(context: dg.AssetExecutionContext, options: RunOptionsResource, step: Step, inputs: Inputs) -> Events:
    """Run one sync, and tell Dagster what became of its rows."""
    _refuse_checks_alone(context, step)
    try:
        # Before anything is opened: a closed gate costs no connection.
        if inputs.model is not None:
            check_gate(context.instance, step.label, inputs.source.label, inputs.tests)
        report = _run_sync(context, options, step, inputs)
    except (DestinationStillBusy, BudgetSpent) as busy:
        yield from _in_progress(context, step, busy)
        return
    except GuardTripped as tripped:
        message = _how_to_approve(tripped)
        if _wants_check(context, step, "guards"):
            yield checks.tripped(step.key, message, tripped.plan_id)
        fail(context, message, tripped, {"seqsync/plan_id": tripped.plan_id})
    except LeaseHeld as held:
        step_aside(context, held)
    except SeqsyncError as error:
        fail(context, str(error), error)
    except Exception:
        tag_run(context, "failed")
        raise
    yield from _settled(context, step, report)


def run_finish_step(context: dg.AssetExecutionContext, options: RunOptionsResource, step: Step) -> Events:
    """Close the sequence: references that rows went without, then removals, children first."""
    _refuse_checks_alone(context, step)
    from seqsync_dagster.engine.finish import run_finish

    try:
        with step.open_site() as site:
            report: FinishReport = run_finish(
                site, options.read(), run_id=context.run_id, holder=holder(context), log=context.log.info
            )
    except (DestinationStillBusy, BudgetSpent) as busy:
        yield from _in_progress(context, step, busy)
        return
    except LeaseHeld as held:
        step_aside(context, held)
    except SeqsyncError as error:
        fail(context, str(error), error)
    except Exception:
        tag_run(context, "failed")
        raise
    rejected = sum(report.rejected.values())
    unfilled = {
        "references_rejected": sum(report.references_rejected.values()) + sum(report.references_waiting.values()),
        "references_held": sum(report.references_held.values()),
    }
    failed = checks.nothing_removed(report) or bool(report.references_over_limit)
    tag_run(
        context,
        "failed" if failed else "partial" if rejected or any(unfilled.values()) else "success",
        removed=sum(report.removed.values()),
        removals_rejected=rejected,
        **unfilled,
    )
    context.log.info(report.summary)
    yield dg.MaterializeResult(
        asset_key=step.key,
        metadata=metadata.of_finish(report),
        check_results=[
            result
            for result in (checks.of_finish(step.key, report), checks.of_references(step.key, report))
            if _wants_check(context, step, str(result.check_name))
        ],
    )
    if failed:
        raise dg.Failure(description=report.summary, allow_retries=False)


def _run_sync(context: dg.AssetExecutionContext, options: RunOptionsResource, step: Step, inputs: Inputs) -> SyncReport:
    from seqsync_dagster.engine.run import run_sync

    with step.open_site() as site:
        return run_sync(
            site,
            step.key.path[-1],
            inputs.source,
            options.read(),
            run_id=context.run_id,
            holder=holder(context),
            remembered=remembers(context.instance, step.key),
            log=context.log.info,
        )


def remembers(instance: dg.DagsterInstance, key: dg.AssetKey) -> bool:
    """Whether Dagster knows a materialisation of this asset that a run of ours made."""
    records = instance.fetch_materializations(key, limit=20).records
    return any(
        record.asset_materialization is not None and metadata.PLAN_ID in record.asset_materialization.metadata
        for record in records
    )


def _settled(context: dg.AssetExecutionContext, step: Step, report: SyncReport) -> Events:
    counts = report.counts
    outcome: Outcome = "failed" if report.verdict == "over_limit" else report.verdict
    tag_run(
        context,
        outcome,
        rejected=counts.rejected,
        waiting=counts.waiting,
        held=counts.held,
        invalid=counts.invalid,
    )
    context.log.info(report.summary)
    yield dg.MaterializeResult(
        asset_key=step.key,
        metadata=metadata.of_run(report),
        check_results=[
            result for result in checks.of_run(step.key, report) if _wants_check(context, step, str(result.check_name))
        ],
    )
    if report.verdict == "over_limit":
        # After the output: the rows are settled, and the children hold those whose parent is missing.
        raise dg.Failure(
            description=report.summary,
            metadata={"seqsync/plan_id": report.plan_id, "seqsync/rejected": counts.rejected},
            allow_retries=False,
        )


def _in_progress(context: dg.AssetExecutionContext, step: Step, busy: DestinationStillBusy | BudgetSpent) -> Events:
    message = f"{step.label} is in progress: {busy} The next run takes it up where this one left it."
    context.log.warning(message)
    waiting = busy.rows_waiting if isinstance(busy, BudgetSpent) else 0
    tag_run(context, "partial", in_progress=1, rows_waiting=waiting)
    shown = {"seqsync/in_progress": True, **({"seqsync/rows_waiting": waiting} if waiting else {})}
    yield dg.AssetObservation(step.key, description=message, metadata=shown)
    yield dg.MaterializeResult(asset_key=step.key, metadata={HIDE: True})


def _how_to_approve(tripped: GuardTripped) -> str:
    message = str(tripped)
    if "approve_plan" in message:
        return message
    return f"{message} To send exactly this plan, start the run again with the config approve_plan: {tripped.plan_id}."


def fail(context: Context, message: str, error: SeqsyncError, extra: dict[str, Any] | None = None) -> NoReturn:
    """End the step as failed, with the error's own words and without its traceback."""
    tag_run(context, "failed")
    raise dg.Failure(
        description=message,
        metadata={"seqsync/error": type(error).__name__, **(extra or {})},
        allow_retries=False,
    ) from None


def step_aside(context: Context, held: LeaseHeld) -> NoReturn:
    """End the run as cancelled, because another run is at work on the sync."""
    # A failed run would page somebody because another run does its work.
    context.instance.add_run_tags(context.run.run_id, {"seqsync/refused": f"held by {held.holder}"})
    context.instance.report_run_canceling(context.run, message=f"{held} This run sends nothing.")
    raise dg.DagsterExecutionInterruptedError(str(held)) from None


def _refuse_checks_alone(context: dg.AssetExecutionContext, step: Step) -> None:
    if step.key not in context.selected_asset_keys:
        raise dg.Failure(
            description=f"The checks of {step.label} are results of its runs and cannot be evaluated alone. "
            f"Materialise {step.label}.",
            allow_retries=False,
        )


def _wants_check(context: dg.AssetExecutionContext, step: Step, name: str) -> bool:
    return dg.AssetCheckKey(step.key, name) in context.selected_asset_check_keys


def holder(context: Context) -> str:
    """The run, as it is named to people who find the sync busy."""
    name, tags = f"run {context.run.run_id[:8]}", context.run.tags
    # Dagster+ and launchers that know their users say so in a tag.
    user = tags.get("user") or tags.get("dagster/user")
    return f"{name} by {user}" if user else name
