"""From counts and rows to a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from seqsync_dagster.engine.planning import Planned
from seqsync_dagster.engine.report import Counts, RowChange, RowProblem, SyncReport, Verdict
from seqsync_dagster.engine.site import Work
from seqsync_dagster.ledger import tables as t
from seqsync_dagster.sequence.limits import Limit

_STATUS = {
    "rejected": "rejected",
    t.REFUSED: "rejected",
    t.HELD_PENDING: "held",
    t.HELD_MISSING: "held",
    t.INVALID_NULL: "invalid",
    t.INVALID_DUPLICATE: "invalid",
    t.WAITING: "waiting",
    t.KEPT: "kept",
    t.SEND: "held",
}


def counted(planned: Counts, outcomes: Mapping[str, int]) -> Counts:
    """A plan's counts after its rows have gone."""
    return replace(
        planned,
        created=outcomes.get("created", 0),
        adopted=planned.adopted_as_is + outcomes.get("adopted", 0),
        updated=outcomes.get("updated", 0),
        removed=outcomes.get("removed", 0),
        rejected=planned.rejected + outcomes.get("rejected", 0) + outcomes.get("rejected_again", 0),
        rejected_again=planned.rejected_again + outcomes.get("rejected_again", 0),
        # What was to be sent and was not is a row whose parent in the same run was refused.
        held_pending=planned.held_pending + outcomes.get("unsent", 0),
    )


def verdict(counts: Counts, max_rejected: Limit) -> Verdict:
    """How the run ended. Rows refused again with the same values do not make every run red for ever."""
    fresh, judged = _fresh(counts)
    if _all_refused(counts) or max_rejected.exceeded(fresh, judged):
        return "over_limit"
    if counts.rejected or counts.held or counts.invalid or counts.waiting:
        return "partial"
    return "success"


def _fresh(counts: Counts) -> tuple[int, int]:
    """Rows refused for the first time with these values, and the rows they are to be compared with."""
    fresh = counts.rejected - counts.rejected_again
    return fresh, _written(counts) + fresh


def _written(counts: Counts) -> int:
    return counts.created + counts.adopted - counts.adopted_as_is + counts.updated


def _all_refused(counts: Counts) -> bool:
    """Whether rows went for the first time with these values, and every one was refused by the destination."""
    fresh = (counts.rejected - counts.refused) - (counts.rejected_again - counts.refused_again)
    return fresh > 0 and not _written(counts)


def summary(name: str, counts: Counts, found: Verdict, max_rejected: Limit) -> str:
    """One sentence with the numbers that matter."""
    parts = [
        f"{n} {word}"
        for n, word in (
            (counts.created, "created"),
            (counts.adopted, f"adopted ({counts.adopted_as_is} as they were)" if counts.adopted_as_is else "adopted"),
            (counts.updated, "updated"),
            (counts.removals_due, "due for removal"),
            (counts.references_due, "with a reference that finish fills in"),
            (counts.rejected, "rejected"),
            (counts.waiting, "refused earlier and waiting"),
            (counts.skipped, "skipped by an operator"),
            (counts.held, "held"),
            (counts.invalid, "invalid"),
            (counts.absent, "not there to be deleted"),
            (counts.kept, "changed and left as created"),
            (counts.unchanged, "unchanged"),
        )
        if n
    ]
    text = f"{name}: {', '.join(parts) or 'no rows'}."
    if found == "over_limit":
        fresh, sent = _fresh(counts)
        why = "every row sent was refused" if _all_refused(counts) else f"over max_rejected {max_rejected}"
        text = f"{name}: {fresh} of {sent} rows rejected, {why}. {text}"
    return text


def problems(rows: Sequence[Mapping[str, Any]]) -> tuple[RowProblem, ...]:
    """Rows for the table of problems."""
    return tuple(
        RowProblem(
            key=str(r["key"]),
            status=_STATUS.get(r["status"], str(r["status"])),
            code=r["code"] or ("PARENT_PENDING" if r["status"] == t.SEND else ""),
            message=r["message"] or ("its parent was refused in this run" if r["status"] == t.SEND else ""),
            values=_values(r),
        )
        for r in rows
    )


def _values(row: Mapping[str, Any]) -> dict[str, str]:
    return {c.removeprefix("shown_"): str(v)[:200] for c, v in row.items() if c.startswith("shown_") and v is not None}


def report(
    work: Work,
    planned: Planned,
    counts: Counts,
    problem_rows: Sequence[Mapping[str, Any]],
    change_rows: Sequence[Mapping[str, Any]],
    seconds: float,
    api_calls: int,
    row_bearing_calls: int,
) -> SyncReport:
    """The report of a run that ended in order."""
    site, sync = work.site, work.sync
    limit = site.sequence.errors_of(sync).max_rejected
    found = verdict(counts, limit)
    org = ""
    if planned.known is not None and planned.known.org_name:
        org = f"{planned.known.org_name} ({planned.known.org_id})"
    elif counts.sent:
        account = site.destination.account()
        org = f"{account.name} ({account.id})"
    scan = planned.compared.scan if planned.compared is not None else None
    told = summary(sync.name, counts, found, limit)
    return SyncReport(
        sequence=site.sequence.name,
        sync=sync.name,
        plan_id=planned.plan_id,
        counts=counts,
        verdict=found,
        scan=scan,
        summary=told if scan is None else f"{told} {scan}",
        resync_reason=planned.resync_reason,
        problems=problems(problem_rows),
        changes=tuple(
            RowChange(
                key=str(r["key"]),
                operation=str(r["operation"]),
                dest_id=str(r["dest_id"]),
                url=site.destination.record_url(sync.object, str(r["dest_id"])),
                values=_values(r),
            )
            for r in change_rows
        ),
        seconds=seconds,
        rows_per_second=counts.sent / seconds if seconds else 0.0,
        api_calls=api_calls,
        row_bearing_calls=row_bearing_calls,
        destination=org,
        # Where nothing was sent nobody has asked yet where the org is, and nobody needs to.
        object_url=site.destination.object_url(sync.object) if counts.sent else "",
        some_rows=bool(work.options.only_keys),
    )
