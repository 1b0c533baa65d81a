"""From judged differences to the plan: the sending order, and what left the model.

Everything happens in SQL; the result is the plan table, values and sending order included.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.deferred import lacking_of_deferred
from seqsync_dagster.ledger.delta import delta_table, temporary
from seqsync_dagster.ledger.judging import JUDGED, PlanRequest, judge_rows
from seqsync_dagster.ledger.levels import LEVELS, own_lookups, write_levels
from seqsync_dagster.ledger.tables import Shape, StateTables, key_column, parent_column, ref_column, value_column
from seqsync_dagster.warehouse.hashing import row_hash
from seqsync_dagster.warehouse.open import Numbered, Room

#: Temporary table: number among the judged rows and place in the sending order of every row that goes.
_NUMBERS = "seqsync_numbers"


def prepare_plan(room: Room, request: PlanRequest) -> Numbered:
    """Judge every difference and number the rows that go. Needs DELTA, and FOUND when there are lookups.

    Touches temporary tables only.
    """
    judge_rows(room, request)
    return place_rows(room, request)


def place_rows(room: Room, request: PlanRequest) -> Numbered:
    """The second half of `prepare_plan`: the sending order of the rows of JUDGED that go."""
    write_levels(room.connection, request.sync)
    return _numbered(room, request)


def write_plan(room: Room, request: PlanRequest, prepared: Numbered) -> None:
    """Write the plan table. May commit, as `Room.write` does: the plan counts once the registry names its run."""
    connection, plan = room.connection, request.tables.plan
    room.write(plan, prepared)
    if request.whole and request.limit is None:
        _add_departures(connection, request)
    if request.limit is not None:
        connection.execute(sa.delete(plan).where(plan.c.status == t.SEND, plan.c.seq > request.limit))


def _numbered(room: Room, request: PlanRequest) -> Numbered:
    connection, shape = room.connection, Shape.of(request.sync)
    judged = sa.table(
        JUDGED,
        sa.column("n", sa.BigInteger),
        *[sa.column(c) for c in ("status", "code", "message", "operation", "dest_id", "match_key", "match_text")],
        sa.column("fingerprint", sa.BigInteger),
        *[sa.column(key_column(k)) for k in shape.keys],
        *[sa.column(value_column(f)) for f in shape.values],
        *[sa.column(parent_column(f)) for f in shape.parents],
        *[sa.column(ref_column(f)) for f in (*shape.parents, *shape.lookups)],
    )
    lacking = lacking_of_deferred(shape, judged)
    goes: sa.ColumnElement[bool] = judged.c.status == t.SEND
    level: sa.ColumnElement[Any] = sa.literal_column("0")
    placed: sa.FromClause = judged
    own = list(own_lookups(request.sync))
    if own:
        levels = sa.table(
            LEVELS, sa.column("match_key", sa.Text), sa.column("level", sa.Integer), sa.column("lacking", sa.Text)
        )
        unplaced = goes, sa.not_(sa.exists().where(levels.c.match_key == judged.c.match_key))
        no_level = f"{shape.field_of(own[0])}: the parent row is itself held, invalid, refused or skipped"
        held = {"status": t.HELD_PENDING, "code": "PARENT_PENDING", "message": no_level}
        connection.execute(sa.update(judged).where(*unplaced).values(held))
        placed = judged.join(levels, levels.c.match_key == judged.c.match_key)
        level = levels.c.level
        lacking = lacking.concat(sa.func.coalesce(levels.c.lacking, ""))
    # Rows of one parent go together: batches that share a parent would fight for its lock.
    together = [judged.c[parent_column(f)] for f in shape.parents]
    order = [level, judged.c.operation, *([lacking] if request.sync.filled_later() else []), *together]
    order.append(judged.c.match_key)
    number = sa.func.row_number().over(order_by=order)
    temporary(
        connection,
        _NUMBERS,
        sa.select(
            judged.c.n,
            level.label("level"),
            sa.func.nullif(lacking, "", type_=sa.Text).label("lacking"),
            number.label("seq"),
        )
        .select_from(placed)
        .where(goes),
    )
    numbers = sa.table(
        _NUMBERS,
        sa.column("n", sa.BigInteger),
        sa.column("level", sa.Integer),
        sa.column("lacking", sa.Text),
        sa.column("seq", sa.BigInteger),
    )

    def columns(
        seq: sa.ColumnElement[Any], level: sa.ColumnElement[Any], lacking: sa.ColumnElement[Any]
    ) -> list[sa.ColumnElement[Any]]:
        return [
            seq.label("seq"),
            judged.c.status,
            judged.c.operation,
            level.label("level"),
            judged.c.match_key,
            judged.c.match_text,
            judged.c.fingerprint,
            judged.c.dest_id,
            judged.c.code,
            judged.c.message,
            lacking.label("lacking"),
            *[judged.c[key_column(k)] for k in shape.keys],
            *[judged.c[value_column(f)] for f in shape.values],
            *[judged.c[parent_column(f)] for f in shape.parents],
            *[judged.c[ref_column(f)] for f in (*shape.parents, *shape.lookups)],
        ]

    going = (
        sa.select(*columns(numbers.c.seq, numbers.c.level, numbers.c.lacking))
        .select_from(judged.join(numbers, numbers.c.n == judged.c.n))
        .where(goes)
    )
    no_number, nothing = sa.cast(sa.null(), sa.BigInteger), sa.cast(sa.null(), sa.Text)
    waiting = sa.select(*columns(no_number, sa.literal_column("0"), nothing)).where(sa.not_(goes))
    count = connection.execute(sa.select(sa.func.count()).select_from(numbers)).scalar_one()
    return Numbered(going, "seq", count, waiting)


def _add_departures(connection: sa.Connection, request: PlanRequest) -> None:
    sync, shape = request.sync, Shape.of(request.sync)
    ledger, plan, d = request.tables.ledger, request.tables.plan, delta_table(shape)
    present = sa.exists().where(d.c.fingerprint.is_not(None), d.c.match_key == ledger.c.match_key)
    left = ledger.c.fingerprint.is_not(None)
    if not request.full:
        left = ledger.c.fingerprint.in_(sa.select(d.c.old_fingerprint).where(d.c.old_fingerprint.is_not(None)))
    # Rows that never got an id have no fingerprint, so they are in the differences as long as they are in the model.
    # A create whose reply was lost may have a record: its trace is kept.
    forgotten = sa.and_(
        ledger.c.fingerprint.is_(None), ledger.c.dest_id.is_(None), ledger.c.state.not_in([t.LEFT, t.UNRESOLVED])
    )
    unresolved = sa.and_(ledger.c.state == t.UNRESOLVED, ledger.c.fingerprint.is_(None))
    if sync.once_at_most:
        # It stays what it is: a row that comes back must not be taken for a new one.
        unresolved = sa.false()
    # A row that had left, came back and was held or refused has a record, but no fingerprint to be missed by.
    stranded = sa.and_(
        ledger.c.fingerprint.is_(None), ledger.c.dest_id.is_not(None), ledger.c.state.not_in([t.LEFT, t.REMOVAL_DUE])
    )
    if sync.mode == "delete":
        # What the model does not name any more is nobody's to delete, and needs no memory.
        _forget(connection, request, sa.or_(left, ledger.c.fingerprint.is_(None)), sa.not_(present))
        return
    ours = ledger.c.origin == "created"
    removable: sa.ColumnElement[bool] = sa.false()
    if sync.removed != "keep":
        removable = sa.or_(ours, sa.true() if sync.delete_adopted else sa.false())
    removable = sa.and_(removable, ledger.c.dest_id.is_not(None))
    removing = t.CLEAR if sync.removed == "clear" else t.DELETE
    status = sa.case((forgotten, t.FORGET), (removable, t.REMOVAL), else_=t.LEFT)
    columns = ["status", "operation", "match_key", "dest_id", *[key_column(k) for k in shape.keys]]
    # Two statements: one OR over both kinds keeps the engine from finding the first by a join on fingerprints, and
    # made a plan of 10M rows half a scan longer.
    for kind in (left, sa.or_(stranded, forgotten, unresolved)):
        connection.execute(
            sa.insert(plan).from_select(
                columns,
                sa.select(
                    status,
                    sa.case((forgotten, sa.cast(sa.null(), sa.Text)), else_=removing),
                    ledger.c.match_key,
                    ledger.c.dest_id,
                    *[ledger.c[key_column(k)] for k in shape.keys],
                ).where(kind, sa.not_(present)),
            )
        )


def _forget(connection: sa.Connection, request: PlanRequest, *which: sa.ColumnElement[bool]) -> None:
    ledger, plan, keys = request.tables.ledger, request.tables.plan, Shape.of(request.sync).keys
    columns = ["status", "match_key", *[key_column(k) for k in keys]]
    values = sa.select(sa.literal(t.FORGET), ledger.c.match_key, *[ledger.c[key_column(k)] for k in keys])
    connection.execute(sa.insert(plan).from_select(columns, values.where(*which)))


def plan_counts(connection: sa.Connection, tables: StateTables) -> dict[tuple[str, str | None], int]:
    """Rows of the plan by status and operation."""
    plan = tables.plan
    rows = connection.execute(
        sa.select(plan.c.status, plan.c.operation, sa.func.count()).group_by(plan.c.status, plan.c.operation)
    )
    return {(row[0], row[1]): row[2] for row in rows}


def plan_id(connection: sa.Connection, tables: StateTables, digest: str, without: sa.Select[Any] | None = None) -> str:
    """Name of a plan's content: equal plans have equal ids, whichever run made them.

    So an approval given to a plan holds for that plan and for no other. `without`: keys of rows that do not count.
    """
    plan = tables.plan
    counted = sa.true() if without is None else sa.func.coalesce(plan.c.match_key, "").not_in(without)
    rows = connection.execute(
        sa.select(
            plan.c.status,
            plan.c.operation,
            sa.func.count(),
            sa.cast(sa.func.sum(row_hash(plan.c.match_key, plan.c.fingerprint)), sa.Text),
        )
        .where(plan.c.status.in_([t.SEND, t.REMOVAL]), counted)
        .group_by(plan.c.status, plan.c.operation)
        .order_by(plan.c.status, plan.c.operation)
    )
    content = json.dumps([digest, *[list(r) for r in rows]])
    return hashlib.sha256(content.encode()).hexdigest()[:12]
