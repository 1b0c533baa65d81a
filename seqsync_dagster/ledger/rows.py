"""Reading plan rows: pages to send, and samples to show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.deferred import due_reference, fields_filled_later
from seqsync_dagster.ledger.levels import own_lookups
from seqsync_dagster.ledger.tables import Shape, StateTables, parent_column, ref_column, value_column
from seqsync_dagster.sequence.sync import SyncSpec

MASK = "***"

# A statement takes 65,535 parameters at most on PostgreSQL.
_SEQS_AT_ONCE = 5_000


@dataclass(frozen=True)
class Group:
    """Plan rows that can go together: one level, one operation, one run of numbers."""

    level: int
    operation: str
    first_seq: int
    last_seq: int
    rows: int
    lacking: tuple[str, ...] = ()
    """Fields that these rows go without: what they hold in the destination stays as it is."""


def groups(connection: sa.Connection, tables: StateTables) -> list[Group]:
    """What is to be sent, in order."""
    p = tables.plan
    rows = connection.execute(
        sa.select(p.c.level, p.c.operation, sa.func.min(p.c.seq), sa.func.max(p.c.seq), sa.func.count(), p.c.lacking)
        .where(p.c.status == t.SEND)
        .group_by(p.c.level, p.c.operation, p.c.lacking)
        .order_by(sa.func.min(p.c.seq))
    )
    return [Group(r[0], r[1], r[2], r[3], r[4], tuple(filter(None, (r[5] or "").split(",")))) for r in rows]


def page(tables: StateTables, sync: SyncSpec, operation: str, first: int, last: int) -> sa.Select[Any]:
    """Selects the rows `first`..`last` as the destination gets them: seq, dest_id where known, one column per field.

    A reference to a row of the same run takes the id that row has just been
    given; a row whose parent was refused a moment ago is left out.
    """
    shape, own = Shape.of(sync), own_lookups(sync)
    p, o = tables.plan, tables.outcome
    columns: list[sa.ColumnElement[Any]] = [p.c.seq]
    if operation == t.REFERENCE:
        filled = [due_reference(shape, p, f).label(f) for f in fields_filled_later(sync)]
        return sa.select(p.c.seq, p.c.dest_id, *filled).where(p.c.seq.between(first, last)).order_by(p.c.seq)
    source: sa.FromClause = p
    where: list[sa.ColumnElement[bool]] = [p.c.status == t.SEND, p.c.seq.between(first, last)]
    if operation != t.CREATE:
        columns.append(p.c.dest_id)
    if operation == t.CLEAR:
        columns += [sa.cast(sa.null(), sa.Text).label(f) for f in sync.emptied()]
    elif operation != t.DELETE:
        if operation in (t.CREATE, t.LINK) and sync.match is not None:
            columns.append(p.c.match_text.label(sync.match))
        for n, (field, _) in enumerate(sync.mappings()):
            if field in shape.values:
                columns.append(p.c[value_column(field)].label(field))
            elif field in shape.constants:
                columns.append(sa.literal(shape.constants[field].constant).label(field))
            elif slot := next((s for s in shape.slots.get(field, ()) if s in own), None):
                parent, got = p.alias(f"parent{n}"), o.alias(f"given{n}")
                source = source.outerjoin(
                    parent,
                    sa.and_(
                        p.c[ref_column(slot)].is_(None),
                        parent.c.match_key == p.c[parent_column(slot)],
                        parent.c.status == t.SEND,
                        # Where a loop is broken the parent goes later.
                        parent.c.level < p.c.level,
                    ),
                ).outerjoin(got, sa.and_(got.c.seq == parent.c.seq, got.c.code.is_(None)))
                columns.append(sa.func.coalesce(shape.reference(field, p), got.c.dest_id).label(field))
                if shape.parents[slot].if_missing != "send_empty":
                    where.append(sa.or_(parent.c.seq.is_(None), got.c.dest_id.is_not(None)))
            elif field in shape.slots:
                columns.append(shape.reference(field, p).label(field))
            else:
                columns.append(p.c[ref_column(field)].label(field))
    return sa.select(*columns).select_from(source).where(*where).order_by(p.c.seq)


def keys_of(connection: sa.Connection, tables: StateTables, first: int, last: int) -> list[tuple[int, str]]:
    """The keys, as people know them, of the rows `first`..`last`."""
    p = tables.plan
    selected = sa.select(p.c.seq, _key_shown(tables)).where(p.c.seq.between(first, last))
    return [(row[0], row[1]) for row in connection.execute(selected)]


def ignored_nulls(sync: SyncSpec) -> tuple[str, ...]:
    """Fields that a null leaves as they are."""
    filled = sync.filled_if_empty()
    return tuple(f for f, m in sync.mappings() if getattr(m, "nulls", "clear") == "ignore" or f in filled)


def _shown(tables: StateTables, sync: SyncSpec) -> list[sa.ColumnElement[Any]]:
    p, shape = tables.plan, Shape.of(sync)
    return [
        (sa.literal(MASK) if sync.is_sensitive(f) else sa.cast(p.c[value_column(f)], sa.Text)).label(t.shown_column(f))
        for f in shape.values
    ]


def _key_shown(tables: StateTables) -> sa.ColumnElement[Any]:
    p = tables.plan
    return sa.func.coalesce(p.c.match_text, p.c.match_key, "(null)").label("key")


def problem_rows(
    connection: sa.Connection, tables: StateTables, sync: SyncSpec, limit: int, *, unsent: bool = True
) -> list[Mapping[str, Any]]:
    """The first rows that were not acknowledged: key, status, code, message, and ``shown_<field>`` values, masked.

    `unsent`: rows of the plan may have no outcome.
    """
    p, every = tables.plan, tables.outcome
    # Most outcomes are of acknowledged rows: joined to them, the plan's values would take memory by the row.
    told: sa.Select[*tuple[Any, ...]] = sa.select(every.c.seq, every.c.code, every.c.message)
    o = (told if unsent else told.where(every.c.code.is_not(None))).subquery("told")
    refused = o.c.code.is_not(None)
    select = (
        sa.select(
            _key_shown(tables),
            sa.case((refused, "rejected"), else_=p.c.status).label("status"),
            sa.case((refused, o.c.code), else_=p.c.code).label("code"),
            sa.case((refused, o.c.message), else_=p.c.message).label("message"),
            *(_shown(tables, sync) if _has_values(connection, tables) else []),
        )
        .select_from(p.outerjoin(o, o.c.seq == p.c.seq))
        .where(
            sa.or_(
                refused,
                p.c.status.in_(
                    [
                        t.REFUSED,
                        t.HELD_PENDING,
                        t.HELD_MISSING,
                        t.INVALID_NULL,
                        t.INVALID_DUPLICATE,
                        t.WAITING,
                        t.KEPT,
                        t.SKIPPED,
                    ]
                ),
                *([sa.and_(p.c.status == t.SEND, o.c.seq.is_(None))] if unsent else []),
            )
        )
        .order_by(sa.case((refused, 0), (p.c.status == t.SKIPPED, 2), else_=1), p.c.status, p.c.match_key)
        .limit(limit)
    )
    return [dict(r) for r in connection.execute(select).mappings()]


def change_rows(connection: sa.Connection, tables: StateTables, sync: SyncSpec, limit: int) -> list[Mapping[str, Any]]:
    """The first rows that were acknowledged: key, operation, dest_id, and ``shown_<field>`` values, masked."""
    p, every = tables.plan, tables.outcome
    # Chosen among outcomes alone: joined to all of them, the plan's values would take memory by the row.
    acknowledged = sa.select(every.c.seq, every.c.dest_id, every.c.created).where(every.c.code.is_(None))
    first = acknowledged.order_by(every.c.seq).limit(limit).subquery("first")
    as_is = sa.select(p.c.match_key).where(p.c.status == t.ADOPTED).order_by(p.c.match_key).limit(limit)
    sent = _changes(tables, sync, p.join(first, first.c.seq == p.c.seq), first.c.dest_id, first.c.created)
    found: list[Mapping[str, Any]] = [dict(r) for r in connection.execute(sent.order_by(p.c.seq)).mappings()]
    if len(found) < limit:
        nothing = sa.cast(sa.null(), sa.Text), sa.false()
        adopted = _changes(tables, sync, p, *nothing).where(p.c.status == t.ADOPTED, p.c.match_key.in_(as_is))
        rows = connection.execute(adopted.order_by(p.c.match_key).limit(limit - len(found))).mappings()
        found += [dict(r) for r in rows]
    return found


def _changes(
    tables: StateTables,
    sync: SyncSpec,
    source: sa.FromClause,
    dest_id: sa.ColumnElement[Any],
    created: sa.ColumnElement[Any],
) -> sa.Select[Any]:
    p = tables.plan
    adopted = sa.or_(p.c.operation.in_([t.ADOPT, t.LINK]), created.is_(False))
    operation = sa.case((p.c.operation == t.UPDATE, "updated"), (adopted, "adopted"), else_="created")
    return sa.select(
        _key_shown(tables),
        operation.label("operation"),
        sa.func.coalesce(dest_id, p.c.dest_id).label("dest_id"),
        *_shown(tables, sync),
    ).select_from(source)


def _has_values(connection: sa.Connection, tables: StateTables) -> bool:
    # A plan of removals carries no values.
    everything = sa.select(sa.text("*")).select_from(sa.table(tables.plan.name, schema=tables.plan.schema)).limit(0)
    return any(c.startswith("value_") for c in connection.execute(everything).keys())  # noqa: SIM118


def sensitive_values(
    connection: sa.Connection, tables: StateTables, sync: SyncSpec, seqs: Iterable[int]
) -> dict[int, list[str]]:
    """The sensitive values of some rows, so that they can be cut out of what the destination says of them."""
    p, shape = tables.plan, Shape.of(sync)
    columns: list[sa.ColumnElement[Any]] = [
        sa.cast(p.c[value_column(f)], sa.Text) for f in shape.values if sync.is_sensitive(f)
    ]
    if not columns or not _has_values(connection, tables):
        return {}
    wanted, found = list(seqs), {}
    for start in range(0, len(wanted), _SEQS_AT_ONCE):
        some = wanted[start : start + _SEQS_AT_ONCE]
        for row in connection.execute(sa.select(p.c.seq, *columns).where(p.c.seq.in_(some))):
            found[row[0]] = [v for v in row[1:] if v and v.strip()]
    return found


def outcome_counts(connection: sa.Connection, tables: StateTables) -> dict[str, int]:
    """Rows to be sent by what became of them: created, adopted, updated, referenced, removed, rejected,
    rejected_again (with the same values as before), unsent."""
    p, o, own = tables.plan, tables.outcome, tables.ledger.alias("own")
    fate = sa.case(
        (sa.and_(p.c.status == t.SEND, o.c.seq.is_(None)), "unsent"),
        (
            p.c.operation.in_(t.REMOVING),
            sa.case((sa.or_(o.c.code.is_(None), o.c.error_class == "gone"), "removed"), else_="rejected"),
        ),
        (sa.and_(o.c.code.is_not(None), own.c.tried_fingerprint == p.c.fingerprint), "rejected_again"),
        (o.c.code.is_not(None), "rejected"),
        (p.c.operation == t.REFERENCE, "referenced"),
        (p.c.operation == t.UPDATE, "updated"),
        (sa.or_(p.c.operation.in_([t.ADOPT, t.LINK]), o.c.created.is_(False)), "adopted"),
        else_="created",
    ).label("fate")
    rows = connection.execute(
        sa.select(fate, sa.func.count())
        .select_from(p.outerjoin(o, o.c.seq == p.c.seq).outerjoin(own, own.c.match_key == p.c.match_key))
        .where(p.c.status == t.SEND)
        .group_by(fate)
    )
    return {row[0]: row[1] for row in rows}
