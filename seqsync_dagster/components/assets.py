"""One asset per sync, and the closing one: what they do when Dagster runs them.

Three events of a step are independent: its output lets the children go, the materialisation
shows the asset as fresh, a failure makes step and run red. Which of them are emitted:

    a run that ends                  | output | materialised | red  | tag seqsync/outcome
    in order                         | yes    | yes          | no   | success
    with rejected, held, invalid rows| yes    | yes          | no   | partial
    with too many rejected rows      |        |              |      |
      rejected_rows: hold_children   | yes    | yes          | yes  | failed
      rejected_rows: stop            | no     | yes          | yes  | failed
    while the destination still works| yes    | no           | no   | partial
    with the API budget spent        | yes    | no           | no   | partial
    with nothing sent (error)        |        |              |      |
      fatal: stop                    | no     | no           | yes  | failed
      fatal: continue                | yes    | no           | yes  | failed
    because a sync above is stopped  | no     | no           | yes  | failed
    because another run is at it     | no     | no           | cancelled
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import dagster as dg

from seqsync_dagster.components import checks, metadata
from seqsync_dagster.components.gate import check_gate
from seqsync_dagster.components.objects import written
from seqsync_dagster.components.outcome import STOPPED, Outcome, tag_run
from seqsync_dagster.components.private import HIDE
from seqsync_dagster.components.watching import Ending, Watch, Watchers, watched
from seqsync_dagster.errors import (
    BudgetSpent,
    DestinationStillBusy,
    GuardTripped,
    LeaseHeld,
    LeaseLost,
    PlanOutdated,
    SeqsyncError,
    SequenceStopped,
    Unfulfillable,
)

if TYPE_CHECKING:
    from seqsync_dagster.components.inputs import Inputs
    from seqsync_dagster.components.options import RunOptionsResource
    from seqsync_dagster.engine.report import FinishReport, SyncReport
    from seqsync_dagster.engine.run import Site
    from seqsync_dagster.engine.standing import Standing
    from seqsync_dagster.engine.telling import Tell
    from seqsync_dagster.journal.store import Journal
    from seqsync_dagster.sequence.spec import SequenceSpec

Events = Iterator[Any]
Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext


@dataclass(frozen=True)
class Step:
    """What the asset of one sync, or of `finish`, works with."""

    key: dg.AssetKey
    open_site: Callable[[Tell | None], AbstractContextManager[Site]]
    open_journal: Callable[[], AbstractContextManager[Journal]]
    sequence: SequenceSpec
    in_turn: Callable[[], AbstractContextManager[None]] = nullcontext
    """Entered while a run's tags are changed: its steps may be processes of their own."""
    watches: Sequence[Watch] = ()
    """Who wants to hear of the step."""
    watchers: Watchers | None = None
    """Those who follow the run that is under way."""

    def ended(self, ending: Ending) -> None:
        """Tell those who follow how it ended."""
        if self.watchers is not None:
            self.watchers.ended(ending)

    def site(self) -> AbstractContextManager[Site]:
        """Warehouse, journal and destination, for a run that those who follow hear of."""
        return self.open_site(self.watchers.told if self.watchers is not None else None)

    def tag(self, context: Context, outcome: Outcome, **counts: int) -> None:
        """Add this step's outcome and counts to those of the run."""
        with self.in_turn():
            tag_run(context, outcome, **counts)

    @property
    def name(self) -> str:
        """Of the sync, or ``finish``."""
        return self.key.path[-1]

    @property
    def label(self) -> str:
        """``sequence/sync``."""
        return self.key.to_user_string()


def run_sync_step(context: dg.AssetExecutionContext, options: RunOptionsResource, step: Step, inputs: Inputs) -> Events:
    """Run one sync, and tell Dagster what became of its rows."""
    _refuse_checks_alone(context, step)
    with watched(context, step.sequence, step.name, step.watches) as watchers:
        yield from _run_sync_step(context, options, replace(step, watchers=watchers), inputs)


def _run_sync_step(
    context: dg.AssetExecutionContext, options: RunOptionsResource, step: Step, inputs: Inputs
) -> Events:
    try:
        _may_run(context, step)
        # Before anything is opened: a closed gate costs no connection.
        if inputs.model is not None:
            check_gate(context.instance, step.label, inputs.source.label, inputs.tests)
        report, standing = _run_sync(context, options, step, inputs)
    except (DestinationStillBusy, BudgetSpent) as busy:
        yield from _in_progress(context, step, busy)
        return
    except LeaseHeld as held:
        step_aside(context, step, held)
    except SequenceStopped as stopped:
        yield from _only_wanted(context, step, checks.complete(step.key, str(stopped)))
        fail(context, step, str(stopped), stopped)
    except SeqsyncError as error:
        yield from _broken_off(context, step, error)
    except Exception as defect:
        step.tag(context, "failed")
        standing = yield from _stand(context, step, f"{type(defect).__name__}: a defect, see the run's log.")
        step.ended(Ending("failed", standing.text, error=defect, stops=standing.stops))
        raise
    else:
        yield from _settled(context, step, report, standing)


