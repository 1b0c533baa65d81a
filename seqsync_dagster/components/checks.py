"""The asset checks of a sync: a run's rows that were not acknowledged, and its guards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from seqsync_dagster.components.metadata import drift_tables, problems_table

if TYPE_CHECKING:
    from seqsync_dagster.engine.report import DriftReport, FinishReport, SyncReport

DRIFT = "drift"
COMPLETE = "complete"
REFERENCES = "references"

_DESCRIPTIONS = {
    "rejected": "No row was refused by the destination. A warning while the share of rejected rows is within "
    "max_rejected, an error when it is over it.",
    "held": "No row waits for its parent, or for a record it looks up. Held rows are sent by themselves "
    "as soon as what they wait for is there.",
    "invalid": "No row has a null key, or shares its key with another row. Such rows are never sent.",
    COMPLETE: "The sync's last run came to its end and keeps no other sync waiting. An error says why not, since when, "
    "and who waits.",
    "guards": "The plan was within its guards. An error means that nothing was sent.",
}


def check_specs(key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """The checks of one sync's asset."""
    return [dg.AssetCheckSpec(name, asset=key, description=text) for name, text in _DESCRIPTIONS.items()]


def removals_spec(key: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check of a sequence's closing asset."""
    return dg.AssetCheckSpec(
        "removals",
        asset=key,
        description="No removal was refused by the destination. An error when none of them succeeded.",
    )


def references_spec(key: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check of a sequence's closing asset, where there are references that rows may go without."""
    return dg.AssetCheckSpec(
        REFERENCES,
        asset=key,
        description="Every reference that rows went without is filled in. A warning when some are refused or wait for "
        "their parent, an error when more of them are refused than max_rejected allows.",
    )


def of_references(key: dg.AssetKey, report: FinishReport) -> dg.AssetCheckResult:
    """The check of the references that were to be filled in."""
    counts = {
        "filled": sum(report.referenced.values()),
        "rejected": sum(report.references_rejected.values()),
        "waiting": sum(report.references_waiting.values()),
        "held": sum(report.references_held.values()),
    }
    metadata: dict[str, Any] = dict(counts)
    if report.reference_problems:
        metadata["problems"] = problems_table(report.reference_problems)
    passed = not (counts["rejected"] or counts["waiting"] or counts["held"])
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=REFERENCES,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR if report.references_over_limit else dg.AssetCheckSeverity.WARN,
        description=None if passed else report.summary,
        metadata=metadata,
    )


def drift_spec(key: dg.AssetKey, *, heals: bool) -> dg.AssetCheckSpec:
    """The check of one sync's records in the destination."""
    healing = (
        "Changed records are sent again by the next run; deleted ones are marked as gone and wait for an operator."
        if heals
        else "Reports only; `drift: {heal: true}` makes the next run send changed records again."
    )
    return dg.AssetCheckSpec(
        DRIFT,
        asset=key,
        description="The destination holds what it acknowledged: no record was changed or deleted there since. "
        f"A warning when some were, with the fields and a sample. {healing}",
    )


def of_drift(key: dg.AssetKey, report: DriftReport) -> dg.AssetCheckResult:
    """The drift check after it was carried out."""
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=DRIFT,
        passed=report.drifted == 0,
        severity=dg.AssetCheckSeverity.WARN,
        description=report.summary,
        metadata={
            "checked": report.checked,
            "compared": report.compared,
            "changed": report.changed,
            "deleted": report.deleted,
            "made_due": report.made_due,
            "made_gone": report.made_gone,
            "api_calls": report.api_calls,
            "seconds": round(report.seconds, 3),
            **({"left_out": ", ".join(report.left_out)} if report.left_out else {}),
            **drift_tables(report),
        },
    )


def of_run(key: dg.AssetKey, report: SyncReport) -> Iterator[dg.AssetCheckResult]:
    """The checks after a run that ended in order."""
    counts = report.counts
    refused = counts.rejected + counts.waiting
    over = report.verdict == "over_limit"
    yield _result(
        key,
        "rejected",
        refused == 0 and not over,
        report,
        ("rejected", "waiting"),
        severity=dg.AssetCheckSeverity.ERROR if over else dg.AssetCheckSeverity.WARN,
        rejected=counts.rejected,
        waiting=counts.waiting,
        sent=counts.sent,
    )
    yield _result(
        key,
        "held",
        counts.held == 0,
        report,
        ("held",),
        parent_pending=counts.held_pending,
        parent_not_in_its_model=counts.held_missing,
    )
    yield _result(
        key,
        "invalid",
        counts.invalid == 0,
        report,
        ("invalid",),
        null_key=counts.invalid_null,
        duplicate_key=counts.invalid_duplicate,
    )
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name="guards",
        passed=True,
        metadata={"seqsync/plan_id": report.plan_id, "planned": counts.planned, "removals_due": counts.removals_due},
    )


def complete(key: dg.AssetKey, failure: str, *, passed_text: str | None = None) -> dg.AssetCheckResult:
    """Whether the sync's last run came to its end; `failure` says what is wrong, empty when nothing is."""
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=COMPLETE,
        passed=not failure,
        severity=dg.AssetCheckSeverity.ERROR,
        description=failure or passed_text,
    )


def tripped(key: dg.AssetKey, message: str, plan_id: str) -> dg.AssetCheckResult:
    """The guards check when a guard stopped the plan."""
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="guards",
        passed=False,
        severity=dg.AssetCheckSeverity.ERROR,
        description=message,
        metadata={"seqsync/plan_id": plan_id},
    )


def of_finish(key: dg.AssetKey, report: FinishReport) -> dg.AssetCheckResult:
    """The closing asset's check."""
    rejected = sum(report.rejected.values())
    metadata: dict[str, Any] = {"rejected": rejected, "removed": sum(report.removed.values())}
    if report.problems:
        metadata["problems"] = problems_table(report.problems)
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="removals",
        passed=rejected == 0,
        severity=dg.AssetCheckSeverity.ERROR if nothing_removed(report) else dg.AssetCheckSeverity.WARN,
        description=report.summary,
        metadata=metadata,
    )


def nothing_removed(report: FinishReport) -> bool:
    """Whether every removal was refused: no part of it can be called done."""
    return sum(report.rejected.values()) > 0 and sum(report.removed.values()) == 0


def _result(
    key: dg.AssetKey,
    name: str,
    passed: bool,
    report: SyncReport,
    statuses: Sequence[str],
    *,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN,
    **numbers: int,
) -> dg.AssetCheckResult:
    metadata: dict[str, Any] = dict(numbers)
    if problems := [p for p in report.problems if p.status in statuses]:
        metadata["problems"] = problems_table(problems[:20])
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=name,
        passed=passed,
        severity=severity,
        description=report.summary if not passed else None,
        metadata=metadata,
    )
