"""A sequence's closing step: references that rows went without, then removals, children before their parents."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from seqsync_dagster.engine.apply import apply
from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.engine.recover import recover
from seqsync_dagster.engine.references import Filled, fill_references
from seqsync_dagster.engine.report import Counts, FinishReport, RowProblem
from seqsync_dagster.engine.reporting import problems
from seqsync_dagster.engine.rest import finish_at_rest, forget_rest
from seqsync_dagster.engine.settling import settle_completed
from seqsync_dagster.engine.site import Site, Work, checked_account
from seqsync_dagster.engine.telling import step
from seqsync_dagster.journal import Scope
from seqsync_dagster.ledger import registry, rows
from seqsync_dagster.ledger.mapping_change import former_slot
from seqsync_dagster.ledger.removals import Pointer, count_due, write_removal_plan
from seqsync_dagster.ledger.tables import StateTables, ledger_of, parent_column, ref_column
from seqsync_dagster.sequence.graph import children, order
from seqsync_dagster.warehouse.open import Room


@dataclass
class _Tally:
    removed: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    problems: list[RowProblem] = field(default_factory=list)
    filled: Filled = field(default_factory=Filled)


def run_finish(
    site: Site, options: RunOptions, *, run_id: str, holder: str, log: Callable[[str], None]
) -> FinishReport:
    """Fill in the references that rows went without; then delete the records whose rows left their models, children
    first, and only where nothing points at them; or empty their fields, where the sync says `removed: clear`; or
    delete those that a sync of `mode: delete` names.

    Raises a subclass of `SeqsyncError` for what stopped it; what was deleted by then is settled or recovered later.
    """
    if options.partial:
        text = "nothing filled in and nothing removed: the run was for some rows only."
        return FinishReport(site.sequence.name, {}, {}, {}, (), text, 0, 0, 0.0)
    if finish_at_rest(site):
        return FinishReport(site.sequence.name, {}, {}, {}, (), "nothing to remove.", 0, 0, 0.0)
    began = time.monotonic()
    calls = replace(site.destination.calls, by_kind={})
    tally = _Tally()
    # First: a record that another one pointed at until now may be one to be removed.
    for name in order(site.sequence):
        if site.sequence.sync(name).filled_later():
            with step(site.tell, name, "references"):
                fill_references(site, name, options, run_id, holder, log, tally.filled)
    for name in reversed(order(site.sequence)):
        if site.sequence.sync(name).removes:
            with step(site.tell, name, "removals"):
                _remove(site, name, options, run_id, holder, log, tally)
    removed, rejected = sum(tally.removed.values()), sum(tally.rejected.values())
    kept = sum(tally.kept.values())
    text = f"{removed} records removed" if removed else "nothing to remove"
    cleared = sum(n for name, n in tally.removed.items() if site.sequence.sync(name).removed == "clear")
    if cleared:
        text += f", {cleared} of them by emptying their fields"
    if rejected:
        text += f", {rejected} removals refused"
    if kept:
        text += f", {kept} removals wait because a record still points at them"
    text = "; ".join(filter(None, [tally.filled.summary(), text]))
    return FinishReport(
        sequence=site.sequence.name,
        removed=tally.removed,
        rejected=tally.rejected,
        kept_for_children=tally.kept,
        problems=tuple(tally.problems),
        summary=text + ".",
        api_calls=site.destination.calls.total - calls.total,
        row_bearing_calls=site.destination.calls.row_bearing - calls.row_bearing,
        seconds=time.monotonic() - began,
        referenced=tally.filled.filled,
        references_rejected=tally.filled.rejected,
        references_held=tally.filled.held,
        references_waiting=tally.filled.waiting,
        reference_problems=tuple(tally.filled.problems),
        references_over_limit=tuple(tally.filled.over_limit),
    )


def _remove(
    site: Site,
    name: str,
    options: RunOptions,
    run_id: str,
    holder: str,
    log: Callable[[str], None],
    tally: _Tally,
) -> None:
    sync = site.sequence.sync(name)
    pointing = dict(children(site.sequence, name))
    tried: list[str] = []
    with site.journal.acquire(Scope(site.sequence.name, name), holder) as lease:
        recover(Work(site, sync, options, run_id, holder, lease, log))
        # Each round frees the parents of what it removed: one round per level of a self-reference.
        while True:
            work = Work(site, sync, options, f"{run_id}.{uuid.uuid4().hex[:8]}", holder, lease, log)
            with site.warehouse.open(site.sequence.name, name, others=pointing) as room:
                removed = _round(work, room, pointing, tried, tally)
            if not removed:
                return
            tried.append(work.run_id)


def _round(work: Work, room: Room, pointing: Mapping[str, list[str]], tried: list[str], tally: _Tally) -> bool:
    site, name = work.site, work.sync.name
    names = (site.sequence.name, name)
    tables = work.tables(room.schema)
    registry.migrate(room.connection, tables)
    known = registry.read(room.connection, tables, *names)
    if known is None or not (due := count_due(room.connection, tables)):
        tally.kept.pop(name, None)
        return False
    checked_account(work, known)
    work = work.above(known)
    site.journal.begin(work.lease, work.run_id)
    registry.add_reference_columns(room.connection, tables, work.sync, known.mapping)
    registry.claim(room.connection, tables, *names, work.epoch)
    planned = write_removal_plan(room.connection, tables, work.sync, _pointers(site, room, pointing), tried)
    spec = work.sync.model_dump_json(by_alias=True, exclude_unset=True)
    registry.update(room.connection, tables, *names, plan_run_id=work.run_id, plan_spec=spec)
    room.connection.commit()
    if planned:
        forget_rest(site, name)
    outcomes = _send(work, room, tables) if planned else {}
    removed, rejected = outcomes.get("removed", 0), outcomes.get("rejected", 0)
    if planned:
        tally.problems += problems(rows.problem_rows(room.connection, tables, work.sync, 100))
        room.connection.commit()
    counts = Counts(removed=removed, rejected=rejected, planned=planned)
    settle_completed(work, room, tables, None, counts=counts, registry={})
    tally.removed[name] = tally.removed.get(name, 0) + removed
    if rejected:
        tally.rejected[name] = tally.rejected.get(name, 0) + rejected
    if kept := due - planned - (tally.rejected.get(name, 0) - rejected):
        tally.kept[name] = kept
    else:
        tally.kept.pop(name, None)
    return removed > 0


def _send(work: Work, room: Room, tables: StateTables) -> Mapping[str, int]:
    apply(work, room, tables, work.run_id)
    return rows.outcome_counts(room.connection, tables)


def _pointers(site: Site, room: Room, pointing: Mapping[str, list[str]]) -> list[Pointer]:
    found = []
    for child, fields in pointing.items():
        schema = room.state_schema_of(child)
        if schema is not None:
            ledger = ledger_of(site.sequence.name, child, schema)
            # A lookup that the child has not run with yet points at nothing, unless its field pointed there before.
            present = registry.columns_of(room.connection, ledger)
            sync = site.sequence.sync(child)
            tables = StateTables.of(site.sequence, sync, schema)
            registered = registry.read(room.connection, tables, site.sequence.name, child)
            mapping = registered.mapping if registered is not None else None
            slots = {f: f if parent_column(f) in present else former_slot(mapping, sync, f) for f in fields}
            known = {f: slot for f, slot in slots.items() if slot is not None and parent_column(slot) in present}
            later = [slot for f, slot in known.items() if f in sync.filled_later() and ref_column(slot) in present]
            if known:
                found.append(Pointer(ledger, list(known.values()), later))
    return found
