"""Rows that would be created, and the records that are there for them already.

The rows stand in JUDGED, judged but not yet numbered; records come from the destination, page by page. What is
found makes another plan of a row: nothing to send, or an update by the record's id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.ledger import registry
from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.delta import delta_table, temporary
from seqsync_dagster.ledger.drift import Expected
from seqsync_dagster.ledger.fingerprint import Model, canonical, trimmed
from seqsync_dagster.ledger.judging import JUDGED
from seqsync_dagster.ledger.tables import Shape, StateTables, parent_column, ref_column, value_column
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.open import Numbered, Room

#: Temporary table of the rows that look for their record: numbered, with what they are found by.
_SEEKERS = "seqsync_seekers"
#: Temporary table of records as the destination gave them.
_RECORDS = "seqsync_records_found"
#: Temporary table of rows with the one record that is theirs, numbered.
_MATCHED = "seqsync_matched"
#: Temporary table of these with the values to send and the values held.
_PAIRS = "seqsync_pairs"
#: Temporary table of the rows whose record differs.
_DIFFERING = "seqsync_differing"
#: Temporary table of the values that several rows of the model have in the fields of `adopt_by`.
_SHARED = "seqsync_shared"
#: Temporary table of rows with the records that may be theirs: how many, and one of them.
_CANDIDATES = "seqsync_candidates"
#: Temporary table: what becomes of a row in the plan instead.
_VERDICTS = "seqsync_verdicts"


def held_column(number: int) -> str:
    """Column of what a record holds in the field of that number."""
    return f"held_{number}"


def by_column(number: int) -> str:
    """Column of what a row or a record is found by."""
    return f"by_{number}"


def judged(sync: SyncSpec) -> sa.TableClause:
    """The table of judged rows."""
    shape = Shape.of(sync)
    own = [slot for slot, m in shape.parents.items() if m.parent == sync.name]
    texts = ("status", "code", "message", "operation", "dest_id", "match_key", "match_text")
    return sa.table(
        JUDGED,
        *[sa.column(c, sa.Text) for c in texts],
        *[sa.column(value_column(f)) for f in shape.values],
        *[sa.column(parent_column(f), sa.Text) for f in shape.parents],
        *[sa.column(ref_column(f), sa.Text) for f in (*shape.parents, *shape.lookups)],
        *[sa.column(t.blocked_column(f), sa.Text) for f in own],
    )


def not_yet_acknowledged(rows: sa.TableClause, tables: StateTables) -> sa.ColumnElement[bool]:
    """Rows that are about to be sent and whose key has no acknowledged record."""
    ledger = tables.ledger
    known = sa.exists().where(ledger.c.match_key == rows.c.match_key, ledger.c.dest_id.is_not(None))
    return sa.and_(rows.c.status == t.SEND, sa.not_(known))


def seekers(by: int = 1) -> sa.TableClause:
    """The table that `write_seekers` makes."""
    names = [sa.column(by_column(i), sa.Text) for i in range(by)]
    return sa.table(
        _SEEKERS, sa.column("n", sa.BigInteger), sa.column("match_key", sa.Text), sa.column("asked", sa.Text), *names
    )


def write_seekers(
    connection: sa.Connection,
    rows: sa.FromClause,
    which: sa.ColumnElement[bool],
    asked: sa.ColumnElement[str],
    by: Sequence[sa.ColumnElement[str]],
) -> int:
    """Number the rows that look for a record; how many there are.

    `asked`: what the destination is asked for. `by`: what must be equal, in canonical form; rows without one of
    them look for nothing.
    """
    number = sa.func.row_number().over(order_by=[by[0], rows.c.match_key])
    columns = [b.label(by_column(i)) for i, b in enumerate(by)]
    there = [b.is_not(None) for b in by]
    selected = sa.select(number.label("n"), rows.c.match_key, asked.label("asked"), *columns)
    temporary(connection, _SEEKERS, selected.select_from(rows).where(which, *there))
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f'CREATE INDEX ON "{_SEEKERS}" (n)')
    return connection.execute(sa.select(sa.func.count()).select_from(seekers())).scalar_one()


def asked_page(first: int, last: int) -> sa.Select[str]:
    """Selects what the rows `first`..`last` ask for."""
    s = seekers()
    return sa.select(s.c.asked).where(s.c.n.between(first, last)).distinct()


def records(by: int = 1, held: int = 0) -> sa.TableClause:
    """The table that `create_records` makes."""
    names = ["dest_id", *[by_column(i) for i in range(by)], *[held_column(i) for i in range(held)]]
    return sa.table(_RECORDS, *[sa.column(n, sa.Text) for n in names])


def create_records(connection: sa.Connection, by: int, held: int) -> None:
    """Make room for records that are found by `by` fields, with what they hold in `held` others."""
    names = [c.name for c in records(by, held).c]
    empty = sa.select(*[sa.cast(sa.null(), sa.Text).label(n) for n in names]).where(sa.false())
    temporary(connection, _RECORDS, empty)


def write_matched(connection: sa.Connection, case_sensitive: bool) -> int:
    """Join rows and records by the match field; how many rows have exactly one record."""
    s, r = seekers(), records()
    key = canonical(trimmed(r.c.by_0), case_sensitive)
    one = (
        sa.select(s.c.match_key, sa.func.min(r.c.dest_id).label("dest_id"))
        .select_from(s.join(r, key == s.c.by_0))
        .group_by(s.c.match_key)
        .having(sa.func.count(r.c.dest_id.distinct()) == 1)
        .subquery("one")
    )
    number = sa.func.row_number().over(order_by=one.c.match_key)
    temporary(connection, _MATCHED, sa.select(number.label("n"), one.c.match_key, one.c.dest_id))
    return connection.execute(sa.select(sa.func.count()).select_from(_matched())).scalar_one()


def _matched() -> sa.TableClause:
    return sa.table(
        _MATCHED, sa.column("n", sa.BigInteger), sa.column("match_key", sa.Text), sa.column("dest_id", sa.Text)
    )


def write_pairs(room: Room, sync: SyncSpec, fields: Sequence[str], total: int) -> Expected:
    """Put what would be sent beside what the record holds, for `drift.expected_page`. Commits.

    A parent of this same sync counts with the record that was found for it.
    """
    connection, shape = room.connection, Shape.of(sync)
    m, j, r = _matched(), judged(sync), records(held=len(fields))
    source = m.join(j, j.c.match_key == m.c.match_key).join(r, r.c.dest_id == m.c.dest_id)
    values: list[sa.ColumnElement[Any]] = []
    # What is to point to a record that this plan creates points somewhere else, or nowhere, by now.
    settled: list[sa.ColumnElement[bool]] = []
    for number, field in enumerate(fields):
        if field in shape.values:
            values.append(j.c[value_column(field)])
        elif field in shape.lookups:
            values.append(j.c[ref_column(field)].label(value_column(field)))
        elif field in shape.slots:
            ref = shape.reference(field, j)
            for slot in (s for s in shape.slots[field] if shape.parents[s].parent == sync.name):
                parent = m.alias(f"parent{number}")
                source = source.outerjoin(parent, parent.c.match_key == j.c[parent_column(slot)])
                ref = sa.func.coalesce(ref, parent.c.dest_id)
                settled.append(sa.or_(j.c[t.blocked_column(slot)].is_(None), parent.c.dest_id.is_not(None)))
            values.append(ref.label(ref_column(field)))
    held = [r.c[held_column(i)] for i in range(len(fields))]
    selected = sa.select(
        m.c.n,
        m.c.match_key,
        m.c.dest_id,
        j.c.match_text.label("key"),
        sa.and_(sa.true(), *settled).label("compared"),
        *values,
        *held,
    ).select_from(source)
    temporary(connection, _PAIRS, selected)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f'CREATE INDEX ON "{_PAIRS}" (n)')
    connection.commit()
    pairs = sa.table(_PAIRS, *[sa.column(c.name, c.type) for c in selected.selected_columns])
    return Expected(total, room.part(Numbered(sa.select(*pairs.c), "n", total)))


def differing() -> sa.TableClause:
    """The table that `create_differing` makes."""
    return sa.table(_DIFFERING, sa.column("match_key", sa.Text))


def create_differing(connection: sa.Connection) -> None:
    """Make room for the keys of rows whose record holds something else."""
    temporary(connection, _DIFFERING, sa.select(sa.cast(sa.null(), sa.Text).label("match_key")).where(sa.false()))


def adopt_matched(connection: sa.Connection, sync: SyncSpec) -> None:
    """Rows whose record holds their values are adopted as it is; the others update it by its id."""
    m, d = _matched(), differing()
    differs = d.c.match_key.is_not(None)
    verdicts = sa.select(
        m.c.match_key,
        m.c.dest_id,
        sa.case((differs, t.SEND), else_=t.ADOPTED).label("status"),
        sa.literal(t.ADOPT).label("operation"),
        sa.cast(sa.null(), sa.Text).label("code"),
        sa.cast(sa.null(), sa.Text).label("message"),
    ).select_from(m.outerjoin(d, d.c.match_key == m.c.match_key))
    _judge_again(connection, sync, verdicts)


def gone(rows: sa.TableClause) -> sa.ColumnElement[bool]:
    """Rows that wait because their record is gone."""
    return sa.and_(rows.c.status == t.WAITING, rows.c.code == "GONE")


def not_looked_for(rows: sa.TableClause, tables: StateTables) -> sa.ColumnElement[bool]:
    """Of the rows whose record is gone, those that were not looked for since."""
    ledger = tables.ledger
    due = sa.exists().where(
        ledger.c.match_key == rows.c.match_key, ledger.c.state == t.GONE, ledger.c.retry_at.is_not(None)
    )
    return sa.and_(gone(rows), due)


def count(connection: sa.Connection, rows: sa.TableClause, which: sa.ColumnElement[bool]) -> int:
    """How many rows."""
    return connection.execute(sa.select(sa.func.count()).select_from(rows).where(which)).scalar_one()


def replace_gone(connection: sa.Connection, sync: SyncSpec) -> None:
    """Rows with a record in place of the one that is gone update it; the others wait, or are created."""
    m, j = _matched(), judged(sync)
    found = m.c.match_key.is_not(None)
    verdicts = (
        sa.select(
            j.c.match_key,
            m.c.dest_id,
            sa.literal(t.SEND).label("status"),
            sa.case((found, t.UPDATE), else_=t.CREATE).label("operation"),
            sa.cast(sa.null(), sa.Text).label("code"),
            sa.cast(sa.null(), sa.Text).label("message"),
        )
        .select_from(j.outerjoin(m, m.c.match_key == j.c.match_key))
        .where(gone(j), sa.true() if sync.on_gone == "recreate" else found)
    )
    _judge_again(connection, sync, verdicts)


def _texts(
    model: Model, sync: SyncSpec, columns: Mapping[str, sa.ColumnElement[Any]] | None = None
) -> list[sa.ColumnElement[str]]:
    """What the fields of `adopt_by` are found by, trimmed, from the model or from `columns` that hold its values."""
    mapped = {f: Shape.of(sync).values[f].column for f in sync.adopt_by}
    return [trimmed(model.text(c, None if columns is None else columns[f])) for f, c in mapped.items()]


def write_shared(
    connection: sa.Connection, model: Model, sync: SyncSpec, tables: StateTables, case_sensitive: Sequence[bool]
) -> None:
    """Note which values of `adopt_by` stand in several rows of the model. Needs DELTA.

    Values of rows without a record only: which others are equal does not matter.
    """
    d, ledger = delta_table(Shape.of(sync)), tables.ledger

    def equal(texts: Sequence[sa.ColumnElement[str]]) -> list[sa.ColumnElement[str]]:
        return [canonical(text, c) for text, c in zip(texts, case_sensitive, strict=True)]

    texts = equal(_texts(model, sync, {f: d.c[value_column(f)] for f in sync.adopt_by}))
    new = (
        sa.select(*[text.label(by_column(i)) for i, text in enumerate(texts)])
        .select_from(d.outerjoin(ledger, ledger.c.match_key == d.c.match_key))
        .where(d.c.fingerprint.is_not(None), ledger.c.dest_id.is_(None), *[text.is_not(None) for text in texts])
        .distinct()
        .subquery("new")
    )
    all_ = sa.select(*[text.label(by_column(i)) for i, text in enumerate(equal(_texts(model, sync)))])
    rows = all_.select_from(model.relation).subquery("rows")
    same = sa.and_(*[rows.c[c.name] == c for c in new.c])
    shared = sa.select(*new.c, sa.func.count().label("rows")).select_from(new.join(rows, same)).group_by(*new.c)
    temporary(connection, _SHARED, shared.having(sa.func.count() > 1))


def new_rows(connection: sa.Connection, sync: SyncSpec, tables: StateTables) -> int:
    """How many rows of DELTA have no acknowledged record."""
    d, ledger = delta_table(Shape.of(sync)), tables.ledger
    joined = d.outerjoin(ledger, ledger.c.match_key == d.c.match_key)
    new = sa.and_(d.c.fingerprint.is_not(None), ledger.c.dest_id.is_(None))
    return connection.execute(sa.select(sa.func.count()).select_from(joined).where(new)).scalar_one()


def created(rows: sa.TableClause, tables: StateTables) -> sa.ColumnElement[bool]:
    """Rows that would be created, those aside of which one has been sent already and its reply was lost."""
    ledger = tables.ledger
    lost = sa.exists().where(ledger.c.match_key == rows.c.match_key, ledger.c.state == t.UNRESOLVED)
    return sa.and_(rows.c.status == t.SEND, rows.c.operation == t.CREATE, sa.not_(lost))


def write_linkable(
    connection: sa.Connection, model: Model, sync: SyncSpec, tables: StateTables, case_sensitive: Sequence[bool]
) -> int:
    """Number the rows that would be created and have a value in every field of `adopt_by`; how many there are."""
    rows = judged(sync)
    texts = _texts(model, sync, {f: rows.c[value_column(f)] for f in sync.adopt_by})
    by = [canonical(text, c) for text, c in zip(texts, case_sensitive, strict=True)]
    return write_seekers(connection, rows, created(rows, tables), texts[0], by)


def _candidates(by: int) -> sa.TableClause:
    return sa.table(
        _CANDIDATES,
        sa.column("match_key", sa.Text),
        sa.column("dest_id", sa.Text),
        sa.column("found", sa.BigInteger),
        *[sa.column(by_column(i), sa.Text) for i in range(by)],
    )


def write_candidates(connection: sa.Connection, case_sensitive: Sequence[bool]) -> int:
    """Join rows and records by the fields of `adopt_by`; how many rows have a record, or several."""
    by = len(case_sensitive)
    s, r = seekers(by), records(by)
    columns = [s.c[by_column(i)] for i in range(by)]
    same = [canonical(trimmed(r.c[c.name]), f) == c for c, f in zip(columns, case_sensitive, strict=True)]
    one, found = sa.func.min(r.c.dest_id), sa.func.count(r.c.dest_id.distinct())
    selected = sa.select(s.c.match_key, one.label("dest_id"), found.label("found"), *columns)
    temporary(
        connection, _CANDIDATES, selected.select_from(s.join(r, sa.and_(*same))).group_by(s.c.match_key, *columns)
    )
    return connection.execute(sa.select(sa.func.count()).select_from(_candidates(by))).scalar_one()


def write_matching(connection: sa.Connection, sync: SyncSpec) -> int:
    """Number the rows that have candidates anew, to look for a record that has their key already."""
    rows, c = judged(sync), _candidates(0)
    which = rows.c.match_key.in_(sa.select(c.c.match_key))
    return write_seekers(connection, rows, which, rows.c.match_text, [rows.c.match_key])


def link(connection: sa.Connection, model: Model, sync: SyncSpec) -> None:
    """Rows whose values one record has, and no other row, take it over; where several could be meant, none does.

    Rows that match a record by their key stay as they are: sending them does not create.
    """
    by = len(sync.adopt_by)
    c, m, j = _candidates(by), _matched(), judged(sync)
    shared = sa.table(_SHARED, *[sa.column(by_column(i), sa.Text) for i in range(by)], sa.column("rows", sa.BigInteger))
    texts = _texts(model, sync, {f: j.c[value_column(f)] for f in sync.adopt_by})
    source = (
        c.join(j, j.c.match_key == c.c.match_key)
        .outerjoin(m, m.c.match_key == c.c.match_key)
        .outerjoin(shared, sa.and_(*[shared.c[by_column(i)] == c.c[by_column(i)] for i in range(by)]))
    )
    one = sa.and_(c.c.found == 1, shared.c.rows.is_(None))
    nothing = sa.cast(sa.null(), sa.Text)
    verdicts = (
        sa.select(
            c.c.match_key,
            sa.case((one, c.c.dest_id), else_=nothing).label("dest_id"),
            sa.case((one, t.SEND), else_=t.REFUSED).label("status"),
            sa.case((one, t.LINK), else_=t.CREATE).label("operation"),
            sa.case((one, nothing), else_="AMBIGUOUS_MATCH").label("code"),
            sa.case((one, nothing), else_=_ambiguous(sync, texts, c.c.found, shared.c.rows)).label("message"),
        )
        .select_from(source)
        .where(m.c.match_key.is_(None))
    )
    _judge_again(connection, sync, verdicts)


def _ambiguous(
    sync: SyncSpec, texts: Sequence[sa.ColumnElement[str]], found: sa.ColumnElement[int], rows: sa.ColumnElement[int]
) -> sa.ColumnElement[str]:
    said: sa.ColumnElement[str] = sa.literal("")
    for number, (field, text) in enumerate(zip(sync.adopt_by, texts, strict=True)):
        said = said.concat(f"{', ' if number else ''}{field} ").concat("***" if sync.is_sensitive(field) else text)
    said = said.concat(f": records of {sync.object} without {sync.match} that have it: ").concat(
        sa.cast(found, sa.Text)
    )
    said = said.concat("; rows of the model: ").concat(sa.cast(sa.func.coalesce(rows, 1), sa.Text))
    return said.concat(
        f". None was taken. Fill {sync.match} of the right record, merge those that are the same, or mend the model"
    )


def _judge_again(connection: sa.Connection, sync: SyncSpec, verdicts: sa.Select[*tuple[Any, ...]]) -> None:
    """Write JUDGED anew with these verdicts; rows below one of these records in a hierarchy have its id at once."""
    temporary(connection, _VERDICTS, verdicts)
    changed = ("dest_id", "status", "operation", "code", "message")
    v = sa.table(_VERDICTS, *[sa.column(c, sa.Text) for c in ("match_key", *changed)])
    names = registry.columns_of(connection, sa.table(JUDGED))
    j = sa.table(JUDGED, *[sa.column(c) for c in names])
    source: sa.FromClause = j.outerjoin(v, v.c.match_key == j.c.match_key)
    found = v.c.match_key.is_not(None)
    new: dict[str, sa.ColumnElement[Any]] = {c: j.c[c] for c in names}
    new |= {c: sa.case((found, v.c[c]), else_=j.c[c]) for c in changed}
    for n, (slot, mapping) in enumerate(Shape.of(sync).parents.items()):
        if mapping.parent == sync.name:
            parent = v.alias(f"parent{n}")
            source = source.outerjoin(parent, parent.c.match_key == j.c[parent_column(slot)])
            ref, blocked = ref_column(slot), t.blocked_column(slot)
            new[ref] = sa.func.coalesce(j.c[ref], parent.c.dest_id)
            new[blocked] = sa.case((parent.c.dest_id.is_(None), j.c[blocked]), else_=sa.cast(sa.null(), sa.Text))
    again = f"{JUDGED}_again"
    temporary(connection, again, sa.select(*[c.label(name) for name, c in new.items()]).select_from(source))
    connection.execute(sa.text(f'DROP TABLE "{JUDGED}"'))
    connection.execute(sa.text(f'ALTER TABLE "{again}" RENAME TO "{JUDGED}"'))
