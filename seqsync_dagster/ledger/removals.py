"""Which records may go: due, ours, and with no child's record pointing at them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.delta import temporary
from seqsync_dagster.ledger.tables import Shape, StateTables, key_column, parent_column, ref_column
from seqsync_dagster.sequence.sync import SyncSpec

#: Temporary table of due rows that are not free of what points at them.
_KEPT = "seqsync_kept"


@dataclass(frozen=True)
class Pointer:
    """A child's ledger, and its slots that hold keys of the sync whose records are to go."""

    ledger: sa.TableClause
    fields: Sequence[str]
    filled_later: Sequence[str] = ()
    """Of these, slots that finish fills in: until it has, records hold the reference that was sent before."""


def _pointed_at(tables: StateTables, pointers: Sequence[Pointer]) -> sa.ColumnElement[bool]:
    conditions: list[sa.ColumnElement[bool]] = [sa.false()]
    for n, pointer in enumerate(pointers):
        child = sa.table(
            pointer.ledger.name,
            sa.column("dest_id"),
            sa.column("match_key"),
            sa.column("state"),
            *[sa.column(parent_column(f)) for f in pointer.fields],
            *[sa.column(ref_column(f)) for f in pointer.filled_later],
            schema=pointer.ledger.schema,
        ).alias(f"child{n}")
        there = child.c.dest_id.is_not(None)
        at_once = [child.c[parent_column(f)] == tables.ledger.c.match_key for f in pointer.fields]
        at_once = [hit for f, hit in zip(pointer.fields, at_once, strict=True) if f not in pointer.filled_later]
        if at_once:
            conditions.append(sa.exists().where(there, sa.or_(*at_once)))
        for field in pointer.filled_later:
            means = child.c[parent_column(field)] == tables.ledger.c.match_key
            holds = child.c[ref_column(field)] == tables.ledger.c.dest_id
            # Records that point at each other would wait for each other; this field may be empty.
            stays = sa.and_(there, child.c.state != t.REMOVAL_DUE)
            conditions += [sa.exists().where(stays, means), sa.exists().where(stays, holds)]
    return sa.or_(*conditions)


def _pointed_at_by_own(
    tables: StateTables, sync: SyncSpec, which: Callable[[Any], sa.ColumnElement[bool]] = lambda child: sa.true()
) -> sa.ColumnElement[bool]:
    """Whether another record of the sync itself points at a row; `which`: only records of rows like that."""
    ledger, child = tables.ledger, tables.ledger.alias("own_child")
    hits = []
    for field, mapping in sync.filled_later().items():
        if mapping.parent == sync.name:
            hits.append(child.c[parent_column(field)] == ledger.c.match_key)
            if mapping.deferred:
                hits.append(child.c[ref_column(field)] == ledger.c.dest_id)
    another = sa.and_(child.c.dest_id.is_not(None), child.c.match_key != ledger.c.match_key, which(child))
    return sa.or_(sa.false(), *[sa.exists().where(another, hit) for hit in hits])


def _write_kept(
    connection: sa.Connection, tables: StateTables, sync: SyncSpec, stays: sa.ColumnElement[bool]
) -> sa.TableClause:
    """The due rows that something outside keeps: a record that stays, or one that is kept by another.

    What is due and not among them is kept by nothing but a loop. One statement per level.
    """
    ledger, kept = tables.ledger, sa.table(_KEPT, sa.column("match_key", sa.Text))
    own = _pointed_at_by_own(tables, sync, lambda child: child.c.state != t.REMOVAL_DUE)
    temporary(connection, _KEPT, sa.select(ledger.c.match_key).where(due(tables), sa.or_(stays, own)))
    found, before = -1, -2
    keys = sa.select(kept.c.match_key)
    while found > before:
        more = _pointed_at_by_own(tables, sync, lambda child: child.c.match_key.in_(keys))
        rows = sa.select(ledger.c.match_key).where(due(tables), more, ledger.c.match_key.not_in(keys))
        connection.execute(sa.insert(kept).from_select(["match_key"], rows))
        before, found = found, connection.execute(sa.select(sa.func.count()).select_from(kept)).scalar_one()
    return kept


def due(tables: StateTables) -> sa.ColumnElement[bool]:
    """The rows whose records are to be deleted, or emptied."""
    return sa.and_(tables.ledger.c.state == t.REMOVAL_DUE, tables.ledger.c.dest_id.is_not(None))


def count_due(connection: sa.Connection, tables: StateTables) -> int:
    """How many records are to be deleted, or emptied."""
    return connection.execute(sa.select(sa.func.count()).select_from(tables.ledger).where(due(tables))).scalar_one()


def write_removal_plan(
    connection: sa.Connection, tables: StateTables, sync: SyncSpec, pointers: Sequence[Pointer], tried: Sequence[str]
) -> int:
    """Write the plan that deletes every due record nothing points at, or empties every due one; returns its rows.

    `tried`: run ids of this finish; what they could not delete is not tried again within it.
    """
    shape = Shape.of(sync)
    ledger = tables.ledger
    refused = sa.and_(ledger.c.run_id.in_(tried), ledger.c.code.is_not(None)) if tried else sa.false()
    if sync.removed == "clear":
        # A record that is emptied goes on being pointed at.
        return _write(connection, tables, shape, t.CLEAR, sa.and_(due(tables), sa.not_(refused)))
    stays = sa.or_(refused, _pointed_at(tables, pointers))
    free = sa.and_(due(tables), sa.not_(stays), sa.not_(_pointed_at_by_own(tables, sync)))
    planned = _write(connection, tables, shape, t.DELETE, free)
    if planned or sync.name not in sync.parents() or not count_due(connection, tables):
        return planned
    # Records that point at each other in a loop would keep each other for ever.
    kept = _write_kept(connection, tables, sync, stays)
    rest = sa.and_(due(tables), ledger.c.match_key.not_in(sa.select(kept.c.match_key)))
    return _write(connection, tables, shape, t.DELETE, rest)


def _write(
    connection: sa.Connection, tables: StateTables, shape: Shape, operation: str, free: sa.ColumnElement[bool]
) -> int:
    ledger, plan = tables.ledger, tables.plan
    connection.execute(sa.text(f'DROP TABLE IF EXISTS "{plan.schema}"."{plan.name}"'))
    seq = sa.func.row_number().over(order_by=ledger.c.match_key)
    connection.execute(
        sa.select(
            seq.label("seq"),
            sa.literal(t.SEND).label("status"),
            sa.literal(operation).label("operation"),
            sa.cast(0, sa.Integer).label("level"),
            ledger.c.match_key,
            ledger.c.match_key.label("match_text"),
            sa.cast(sa.null(), sa.BigInteger).label("fingerprint"),
            ledger.c.dest_id,
            sa.cast(sa.null(), sa.Text).label("code"),
            sa.cast(sa.null(), sa.Text).label("message"),
            sa.cast(sa.null(), sa.Text).label("lacking"),
            *[ledger.c[key_column(k)] for k in shape.keys],
            *[ledger.c[c(f)] for f in shape.parents for c in (parent_column, ref_column)],
        )
        .where(free)
        .order_by(seq)
        .into(plan.name, schema=plan.schema)
    )
    return connection.execute(sa.select(sa.func.count()).select_from(plan)).scalar_one()
