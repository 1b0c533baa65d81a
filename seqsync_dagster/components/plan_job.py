"""The job `<sequence>_plan`: what a run would do, told on the assets, and nothing of it done."""

# No postponed annotations here: Dagster reads those of the op and of its config.

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from seqsync_dagster.components import executors, metadata
from seqsync_dagster.components.assets import holder, remembers
from seqsync_dagster.components.gate import check_gate
from seqsync_dagster.components.inputs import Inputs
from seqsync_dagster.components.outcome import SEQUENCE
from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.errors import GateClosed, SeqsyncError

if TYPE_CHECKING:
    from seqsync_dagster.engine.report import PlanReport
    from seqsync_dagster.engine.run import Site

#: Run tag that names the plan.
PLAN = "seqsync/plan_id"


class PlanConfig(dg.Config):
    """What the plan is for: the same options as those of a run."""

    full_resync: bool = Field(default=False, description="Plan to send every row, whatever was acknowledged.")
    only_keys: list[str] = Field(default=[], description="Plan for the rows with these keys only.")
    limit: int | None = Field(default=None, ge=1, description="Plan to send at most this many rows per sync.")
    write_to: str | None = Field(
        default=None,
        description="File to write the whole plan to as JSON, e.g. for a step of CI that reads it. "
        "Relative to where the run is executed.",
    )

    def options(self) -> RunOptions:
        """The options in the engine's own terms."""
        return RunOptions(full_resync=self.full_resync, only_keys=tuple(self.only_keys), limit=self.limit)


#: Told from the class once, and not for every sequence anew: that takes longer than the rest of its job.
_SCHEMA = PlanConfig.to_config_schema().as_field()


@dataclass(frozen=True)
class Planning:
    """What the job works with."""

    sequence: str
    inputs: Mapping[str, Inputs]
    """Of every sync, parents first."""
    open_site: Callable[[], AbstractContextManager["Site"]]


def build_plan_job(planning: Planning, owners: Sequence[str]) -> dg.JobDefinition:
    """The job of one sequence."""
    name, op_name = f"{planning.sequence}_plan", f"{planning.sequence}_plan__make"

    @dg.op(name=op_name, description="Compares the models as they are now with the ledgers.", config_schema=_SCHEMA)
    def make(context: dg.OpExecutionContext) -> None:
        make_plan(context, PlanConfig(**context.op_config), planning)

    @dg.config_mapping(config_schema=_SCHEMA)
    def at_the_top(config: Mapping[str, Any]) -> dict[str, Any]:
        # The schema knows types only; a limit of 0 must be refused before a run starts.
        given = {k: v for k, v in PlanConfig(**config).model_dump().items() if v is not None}
        return {"ops": {op_name: {"config": given}}}

    @dg.job(
        name=name,
        config=at_the_top,
        executor_def=executors.LOOSE_IN_PROCESS,
        tags={SEQUENCE: planning.sequence},
        owners=list(owners) or None,
        description=f"Tells what a run of {planning.sequence} would do with the models as they are now, and sends "
        "nothing. What it finds stands with the assets, as observations. The plan can then be sent exactly as it was "
        f"read: run {planning.sequence} with the config plan_id.",
    )
    def plan_job() -> None:
        make()

    return plan_job


def make_plan(context: dg.OpExecutionContext, config: PlanConfig, planning: Planning) -> None:
    """Plan every sync, parents first; fail at the end with everything that would stop a run."""
    review_id = f"{planning.sequence}-{context.run.run_id[:8]}"
    reports: list[PlanReport] = []
    wrong: list[str] = []
    for sync, inputs in planning.inputs.items():
        try:
            report = _plan(context, config, planning, sync, inputs, review_id)
        except SeqsyncError as error:
            text = str(error)
            wrong.append(text)
            context.log.error(text)
            continue
        reports.append(report)
        context.log.info(report.summary)
        if report.guard is not None:
            context.log.warning(report.guard)
        context.log_event(
            dg.AssetObservation(
                dg.AssetKey([planning.sequence, sync]),
                description=f"A plan, nothing of it was sent. {report.summary}",
                metadata=metadata.of_plan(report),
            )
        )
    context.instance.add_run_tags(context.run.run_id, {PLAN: review_id})
    if config.write_to is not None:
        _write(Path(config.write_to), planning.sequence, review_id, reports, wrong)
        context.log.info(f"The plan stands in {config.write_to}.")
    if wrong:
        listed = "\n".join(f"- {text}" for text in wrong)
        raise dg.Failure(
            description=f"A run would stop at {len(wrong)} of {len(planning.inputs)} syncs:\n{listed}",
            allow_retries=False,
        )
    from seqsync_dagster.engine.review import EXPIRES_AFTER

    hours = int(EXPIRES_AFTER.total_seconds() // 3600)
    asked = json.dumps({"plan_id": review_id})
    context.log.info(
        f"Plan {review_id}: about {sum(r.calls for r in reports)} API calls. To send exactly this within {hours} "
        f"hours: dagster job launch -j {planning.sequence} --config-json '{asked}'"
    )


def _plan(
    context: dg.OpExecutionContext, config: PlanConfig, planning: Planning, sync: str, inputs: Inputs, review_id: str
) -> "PlanReport":
    from seqsync_dagster.engine.review import review_sync

    key = dg.AssetKey([planning.sequence, sync])
    if inputs.model is not None:
        try:
            check_gate(context.instance, key.to_user_string(), inputs.source.label, inputs.tests)
        except GateClosed as closed:
            # The model may be built and tested again before it is sent, so a plan of it is worth reading.
            context.log.warning(f"A run would stop here: {closed}")
    with planning.open_site() as site:
        return review_sync(
            site,
            sync,
            inputs.source,
            config.options(),
            review_id=review_id,
            run_id=context.run.run_id,
            holder=holder(context),
            remembered=remembers(context.instance, key),
            log=context.log.info,
        )


def _write(file: Path, sequence: str, plan_id: str, reports: "Sequence[PlanReport]", wrong: Sequence[str]) -> None:
    content = {"sequence": sequence, "plan_id": plan_id, "errors": list(wrong), "syncs": [asdict(r) for r in reports]}
    try:
        file.write_text(json.dumps(content, indent=2, default=str, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise dg.Failure(
            description=f"The plan was made and is kept as {plan_id}, but cannot be written to {file}: "
            f"{error.strerror}. Give write_to a file in a folder that is there.",
            allow_retries=False,
        ) from None