def run_finish_step(context: dg.AssetExecutionContext, options: RunOptionsResource, step: Step) -> Events:
    """Close the sequence: references that rows went without, then removals, children first."""
    _refuse_checks_alone(context, step)
    with watched(context, step.sequence, step.name, step.watches) as watchers:
        yield from _run_finish_step(context, options, replace(step, watchers=watchers))


def _run_finish_step(context: dg.AssetExecutionContext, options: RunOptionsResource, step: Step) -> Events:
    from seqsync_dagster.engine.finish import run_finish
    from seqsync_dagster.engine.report import Counts

    try:
        _may_run(context, step)
        with step.site() as site:
            report: FinishReport = run_finish(
                site, options.read(), run_id=context.run.run_id, holder=holder(context), log=context.log.info
            )
    except (DestinationStillBusy, BudgetSpent) as busy:
        yield from _in_progress(context, step, busy)
        return
    except LeaseHeld as held:
        step_aside(context, step, held)
    except SeqsyncError as error:
        fail(context, step, str(error), error)
    except Exception:
        step.tag(context, "failed")
        raise
    rejected = sum(report.rejected.values())
    unfilled = {
        "references_rejected": sum(report.references_rejected.values()) + sum(report.references_waiting.values()),
        "references_held": sum(report.references_held.values()),
    }
    failed = checks.nothing_removed(report) or bool(report.references_over_limit)
    outcome: Outcome = "failed" if failed else "partial" if rejected or any(unfilled.values()) else "success"
    step.tag(
        context,
        outcome,
        removed=sum(report.removed.values()),
        removals_rejected=rejected,
        **unfilled,
    )
    context.log.info(report.summary)
    step.ended(Ending(outcome, report.summary, report))
    for name, removed in report.removed.items():
        for event in written(step.sequence, name, Counts(removed=removed)):
            context.log_event(event)
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


def _may_run(context: dg.AssetExecutionContext, step: Step) -> None:
    from seqsync_dagster.engine.standing import check_may_run

    with step.open_journal() as journal:
        check_may_run(step.sequence, journal, step.name)


def _run_sync(
    context: dg.AssetExecutionContext, options: RunOptionsResource, step: Step, inputs: Inputs
) -> tuple[SyncReport, Standing]:
    from seqsync_dagster.engine.run import run_sync
    from seqsync_dagster.engine.standing import after_run

    # Before anything is read: what is built meanwhile is compared again by the next run.
    build = inputs.build(context.instance)
    with step.site() as site:
        report = run_sync(
            site,
            step.name,
            inputs.source,
            options.read(),
            run_id=context.run.run_id,
            holder=holder(context),
            remembered=remembers(context.instance, step.key),
            log=context.log.info,
            build=build,
        )
        return report, after_run(site, report, holder(context))


def remembers(instance: dg.DagsterInstance, key: dg.AssetKey) -> bool:
    """Whether Dagster knows a materialisation of this asset that a run of ours made."""
    records = instance.fetch_materializations(key, limit=20).records
    return any(
        record.asset_materialization is not None and metadata.PLAN_ID in record.asset_materialization.metadata
        for record in records
    )


def _settled(context: dg.AssetExecutionContext, step: Step, report: SyncReport, standing: Standing) -> Events:
    counts = report.counts
    over = report.verdict == "over_limit"
    outcome: Outcome = "failed" if standing.stops or report.verdict == "over_limit" else report.verdict
    step.tag(
        context,
        outcome,
        rejected=counts.rejected,
        waiting=counts.waiting,
        held=counts.held,
        invalid=counts.invalid,
    )
    context.log.info(report.summary)
    step.ended(Ending(outcome, standing.text or report.summary, report, stops=standing.stops))
    found = [*checks.of_run(step.key, report), checks.complete(step.key, standing.text if standing.stops else "")]
    results = [result for result in found if _wants_check(context, step, str(result.check_name))]
    shown = dict(metadata.of_run(report))
    for event in written(step.sequence, step.name, counts, report.object_url):
        context.log_event(event)
    if standing.stops:
        shown["seqsync/stopped"] = standing.text
        context.instance.add_run_tags(context.run.run_id, {STOPPED: step.name})
        # Not as an output, on which the syncs below would start.
        yield dg.AssetMaterialization(step.key, metadata=shown)
        yield from results
        _tell_below(context, step, standing)
    else:
        yield dg.MaterializeResult(asset_key=step.key, metadata=shown, check_results=results)
        if standing.mended:
            _tell_below(context, step, standing)
    if over or standing.stops:
        # After the output: the rows are settled, and the children hold those whose parent is missing.
        raise dg.Failure(
            description=standing.text or report.summary,
            metadata={"seqsync/plan_id": report.plan_id, "seqsync/rejected": counts.rejected},
            allow_retries=False,
        )


