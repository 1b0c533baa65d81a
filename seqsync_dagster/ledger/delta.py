"""What differs between the model and the ledger, found on fingerprints alone.

A full outer join on one number per row finds every difference whatever the key
looks like; only the differences carry their values and are joined by key later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.ledger.fingerprint import Model, canonical, fingerprint, key_text, total, trimmed
from seqsync_dagster.ledger.moments import as_meant
from seqsync_dagster.ledger.tables import (
    Shape,
    StateTables,
    key_column,
    lookup_column,
    parent_column,
    value_column,
)
from seqsync_dagster.sequence.sync import SyncSpec

#: Temporary table of the differences: model rows that the ledger does not hold
#: as they are (`fingerprint` set), and ledger fingerprints that no model row has (`old_fingerprint` set).
DELTA = "seqsync_delta"


def temporary(connection: sa.Connection, name: str, select: sa.Select[*tuple[Any, ...]]) -> None:
    """(Re)create a temporary table from a select."""
    connection.execute(sa.text(f'DROP TABLE IF EXISTS "{name}"'))
    connection.execute(select.into(name, temporary=True))


def delta_table(shape: Shape) -> sa.TableClause:
    """The table that `write_delta` makes."""
    return sa.table(
        DELTA,
        sa.column("fingerprint", sa.BigInteger),
        sa.column("old_fingerprint", sa.BigInteger),
        sa.column("match_text", sa.Text),
        sa.column("match_key", sa.Text),
        *[sa.column(key_column(k), sa.Text) for k in shape.keys],
        *[sa.column(value_column(f)) for f in shape.values],
        *[sa.column(parent_column(f), sa.Text) for f in shape.parents],
        *[sa.column(lookup_column(f), sa.Text) for f in shape.lookups],
    )


def write_delta(
    connection: sa.Connection,
    model: Model,
    sync: SyncSpec,
    tables: StateTables,
    *,
    case_sensitive: Mapping[str, bool],
    full: bool,
    only_keys: Sequence[str],
) -> None:
    """Write the differences to the temporary table DELTA.

    `case_sensitive`: of the match field, by sync. `full`: every model row is a
    difference. `only_keys`: the rows with these keys (text form) and no others,
    unchanged ones too, so that rows which share a key are seen.
    """
    columns = sorted(sync.columns())
    names = {c: f"m{i}" for i, c in enumerate(columns)}
    rows = sa.select(
        fingerprint(model, sync).label("fingerprint"),
        *[model.column(c).label(n) for c, n in names.items()],
    ).select_from(model.relation)
    own = case_sensitive[sync.name]
    if only_keys:
        wanted = [k.strip() if own else k.strip().lower() for k in only_keys]
        rows = rows.where(canonical(key_text([model.text(k) for k in sync.key]), own).in_(wanted))
    m = rows.cte("m")
    ledger = sa.select(tables.ledger.c.fingerprint).where(tables.ledger.c.fingerprint.is_not(None)).cte("acknowledged")
    if full or only_keys:
        source: sa.FromClause = m
        old: sa.ColumnElement[Any] = sa.cast(sa.null(), sa.BigInteger)
        condition: sa.ColumnElement[bool] = sa.true()
    else:
        source = m.outerjoin(ledger, m.c.fingerprint == ledger.c.fingerprint, full=True)
        old = ledger.c.fingerprint
        condition = sa.or_(m.c.fingerprint.is_(None), ledger.c.fingerprint.is_(None))
    d = (
        sa.select(m.c.fingerprint, old.label("old_fingerprint"), *[m.c[n] for n in names.values()])
        .select_from(source)
        .where(condition)
        .cte("d")
    )
    temporary(connection, DELTA, _payload(d, model, sync, names, case_sensitive))


def delta_of(
    connection: sa.Connection,
    model: Model,
    sync: SyncSpec,
    rows: sa.FromClause,
    where: sa.ColumnElement[bool],
    case_sensitive: Mapping[str, bool],
    *,
    more: bool = False,
) -> None:
    """Make DELTA of these rows of the model, unchanged ones too. `more`: add them to it."""
    columns = sorted(sync.columns())
    names = {c: f"m{i}" for i, c in enumerate(columns)}
    d = (
        sa.select(
            fingerprint(model, sync).label("fingerprint"),
            sa.cast(sa.null(), sa.BigInteger).label("old_fingerprint"),
            *[model.column(c).label(n) for c, n in names.items()],
        )
        .select_from(rows)
        .where(where)
        .cte("d")
    )
    payload = _payload(d, model, sync, names, case_sensitive)
    if more:
        delta = delta_table(Shape.of(sync))
        connection.execute(sa.insert(delta).from_select([c.name for c in payload.selected_columns], payload))
    else:
        temporary(connection, DELTA, payload)


def add_exact_twins(
    connection: sa.Connection, model: Model, sync: SyncSpec, case_sensitive: Mapping[str, bool]
) -> None:
    """Add to DELTA the rows that stand in the model more than once, to the letter, as the ledger holds them.

    They all match the ledger's one fingerprint, so no difference shows; that
    there are some, shows in the number of rows that match.
    """
    columns = sorted(sync.columns())
    names = {c: f"m{i}" for i, c in enumerate(columns)}
    hashed = fingerprint(model, sync)
    shared = sa.select(hashed.label("fp")).select_from(model.relation).group_by(hashed).having(sa.func.count() > 1)
    rows = (
        sa.select(hashed.label("fingerprint"), *[model.column(c).label(n) for c, n in names.items()])
        .select_from(model.relation)
        .cte("m")
    )
    d = delta_table(Shape.of(sync))
    twins = (
        sa.select(rows, sa.cast(sa.null(), sa.BigInteger).label("old_fingerprint"))
        .where(
            rows.c.fingerprint.in_(shared),
            rows.c.fingerprint.not_in(sa.select(d.c.fingerprint).where(d.c.fingerprint.is_not(None))),
        )
        .cte("d")
    )
    payload = _payload(twins, model, sync, names, case_sensitive)
    connection.execute(sa.insert(d).from_select([c.name for c in payload.selected_columns], payload))


def _payload(
    d: sa.CTE, model: Model, sync: SyncSpec, names: Mapping[str, str], case_sensitive: Mapping[str, bool]
) -> sa.Select[*tuple[Any, ...]]:
    """The columns of DELTA from rows that carry fingerprints and the model's columns as `names`."""
    shape, own = Shape.of(sync), case_sensitive[sync.name]
    texts = {c: model.text(c, d.c[n]) for c, n in names.items()}
    text = key_text([texts[k] for k in sync.key])
    return sa.select(
        d.c.fingerprint,
        d.c.old_fingerprint,
        text.label("match_text"),
        canonical(text, own).label("match_key"),
        *[texts[k].label(key_column(k)) for k in shape.keys],
        *[
            as_meant(sync, model.types, m_.column, d.c[names[m_.column]]).label(value_column(f))
            for f, m_ in shape.values.items()
        ],
        *[
            canonical(key_text([texts[c] for c in m_.from_]), case_sensitive.get(m_.parent, False)).label(
                parent_column(f)
            )
            for f, m_ in shape.parents.items()
        ],
        *[
            sa.func.lower(trimmed(texts[m_.from_] if m_.from_ is not None else sa.literal(m_.value))).label(
                lookup_column(f)
            )
            for f, m_ in shape.lookups.items()
        ],
    )


@dataclass(frozen=True)
class Differences:
    """What DELTA holds, as numbers."""

    model_rows: int
    """Model rows that the ledger does not hold as they are."""
    ledger_rows: int
    """Fingerprints of the ledger that no model row has."""
    model_total: int
    ledger_total: int
    """Sums of the fingerprints of both."""


def differences(connection: sa.Connection, shape: Shape) -> Differences:
    """Count and sum DELTA."""
    d = delta_table(shape)
    row = connection.execute(
        sa.select(
            sa.func.count(d.c.fingerprint),
            sa.func.count(d.c.old_fingerprint),
            total(d.c.fingerprint),
            total(d.c.old_fingerprint),
        ).select_from(d)
    ).one()
    return Differences(row[0], row[1], int(row[2]), int(row[3]))


def lookup_values(shape: Shape, field: str) -> sa.Select[Any]:
    """The distinct values by which the differing rows look up records for a field."""
    d = delta_table(shape)
    column = d.c[lookup_column(field)]
    return sa.select(column.label("value")).where(column.is_not(None), d.c.fingerprint.is_not(None)).distinct()
