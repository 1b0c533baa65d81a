"""The differences among the rows that changed lately, found without reading the others.

One statement reads the rows of a range of stamps, narrowly: keys and fingerprints. Where some of them differ from the
ledger, or rows of it wait for something, a second one reads the rows of *these keys*, whatever their stamps: so rows
that share a key meet each other, and rows that wait are seen with their present values. Both leave every other row
alone: a range of stamps and a set of keys are what an index, or the statistics of a column, can answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.delta import delta_of, delta_table, temporary
from seqsync_dagster.ledger.fingerprint import Model, canonical, fingerprint, key_text
from seqsync_dagster.ledger.tables import Shape, StateTables, key_column
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.column_types import read_type

#: Temporary tables: keys and fingerprints of the rows in the range, those keys whose rows differ from the ledger, and
#: the keys whose rows are read.
_RECENT = "seqsync_recent"
_CHANGED = "seqsync_changed"
_WANTED = "seqsync_wanted"

#: Far enough back for any record; what is before it, e.g. PostgreSQL's -infinity, is no time to go on from.
_EARLIEST = "1900-01-01"

#: States of rows that are acknowledged no more, or not yet, and may be in the model.
_WAITING = (t.REJECTED, t.HELD, t.INVALID, t.GONE, t.UNRESOLVED, t.SKIPPED)


class _Named(sa.types.UserDefinedType[Any]):
    """A type by the engine's own name of it."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


@dataclass(frozen=True)
class Stamps:
    """The column that says when a row changed last."""

    column: str
    type: str
    zoned: bool

    def at(self, moment: str) -> sa.ColumnElement[Any]:
        """A moment, as ISO 8601 text, to compare the column with: of its own type, so that an index helps."""
        return sa.cast(sa.literal(moment, sa.Text), _Named(self.type))

    def latest(
        self, connection: sa.Connection, relation: sa.FromClause, column: sa.ColumnElement[Any], now: str
    ) -> datetime | None:
        """The latest stamp that is not after `now`, which would say nothing about rows that change until then."""
        moment: sa.ColumnElement[datetime] = sa.cast(sa.func.max(column), sa.DateTime(timezone=self.zoned))
        known = column.between(self.at(_EARLIEST), self.at(now))
        return connection.execute(sa.select(moment).select_from(relation).where(known)).scalar_one()


def latest_stamp(connection: sa.Connection, model: Model, stamps: Stamps, now: str) -> datetime | None:
    """The latest stamp of a whole model."""
    return stamps.latest(connection, model.relation, model.column(stamps.column), now)


@dataclass(frozen=True)
class Recent:
    """What was read of a range of stamps."""

    rows: int
    as_acknowledged: int
    changed: int
    """Of these, rows that the ledger does not hold as they are, or whose key another one has."""
    latest: datetime | None
    """Their latest stamp."""


def read_recent(
    connection: sa.Connection,
    model: Model,
    sync: SyncSpec,
    tables: StateTables,
    stamps: Stamps,
    since: str,
    *,
    case_sensitive: bool,
    now: datetime,
    now_as_stamp: str,
) -> Recent:
    """Read keys and fingerprints of the rows with a stamp from `since` on, or with none, into temporary tables."""
    keys = [_comparable(model, k).label(_raw(n)) for n, k in enumerate(sync.key)]
    text = canonical(key_text([model.text(k) for k in sync.key]), case_sensitive)
    rows = sa.select(
        fingerprint(model, sync).label("fingerprint"),
        text.label("match_key"),
        model.column(stamps.column).label("stamp"),
        *keys,
    ).select_from(model.relation)
    _written(connection, _RECENT, rows.where(_range(model, stamps, since)))
    recent, ledger = _keys_table(_RECENT, sync), tables.ledger
    refused_as_it_is = sa.and_(
        ledger.c.state == t.REJECTED,
        ledger.c.tried_fingerprint == recent.c.fingerprint,
        sa.or_(ledger.c.retry_at.is_(None), ledger.c.retry_at > now),
    )
    differs = sa.and_(
        ledger.c.fingerprint.is_distinct_from(recent.c.fingerprint),
        sa.not_(sa.func.coalesce(refused_as_it_is, sa.false(), type_=sa.Boolean)),
    )
    shared = sa.select(recent.c.match_key).group_by(recent.c.match_key).having(sa.func.count() > 1)
    changed = (
        sa.select(*[c for c in recent.c if c.name not in ("fingerprint", "stamp")])
        .select_from(recent.outerjoin(ledger, ledger.c.match_key == recent.c.match_key))
        .where(sa.or_(differs, recent.c.match_key.in_(shared.where(recent.c.match_key.is_not(None)))))
    )
    _written(connection, _CHANGED, changed)
    same = sa.and_(ledger.c.match_key == recent.c.match_key, ledger.c.fingerprint == recent.c.fingerprint)
    return Recent(
        _count(connection, recent),
        _count(connection, recent, sa.exists().where(same)),
        _count(connection, _keys_table(_CHANGED, sync)),
        stamps.latest(connection, recent, recent.c.stamp, now_as_stamp),
    )


