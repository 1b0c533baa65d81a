"""Step 3: limits that a plan must pass before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass

from seqsync_dagster.errors import GuardTripped
from seqsync_dagster.sequence.limits import Guards


@dataclass(frozen=True)
class PlannedChange:
    """What a plan would do to what is acknowledged."""

    acknowledged: int
    updates: int
    removals: int
    found: int = 0
    """Of `acknowledged`, records that this run has found for its rows."""
    linked: int = 0
    """Updates of records that get their key with it; no guard limits them."""
    creates: int = 0
    invalid: int = 0
    """Rows with a null key, or one that another row has."""
    model: int = 0
    """Rows of the model that the plan saw."""


def check_guards(
    sync: str, guards: Guards, change: PlannedChange, *, plan_id: str, resync_reason: str | None, asked: bool
) -> None:
    """Raise `GuardTripped` naming number and limit. `asked`: the operator asked for every row to be sent."""
    broken: list[str] = []
    limit = guards.max_removed
    if limit is not None and limit.exceeded(change.removals, change.acknowledged):
        broken.append(_broken("max_removed", limit, change.removals, change.acknowledged, "would be removed"))
    limit = guards.max_updated
    # A first run with mode: update has nothing that its updates could be a share of.
    judged = limit is not None and not asked and change.acknowledged > 0
    if limit is not None and judged and limit.exceeded(change.updates, change.acknowledged):
        because = f" because {resync_reason}" if resync_reason else ""
        of = "acknowledged or found" if change.found else "acknowledged"
        would = f"would be updated{because}"
        broken.append(_broken("max_updated", limit, change.updates, change.acknowledged, would, of))
    limit = guards.max_created
    # Where nothing is acknowledged yet, everything is to be created.
    if limit is not None and change.acknowledged and limit.exceeded(change.creates, change.acknowledged):
        beside = f"{change.creates} would be created beside {change.acknowledged} acknowledged records"
        broken.append(f"guard max_created: {beside}, the limit is {limit}")
    limit = guards.max_invalid
    if limit is not None and limit.exceeded(change.invalid, change.model):
        wrong = f"{change.invalid} of {change.model} rows have a null key, or one that another row has too"
        broken.append(f"guard max_invalid: {wrong}, the limit is {limit}")
    if broken:
        raise GuardTripped(
            f"sync {sync}: {'; '.join(broken)}. Nothing was sent. If this is what you want, launch the run again "
            f"with approve_plan: {plan_id}, which lets exactly this plan pass; else mend the model.",
            plan_id,
        )


def _broken(name: str, limit: object, part: int, whole: int, what: str, of: str = "acknowledged") -> str:
    share = 100 * part / whole if whole else 100.0
    return f"guard {name}: {part} of {whole} {of} records ({share:.1f}%) {what}, the limit is {limit}"
