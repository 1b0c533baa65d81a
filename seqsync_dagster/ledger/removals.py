"""Which records may go: due, ours, and with no child's record pointing at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.tables import Shape, StateTables, key_column, parent_column, ref_column
from seqsync_dagster.sequence.spec import SyncSpec


@dataclass(frozen=True)
class Pointer:
    """A child's ledger, and its columns that hold keys of the sync whose records are to go."""

    ledger: sa.TableClause
    fields: Sequence[str]
    filled_later: Sequence[str] = ()
    """Of these, fields that finish fills in: until it has, records hold the reference that was sent before."""


def _pointed_at(tables: StateTables, sync: SyncSpec, pointers: Sequence[Pointer]) -> sa.ColumnElement[bool]:
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
    own = [f for f, m in Shape.of(sync).parents.items() if m.parent == sync.name]
    if own:
        child = tables.ledger.alias("own_child")
        conditions.append(
            sa.exists().where(
                child.c.dest_id.is_not(None),
                child.c.match_key != tables.ledger.c.match_key,
                sa.or_(*[child.c[parent_column(f)] == tables.ledger.c.match_key for f in own]),
            )
        )
    return sa.or_(*conditions)


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
    ledger, plan = tables.ledger, tables.plan
    connection.execute(sa.text(f'DROP TABLE IF EXISTS "{plan.schema}"."{plan.name}"'))
    seq = sa.func.row_number().over(order_by=ledger.c.match_key)
    free = due(tables)
    operation = t.CLEAR if sync.removed == "clear" else t.DELETE
    if operation == t.DELETE:
        free = sa.and_(free, sa.not_(_pointed_at(tables, sync, pointers)))
    if tried:
        free = sa.and_(free, sa.not_(sa.and_(ledger.c.run_id.in_(tried), ledger.c.code.is_not(None))))
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