def write_delta_of_keys(
    connection: sa.Connection,
    model: Model,
    sync: SyncSpec,
    tables: StateTables,
    stamps: Stamps,
    since: str,
    *,
    case_sensitive: Mapping[str, bool],
) -> int:
    """Write DELTA: all rows of the keys that changed, or wait, unchanged ones too; how many others were read.

    Needs what `read_recent` wrote.
    """
    changed, ledger = _keys_table(_CHANGED, sync), tables.ledger
    concerned = sa.or_(waiting(ledger), ledger.c.match_key.in_(sa.select(changed.c.match_key)))
    # The key as the ledger knows it, too: the same one for the destination may be written in another way.
    of_ledger = [_as_in_model(model, k, ledger.c[key_column(k)]).label(_raw(n)) for n, k in enumerate(sync.key)]
    wanted = sa.union(
        sa.select(*[changed.c[_raw(n)] for n in range(len(sync.key))]).where(changed.c.match_key.is_not(None)),
        sa.select(*of_ledger).where(concerned, *[ledger.c[key_column(k)].is_not(None) for k in sync.key]),
    ).subquery("wanted")
    _written(connection, _WANTED, sa.select(*wanted.c))
    named = sa.table(_WANTED, *[sa.column(_raw(n)) for n in range(len(sync.key))])
    same = [_comparable(model, k) == named.c[_raw(n)] for n, k in enumerate(sync.key)]
    delta_of(connection, model, sync, model.relation.join(named, sa.and_(*same)), sa.true(), case_sensitive)
    recent, d = _keys_table(_RECENT, sync), delta_table(Shape.of(sync))
    keyless = recent.c.match_key.is_(None)
    if _count(connection, recent, keyless):
        blank = key_text([model.text(k) for k in sync.key]).is_(None)
        where = sa.and_(_range(model, stamps, since), blank)
        delta_of(connection, model, sync, model.relation, where, case_sensitive, more=True)
    others = sa.and_(recent.c.match_key.is_not(None), sa.not_(sa.exists().where(d.c.match_key == recent.c.match_key)))
    return _count(connection, recent, others)


def waiting(ledger: Any) -> sa.ColumnElement[bool]:
    """Whether a row of the ledger is not what the destination holds of it, for whatever reason."""
    due = sa.and_(ledger.c.state == t.ACKNOWLEDGED, ledger.c.fingerprint.is_(None))
    return sa.or_(due, ledger.c.state.in_(_WAITING))


def lost_fingerprints(connection: sa.Connection, tables: StateTables) -> int:
    """Rows that are due because of something else than their values, e.g. a parent's new id."""
    ledger = tables.ledger
    return _count(connection, ledger, ledger.c.state == t.ACKNOWLEDGED, ledger.c.fingerprint.is_(None))


def _written(connection: sa.Connection, name: str, select: sa.Select[*tuple[Any, ...]]) -> None:
    temporary(connection, name, select)
    if connection.dialect.name == "postgresql":
        # Nobody else does it for a temporary table; and without, a few keys are taken for so many that an index on
        # the model's key is left aside.
        connection.exec_driver_sql(f'ANALYZE "{name}"')


def _range(model: Model, stamps: Stamps, since: str) -> sa.ColumnElement[bool]:
    stamp = model.column(stamps.column)
    return sa.or_(stamp >= stamps.at(since), stamp.is_(None))


def _raw(number: int) -> str:
    return f"raw{number}"


def _keys_table(name: str, sync: SyncSpec) -> sa.TableClause:
    columns: list[sa.ColumnClause[Any]] = [sa.column(_raw(n)) for n in range(len(sync.key))]
    if name == _RECENT:
        columns += [sa.column("fingerprint", sa.BigInteger), sa.column("stamp")]
    return sa.table(name, sa.column("match_key", sa.Text), *columns)


def _castable(model: Model, key: str) -> bool:
    return read_type(model.types[key]).kind != "unknown"


def _comparable(model: Model, key: str) -> sa.ColumnElement[Any]:
    """A part of the key as it can be found again: as it is where its type has a name that we know, else as text."""
    return model.column(key) if _castable(model, key) else model.text(key)


def _as_in_model(model: Model, key: str, text: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.cast(text, _Named(model.types[key])) if _castable(model, key) else text


def _count(connection: sa.Connection, table: sa.TableClause, *where: sa.ColumnElement[bool]) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar_one()
