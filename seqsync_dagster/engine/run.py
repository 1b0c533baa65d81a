"""One sync run: recover -> plan -> guard -> apply -> settle."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy.exc import DBAPIError

from seqsync_dagster.destinations.protocol import CallCount
from seqsync_dagster.engine.actions import check_action_syncs
from seqsync_dagster.engine.apply import apply, stage_outcomes
from seqsync_dagster.engine.guard import check_guards
from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.engine.planning import Planned, plan
from seqsync_dagster.engine.preflight.mapped import Write
from seqsync_dagster.engine.preflight.mapping import check_mapping
from seqsync_dagster.engine.recover import recover
from seqsync_dagster.engine.report import Counts, SyncReport
from seqsync_dagster.engine.reporting import counted, report
from seqsync_dagster.engine.rest import at_rest, forget_rest, note_rest
from seqsync_dagster.engine.reviewing import find_reviewed, forget_reviewed
from seqsync_dagster.engine.settling import discard_plan, settle_completed, settle_interrupted
from seqsync_dagster.engine.site import Site, Work, checked_account
from seqsync_dagster.engine.telling import PlanReady, step
from seqsync_dagster.errors import LeaseLost
from seqsync_dagster.journal import Scope
from seqsync_dagster.ledger import rows
from seqsync_dagster.ledger.tables import StateTables
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.open import Room, reraise
from seqsync_dagster.warehouse.source import ModelSource

__all__ = ["Site", "run_sync"]


def run_sync(
    site: Site,
    sync_name: str,
    source: ModelSource,
    options: RunOptions,
    *,
    run_id: str,
    holder: str,
    remembered: bool,
    log: Callable[[str], None],
    build: str | None = None,
) -> SyncReport:
    """Bring one sync's destination object in step with its model, and tell what was done.

    `run_id` names the run in the state tables (a retry gets a suffix of its own);
    `holder` names it to people who find the sync busy. `remembered`: somebody
    else, e.g. Dagster, knows that this sync has run before. `build` names the
    materialisation of the model, where it is known: while that and everything else
    stays as it is, a run asks neither warehouse nor destination.

    Raises a subclass of `SeqsyncError` for everything that stopped the run; then
    nothing that the destination acknowledged is forgotten, and the rest is due again.
    """
    began = time.monotonic()
    sync = site.sequence.sync(sync_name)
    check_action_syncs(site.sequence, options)
    calls = replace(site.destination.calls, by_kind={})
    with site.journal.acquire(Scope(site.sequence.name, sync_name), holder) as lease:
        work = Work(site, sync, options, f"{run_id}.{uuid.uuid4().hex[:8]}", holder, lease, log)
        rested = at_rest(site, sync_name, build, options)
        if rested is not None:
            log(f"{sync_name}: nothing to do: its model was not built again, and nothing is due")
            return rested
        forget_rest(site, sync_name)
        with step(site.tell, sync_name, "recover"):
            recover(work)
        others = sync.waits_for()
        # The parent of a deferred lookup may run at the same time; finish sees to what is missed.
        glances = [p for p in sync.parents() if p not in (sync_name, *others)]
        with site.warehouse.open(site.sequence.name, sync_name, others=others, glances=glances, model=True) as room:
            reviewed = None
            if options.plan_id is not None:
                work, reviewed = find_reviewed(work, room)
            with step(site.tell, sync_name, "plan"):
                planned = plan(work, room, source, remembered, reviewed=reviewed)
            if planned.nothing_to_do:
                note_rest(work, room, build, planned, planned.counts)
        if planned.nothing_to_do:
            log(f"{sync_name}: nothing to do, the model's {planned.counts.model} rows are as they were")
            return report(work, planned, planned.counts, [], [], _since(began), *_made(site, calls))
        log(_intent(sync_name, planned))
        site.tell(PlanReady(sync_name, planned.plan_id, planned.counts, planned.resync_reason))
        work = replace(work, raised_epoch=planned.epoch)
        # Rooms of their own for sending and for settling: what the step before needed in memory is given back first.
        with site.warehouse.open(site.sequence.name, sync_name) as room:
            counts, problems, changes = _carry_out(work, room, planned, read=reviewed is not None)
        with site.warehouse.open(site.sequence.name, sync_name) as room:
            with step(site.tell, sync_name, "settle"):
                _settle(work, room, planned, counts)
            forget_reviewed(work, room)
            if reviewed is None:
                note_rest(work, room, build, planned, counts)
        return report(work, planned, counts, problems, changes, _since(began), *_made(site, calls))


def _carry_out(work: Work, room: Room, planned: Planned, *, read: bool) -> _Told:
    site, sync = work.site, work.sync
    tables = work.tables(room.schema)
    try:
        with step(site.tell, sync.name, "guard"):
            # Somebody who has read a plan has read what its guards say of it.
            if not read and work.options.approve_plan != planned.plan_id:
                check_guards(
                    sync.name,
                    site.sequence.guards_of(sync),
                    planned.change,
                    plan_id=planned.plan_id,
                    resync_reason=planned.resync_reason,
                    asked=work.options.full_resync,
                )
            if planned.counts.planned:
                checked_account(work, planned.known)
                _preflight(work, planned)
        with step(site.tell, sync.name, "apply"):
            apply(work, room, tables, work.run_id)
        told = room.frugally(lambda: _told(room, tables, planned, sync))
        room.connection.commit()
        return told
    except LeaseLost:
        raise
    except BaseException as error:
        if isinstance(error, DBAPIError):
            # A run that slept and was taken over misses its plan; the takeover is the reason to tell.
            room.connection.rollback()
            work.lease.check()
        _leave(work, room, tables, planned)
        if isinstance(error, DBAPIError):
            raise reraise(error, f"sync {sync.name}: the warehouse failed while rows were sent") from None
        raise


def _settle(work: Work, room: Room, planned: Planned, counts: Counts) -> None:
    settled = dict(planned.registry)
    if settled:
        settled["last_counts"] = json.dumps(asdict(counts))
    settle_completed(
        work,
        room,
        work.tables(room.schema),
        planned.plan_id,
        counts=counts,
        registry=settled,
        resync_reason=planned.resync_reason,
    )


def _preflight(work: Work, planned: Planned) -> None:
    updates = planned.change.updates + planned.change.linked
    writes: set[Write] = {"update"} if updates else set()
    if planned.counts.planned > updates:
        writes.add("create")
    risks = check_mapping(work.site.destination, replace(planned.mapped, writes=frozenset(writes)))
    known = planned.known
    if known is None or known.mapping_digest is None or planned.resync_reason is not None:
        # Once, not at every run for ever.
        for risk in risks:
            work.log(f"{work.sync.name}: {risk}")


_Told = tuple[Counts, list[Mapping[str, Any]], list[Mapping[str, Any]]]


def _told(room: Room, tables: StateTables, planned: Planned, sync: SyncSpec) -> _Told:
    """What became of the rows, and samples of those that were not and that were acknowledged."""
    fates = rows.outcome_counts(room.connection, tables)
    counts = counted(planned.counts, fates)
    problems = rows.problem_rows(room.connection, tables, sync, 100, unsent="unsent" in fates)
    return counts, problems, rows.change_rows(room.connection, tables, sync, 20)


def _leave(work: Work, room: Room, tables: StateTables, planned: Planned) -> None:
    """An error ends the run: settle what the destination has said, or leave it to the next run's recover.

    Rows that the destination can be asked about stay in the journal, where the next run finds their token.
    """
    room.connection.rollback()
    journal = work.site.journal
    scope = Scope(work.site.sequence.name, work.sync.name)
    mine = [r for r in journal.open_runs(scope) if r.run_id == work.run_id]
    if not mine:
        return
    unfinished = [s for s in mine[0].sends if not s.finished]
    if any(s.request.get("resumable") for s in unfinished):
        return
    if not mine[0].sends:
        discard_plan(work, room, tables)
    else:
        stage_outcomes(work, room, tables, work.run_id, anew=True)
        in_flight = [(s.first_seq, s.last_seq) for s in unfinished]
        settle_interrupted(work, room, tables, work.run_id, planned.plan_id, in_flight=in_flight)
    journal.close_run(work.lease, work.run_id)


def _intent(name: str, planned: Planned) -> str:
    c = planned.counts
    why = f" ({planned.resync_reason})" if planned.resync_reason else ""
    return (
        f"{name}: plan {planned.plan_id}: {c.planned} rows to send{why}, {_as_is(c)}{c.removals_due} removals due, "
        f"{f'{c.references_due} references for finish to fill in, ' if c.references_due else ''}"
        f"{c.held} held, {c.invalid} invalid, {c.unchanged} unchanged"
    )


def _as_is(counts: Counts) -> str:
    return f"{counts.adopted_as_is} records adopted as they are, " if counts.adopted_as_is else ""


def _made(site: Site, before: CallCount) -> tuple[int, int]:
    now = site.destination.calls
    return now.total - before.total, now.row_bearing - before.row_bearing


def _since(began: float) -> float:
    return time.monotonic() - began
