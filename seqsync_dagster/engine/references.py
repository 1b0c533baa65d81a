"""The references that rows went without are filled in: the first half of `finish`."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import sqlalchemy as sa

from seqsync_dagster.engine.apply import apply
from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.engine.preflight.mapping import check_references
from seqsync_dagster.engine.recover import recover
from seqsync_dagster.engine.report import Counts, RowProblem
from seqsync_dagster.engine.reporting import problems
from seqsync_dagster.engine.settling import settle_completed
from seqsync_dagster.engine.site import Site, Work, checked_account
from seqsync_dagster.journal import Scope
from seqsync_dagster.ledger import registry, rows
from seqsync_dagster.ledger.deferred import Parents, count_due, unfilled_rows, write_reference_plan
from seqsync_dagster.ledger.mapping_change import same_parent
from seqsync_dagster.ledger.registry import Registered
from seqsync_dagster.ledger.tables import StateTables, ledger_of
from seqsync_dagster.warehouse.open import Room

_SHOWN = 100


@dataclass
class Filled:
    """What became of the references, by sync."""

    filled: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    problems: list[RowProblem] = field(default_factory=list)
    over_limit: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """The numbers that matter, in words; empty when there was nothing to do."""
        parts = (
            (self.filled, "references filled in"),
            (self.rejected, "references refused"),
            (self.waiting, "refused earlier and waiting"),
            (self.held, "references held for want of a parent"),
        )
        return ", ".join(f"{sum(counts.values())} {words}" for counts, words in parts if sum(counts.values()))


def fill_references(
    site: Site, name: str, options: RunOptions, run_id: str, holder: str, log: Callable[[str], None], tally: Filled
) -> None:
    """Write the reference fields of one sync's records whose parents have got a destination id since.

    Raises a subclass of `SeqsyncError` for what stopped it; what was written by then is settled or recovered later.
    """
    sync = site.sequence.sync(name)
    others = {m.parent for m in sync.filled_later().values()} - {name}
    with site.journal.acquire(Scope(site.sequence.name, name), holder) as lease:
        work = Work(site, sync, options, f"{run_id}.{uuid.uuid4().hex[:8]}", holder, lease, log)
        recover(work)
        with site.warehouse.open(site.sequence.name, name, others=others) as room:
            tables = work.tables(room.schema)
            known = registry.read(room.connection, tables, site.sequence.name, name)
            room.connection.commit()
            if known is not None and known.org_id is not None and _has_ledger(room, tables):
                _fill(work.above(known), room, tables, known, tally)


def _has_ledger(room: Room, tables: StateTables) -> bool:
    return sa.inspect(room.connection).has_table(tables.ledger.name, schema=tables.ledger.schema)


def _fill(work: Work, room: Room, tables: StateTables, known: Registered, tally: Filled) -> None:
    site, sync, connection = work.site, work.sync, room.connection
    names, now = (site.sequence.name, sync.name), datetime.now(UTC)
    registry.add_reference_columns(connection, tables, sync, known.mapping)
    registry.claim(connection, tables, *names, work.epoch)
    parents = _parents(work, room, tables, known)
    due, waiting = count_due(connection, tables, sync, parents, now)
    connection.commit()
    if waiting:
        tally.waiting[sync.name] = waiting
    rejected = 0
    if due:
        checked_account(work, known)
        fields = dict.fromkeys(sync.field_of(slot) for slot in parents)
        check_references(site.destination, site.sequence, sync, fields)
        site.journal.begin(work.lease, work.run_id)
        registry.claim(connection, tables, *names, work.epoch)
        planned = write_reference_plan(connection, tables, sync, parents, now)
        spec = sync.model_dump_json(by_alias=True)
        registry.update(connection, tables, *names, plan_run_id=work.run_id, plan_spec=spec)
        connection.commit()
        work.log(f"{sync.name}: {planned} references to fill in")
        apply(work, room, tables, work.run_id)
        outcomes = rows.outcome_counts(connection, tables)
        tally.problems += problems(rows.problem_rows(connection, tables, sync, _SHOWN))
        connection.commit()
        filled, rejected = outcomes.get("referenced", 0), outcomes.get("rejected", 0)
        counts = Counts(planned=planned, updated=filled, rejected=rejected)
        settle_completed(work, room, tables, None, counts=counts, registry={})
        tally.filled[sync.name] = filled
        if site.sequence.errors_of(sync).max_rejected.exceeded(rejected, planned):
            tally.over_limit.append(sync.name)
    # After the writing: a parent that has just turned out to be gone cannot be pointed at.
    unfilled, shown = unfilled_rows(connection, tables, sync, parents, _SHOWN)
    connection.commit()
    tally.problems += problems(shown)
    if unfilled.get("held"):
        tally.held[sync.name] = unfilled["held"]
    if rejected := rejected + unfilled.get("rejected", 0):
        tally.rejected[sync.name] = rejected


def _parents(work: Work, room: Room, tables: StateTables, known: Registered) -> Parents:
    sequence, sync = work.site.sequence, work.sync
    found: dict[str, sa.TableClause | None] = {}
    for slot, lookup in sync.filled_later().items():
        if not same_parent(known.mapping, sync, slot):
            # The ledger has the keys of another parent: the sync's next run sends these rows anew.
            continue
        if lookup.parent == sync.name:
            found[slot] = tables.ledger
            continue
        schema = room.state_schema_of(lookup.parent)
        table = ledger_of(sequence.name, lookup.parent, schema) if schema is not None else None
        there = table is not None and sa.inspect(room.connection).has_table(table.name, schema=schema)
        found[slot] = table if there else None
    return found
