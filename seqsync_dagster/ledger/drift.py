"""The acknowledged records with the values they must hold, and what becomes of those that do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.delta import temporary
from seqsync_dagster.ledger.fingerprint import Model, fingerprint, key_text
from seqsync_dagster.ledger.moments import as_meant
from seqsync_dagster.ledger.tables import Shape, StateTables, ref_column, value_column
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.open import Numbered, Room, pages

#: Temporary tables of the watched records: numbered, and with the values they must hold.
_EXPECTED = "seqsync_expected"
_RECORDS = "seqsync_records"
#: Temporary table of the keys whose records differ (`gone` false) or are not there any more (`gone` true).
_DRIFTED = "seqsync_drifted"

#: States of rows whose record is ours to watch. What left its model is not.
_WATCHED = (t.ACKNOWLEDGED, t.REJECTED, t.HELD, t.SKIPPED)


@dataclass(frozen=True)
class Expected:
    """The watched records, numbered from 1 in the order of their ids, and the values they must hold."""

    rows: int
    parts: Sequence[sa.Select[Any]]
    """Of a temporary table, so that a page is found without reading all of it."""


def write_expected(room: Room, model: Model, sync: SyncSpec, tables: StateTables, fields: Sequence[str]) -> Expected:
    """Write down the watched records with their values, for `expected_page`. Touches temporary tables only; commits.

    A row of the ledger whose fingerprint stands in the model was acknowledged with the
    model's values as they are now. The others have changed since, or were refused: whether
    their record is there can be told, not what it must hold. A parent's id is the one that
    was sent, which is what was acknowledged.
    """
    connection, ledger, shape = room.connection, tables.ledger, Shape.of(sync)
    parents = {f: shape.reference(f, ledger).label(ref_column(f)) for f in fields if f in shape.slots}
    values = {f: shape.values[f] for f in fields if f in shape.values}
    # Binary order: that of the ids in the destination.
    number = sa.func.row_number().over(order_by=sa.collate(ledger.c.dest_id, "C"))
    watched = sa.and_(ledger.c.dest_id.is_not(None), ledger.c.state.in_(_WATCHED))
    narrow = [ledger.c.match_key, ledger.c.dest_id, ledger.c.fingerprint, *parents.values()]
    # Numbered before the values join: a window over wide rows would hold them all in memory.
    temporary(connection, _RECORDS, sa.select(number.label("n"), *narrow).where(watched))
    records = sa.table(_RECORDS, sa.column("n", sa.BigInteger), *[sa.column(c.name, c.type) for c in narrow])
    names = {c: f"m{i}" for i, c in enumerate(sorted(sync.columns()))}
    rows = (
        sa.select(fingerprint(model, sync).label("fingerprint"), *[model.column(c).label(n) for c, n in names.items()])
        .select_from(model.relation)
        .cte("m")
    )
    key = key_text([model.text(k, rows.c[names[k]]) for k in sync.key])
    selected = sa.select(
        records.c.n,
        records.c.match_key,
        records.c.dest_id,
        sa.func.coalesce(key, records.c.match_key).label("key"),
        rows.c.fingerprint.is_not(None).label("compared"),
        *[
            as_meant(sync, model.types, m.column, rows.c[names[m.column]]).label(value_column(f))
            for f, m in values.items()
        ],
        *[records.c[ref_column(f)] for f in parents],
    ).select_from(records.outerjoin(rows, rows.c.fingerprint == records.c.fingerprint))
    temporary(connection, _EXPECTED, selected)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f'CREATE INDEX ON "{_EXPECTED}" (n)')
    total = connection.execute(sa.select(sa.func.count()).select_from(records)).scalar_one()
    connection.commit()
    expected = sa.table(_EXPECTED, *[sa.column(c.name, c.type) for c in selected.selected_columns])
    return Expected(total, room.part(Numbered(sa.select(*expected.c), "n", total)))


def expected_pages(room: Room, expected: Expected, size: int) -> Iterator[tuple[sa.Select[Any], int, int]]:
    """The part, first and last number of every page of at most `size` records."""
    for part in expected.parts:
        n = part.subquery("part").c.n
        ends: sa.Select[int, int] = sa.select(sa.func.min(n), sa.func.max(n))
        first, last = room.connection.execute(ends).one()
        for start, end in pages(first, last, size) if first is not None else ():
            yield part, start, end


def expected_page(
    part: sa.Select[Any], sync: SyncSpec, fields: Sequence[str], first: int, last: int, more: Sequence[str] = ()
) -> sa.Select[Any]:
    """Selects the records `first`..`last`: n, match_key, dest_id, key, compared, `more`, then the values of `fields`.

    Rows of the model that are the same to the letter stand for one record: it comes once for each, with one number.
    """
    shape, rows = Shape.of(sync), part.subquery("part")
    values: list[sa.ColumnElement[Any]] = []
    for field in fields:
        if field in shape.constants:
            values.append(sa.literal(shape.constants[field].constant).label(value_column(field)))
        elif field in shape.slots:
            values.append(rows.c[ref_column(field)].label(value_column(field)))
        else:
            values.append(rows.c[value_column(field)])
    fixed = [rows.c[c] for c in ("n", "match_key", "dest_id", "key", "compared")]
    fixed += [rows.c[c] for c in more]
    return sa.select(*fixed, *values).where(rows.c.n.between(first, last)).order_by(rows.c.n)


def drifted_table() -> sa.TableClause:
    """The temporary table that `create_drifted` makes."""
    return sa.table(_DRIFTED, sa.column("match_key", sa.Text), sa.column("gone", sa.Boolean))


def create_drifted(connection: sa.Connection) -> None:
    """Make room for the keys of drifted records."""
    nothing: Mapping[str, Any] = {"match_key": sa.Text, "gone": sa.Boolean}
    empty = sa.select(*[sa.cast(sa.null(), type_).label(name) for name, type_ in nothing.items()])
    temporary(connection, _DRIFTED, empty.where(sa.false()))


def make_due(connection: sa.Connection, tables: StateTables) -> None:
    """The drifted records that are still there lose their fingerprint, so that the next run sends their rows again."""
    drifted = drifted_table()
    changed = sa.select(drifted.c.match_key).where(sa.not_(drifted.c.gone))
    connection.execute(sa.update(tables.ledger).where(tables.ledger.c.match_key.in_(changed)).values(fingerprint=None))


def mark_gone(
    connection: sa.Connection, tables: StateTables, sequence: str, sync: str, run_id: str, now: datetime
) -> None:
    """The records that are not there any more become `gone`, as if an update had met with their absence.

    Their ids are no destination ids any more, since nothing may point at them. The next plan looks for them by match.
    """
    ledger, drifted, log = tables.ledger, drifted_table(), tables.changelog
    missing = ledger.c.match_key.in_(sa.select(drifted.c.match_key).where(drifted.c.gone))
    moment = sa.cast(now, sa.DateTime(timezone=True))
    said = {
        "code": sa.literal("RECORD_GONE"),
        "message": sa.literal("a drift check did not find the record: it was deleted or merged, or is out of sight"),
        "error_class": sa.literal("gone"),
    }
    logged: dict[str, sa.ColumnElement[Any]] = {
        "sequence": sa.literal(sequence),
        "sync": sa.literal(sync),
        "run_id": sa.literal(run_id),
        "key": ledger.c.match_key,
        "operation": sa.literal("gone"),
        "previous_dest_id": ledger.c.dest_id,
        **said,
        "logged_at": moment,
    }
    connection.execute(sa.insert(log).from_select(list(logged), sa.select(*logged.values()).where(missing)))
    connection.execute(
        sa.update(ledger)
        .where(missing)
        .values(
            fingerprint=None,
            tried_fingerprint=None,
            dest_id=None,
            gone_id=ledger.c.dest_id,
            state=t.GONE,
            attempts=0,
            retry_at=moment,
            **said,
            run_id=run_id,
            settled_at=moment,
        )
    )