def _broken_off(context: dg.AssetExecutionContext, step: Step, error: SeqsyncError) -> Events:
    """A run that came to no end: red, and what becomes of the syncs below is the sequence's to say."""
    message, extra = str(error), {}
    if isinstance(error, GuardTripped):
        message, extra = _how_to_approve(error), {"seqsync/plan_id": error.plan_id}
        yield from _only_wanted(context, step, checks.tripped(step.key, message, error.plan_id))
    # Another run has taken over, and how the sync stands is that one's to say; what cannot be done as
    # it was asked for, such as a plan that was sent already, is nobody's failure but of the run that asked.
    stops = False
    if not isinstance(error, LeaseLost | PlanOutdated | Unfulfillable):
        standing = yield from _stand(context, step, message)
        message, stops = standing.text, standing.stops
    fail(context, step, message, error, extra, stops=stops)


def _stand(context: dg.AssetExecutionContext, step: Step, error: str) -> Generator[Any, None, Standing]:
    """Keep the failure and show it; the children go if they may."""
    from seqsync_dagster.engine.standing import Standing, after_error

    try:
        with step.open_journal() as journal:
            standing = after_error(step.sequence, journal, step.name, error, holder(context))
    except SeqsyncError as unknown:
        context.log.warning(f"How {step.label} stands could not be kept for the next run: {unknown}")
        spec = step.sequence.sync(step.name)
        standing = Standing(step.sequence.errors_of(spec).fatal == "stop", error)
    yield from _only_wanted(context, step, checks.complete(step.key, standing.text))
    if standing.stops:
        context.instance.add_run_tags(context.run.run_id, {STOPPED: step.name})
        _tell_below(context, step, standing)
    else:
        yield dg.MaterializeResult(asset_key=step.key, metadata={HIDE: True})
    return standing


def _tell_below(context: dg.AssetExecutionContext, step: Step, standing: Standing) -> None:
    """Show on the syncs below that they wait, or that they need not any more: they do not run to say so themselves."""
    from seqsync_dagster.sequence.graph import descendants

    for name in descendants(step.sequence, step.name):
        key = dg.AssetKey([step.sequence.name, name])
        text = f"{key.to_user_string()} waits for {step.name}. {standing.text}" if standing.stops else ""
        told = checks.complete(key, text, passed_text=f"{step.name} is mended; the next run goes on from here.")
        context.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=key,
                check_name=checks.COMPLETE,
                passed=told.passed,
                severity=told.severity,
                description=told.description,
                metadata={},
            )
        )


def _only_wanted(context: dg.AssetExecutionContext, step: Step, result: dg.AssetCheckResult) -> Events:
    if _wants_check(context, step, str(result.check_name)):
        yield result


def _in_progress(context: dg.AssetExecutionContext, step: Step, busy: DestinationStillBusy | BudgetSpent) -> Events:
    message = f"{step.label} is in progress: {busy} The next run takes it up where this one left it."
    context.log.warning(message)
    waiting = busy.rows_waiting if isinstance(busy, BudgetSpent) else 0
    step.tag(context, "partial", in_progress=1, rows_waiting=waiting)
    shown = {"seqsync/in_progress": True, **({"seqsync/rows_waiting": waiting} if waiting else {})}
    step.ended(Ending("in_progress", message, error=busy))
    yield dg.AssetObservation(step.key, description=message, metadata=shown)
    yield dg.MaterializeResult(asset_key=step.key, metadata={HIDE: True})


def _how_to_approve(tripped: GuardTripped) -> str:
    message = str(tripped)
    if "approve_plan" in message:
        return message
    return f"{message} To send exactly this plan, start the run again with the config approve_plan: {tripped.plan_id}."


def fail(
    context: Context,
    step: Step,
    message: str,
    error: SeqsyncError,
    extra: dict[str, Any] | None = None,
    *,
    stops: bool = False,
) -> NoReturn:
    """End the step as failed, with the error's own words and without its traceback."""
    step.tag(context, "failed")
    step.ended(Ending("failed", message, error=error, stops=stops))
    if isinstance(error, SequenceStopped):
        context.instance.add_run_tags(context.run.run_id, {STOPPED: ", ".join(error.stopped)})
    raise dg.Failure(
        description=message,
        metadata={"seqsync/error": type(error).__name__, **(extra or {})},
        allow_retries=False,
    ) from None


def step_aside(context: Context, step: Step, held: LeaseHeld) -> NoReturn:
    """End the run as cancelled, because another run is at work on the sync."""
    step.ended(Ending("refused", str(held), error=held))
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


def holder(context: Context | dg.OpExecutionContext) -> str:
    """The run, as it is named to people who find the sync busy."""
    name, tags = f"run {context.run.run_id[:8]}", context.run.tags
    # Dagster+ and launchers that know their users say so in a tag.
    user = tags.get("user") or tags.get("dagster/user")
    return f"{name} by {user}" if user else name
