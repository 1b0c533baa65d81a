"""From differences to operations: which rows go, which wait and why, which leave.

Everything happens in SQL; the result is the plan table, values and sending order included.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.actions import asked_table, released, skipped
from seqsync_dagster.ledger.deferred import lacking_of_deferred
from seqsync_dagster.ledger.delta import delta_table, temporary
from seqsync_dagster.ledger.levels import LEVELS, own_lookups, write_levels
from seqsync_dagster.ledger.tables import Shape, StateTables, key_column, parent_column, ref_column, value_column
from seqsync_dagster.sequence.mappings import IfMissing
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.hashing import row_hash
from seqsync_dagster.warehouse.open import Parts, Room

#: Temporary table of records found in the destination for lookups: field, value (canonical), dest_id, matches,
#: and why the field cannot take the only records there are.
FOUND = "seqsync_found"
#: Field name under which FOUND holds a sync's own records, for mode update.
OWN_RECORD = "(match)"
#: Temporary table of judged differences.
JUDGED = "seqsync_judged"


#: Temporary tables: keys that several differing rows share, and keys of parents that are among the differing rows.
_TWINS = "seqsync_twins"
_SIBLINGS = "seqsync_siblings"
#: Temporary table: match_key and place in the sending order of every row that goes.
_NUMBERS = "seqsync_numbers"


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is made from, besides the differences."""

    sync: SyncSpec
    tables: StateTables
    parent_ledgers: Mapping[str, sa.TableClause | None]
    """Ledger of each parent sync; None for one that has none yet."""
    whole: bool
    """The plan sees the whole model. Only then, and without a limit, can it tell what left it."""
    full: bool
    """Every row is due."""
    named: bool
    """The operator named the rows: refused ones do not wait for their next try."""
    resync: bool
    """The operator asked for every row to be sent again."""
    now: datetime
    limit: int | None
    by_key: bool = False
    """The differences are all rows of some keys, those that are as they were acknowledged among them."""


def found_table() -> sa.TableClause:
    """See FOUND."""
    return sa.table(
        FOUND,
        sa.column("field", sa.Text),
        sa.column("value", sa.Text),
        sa.column("dest_id", sa.Text),
        sa.column("matches", sa.Integer),
        sa.column("unusable", sa.Text),
    )


def prepare_plan(room: Room, request: PlanRequest) -> Parts:
    """Judge every difference and number the rows that go. Needs DELTA, and FOUND when there are lookups.

    Touches temporary tables only.
    """
    judge_rows(room, request)
    return place_rows(room, request)


def judge_rows(room: Room, request: PlanRequest) -> None:
    """The first half of `prepare_plan`: every difference with its verdict, in the table JUDGED."""
    _write_judged(room.connection, request)


def place_rows(room: Room, request: PlanRequest) -> Parts:
    """The second half of `prepare_plan`: the sending order of the rows of JUDGED that go."""
    write_levels(room.connection, request.sync)
    return _numbered(room, request)


def write_plan(room: Room, request: PlanRequest, prepared: Parts) -> None:
    """Write the plan table."""
    connection, plan = room.connection, request.tables.plan
    room.write(plan, prepared)
    if request.whole and request.limit is None:
        _add_departures(connection, request)
    if request.limit is not None:
        connection.execute(sa.delete(plan).where(plan.c.status == t.SEND, plan.c.seq > request.limit))


@dataclass(frozen=True)
class _Reference:
    """How one lookup resolves in the judging statement."""

    slot: str
    key: sa.ColumnElement[Any]
    dest_id: sa.ColumnElement[Any]
    missing: sa.ColumnElement[bool]
    pending: sa.ColumnElement[bool]
    if_missing: IfMissing
    message: sa.ColumnElement[str]
    code: str = "PARENT_MISSING"
    blocked_by: sa.ColumnElement[Any] | None = None
    unusable: sa.ColumnElement[Any] | None = None
    """What is said of a record that is there and that the field cannot take; null where it can."""


def _write_judged(connection: sa.Connection, request: PlanRequest) -> None:
    sync, shape = request.sync, Shape.of(request.sync)
    d = delta_table(shape)
    ledger = request.tables.ledger.alias("own")
    joined: sa.FromClause = d.outerjoin(ledger, ledger.c.match_key == d.c.match_key)
    asked = asked_table()
    joined = joined.outerjoin(asked, asked.c.match_key == d.c.match_key)
    found = found_table()
    references: list[_Reference] = []
    for n, (slot, mapping) in enumerate(shape.parents.items()):
        if mapping.deferred:
            reference, joined = _deferred(request, joined, d, n, slot, mapping.parent)
        else:
            reference, joined = _parent(connection, request, joined, d, n, slot, mapping.parent, mapping.if_missing)
        references.append(reference)
    for n, (field, lookup) in enumerate(shape.lookups.items()):
        f = found.alias(f"found{n}")
        column = d.c[t.lookup_column(field)]
        joined = joined.outerjoin(f, sa.and_(f.c.field == field, f.c.value == column))
        unique = f.c.matches == 1
        value = "***" if sync.is_sensitive(field) else column
        references.append(
            _Reference(
                field,
                column,
                sa.case((unique, f.c.dest_id)),
                sa.and_(column.is_not(None), sa.func.coalesce(f.c.matches, 0) != 1),
                sa.false(),
                lookup.if_missing,
                sa.literal(f"{field}: ")
                .concat(sa.case((f.c.matches > 1, "more than one"), else_="no"))
                .concat(f" {lookup.lookup} with {lookup.by} ")
                .concat(value),
                "LOOKUP_MISSING",
                unusable=sa.literal(f"{field}: the {lookup.lookup} with {lookup.by} ")
                .concat(value)
                .concat(" ")
                .concat(f.c.unusable),
            )
        )
    dest_id: sa.ColumnElement[Any] = ledger.c.dest_id
    no_record: sa.ColumnElement[bool] = sa.false()
    ambiguous: sa.ColumnElement[bool] = sa.false()
    if sync.mode in ("update", "delete"):
        f = found.alias("found_own")
        ambiguous = sa.func.coalesce(f.c.matches, 0) > 1
        joined = joined.outerjoin(f, sa.and_(f.c.field == OWN_RECORD, f.c.value == sa.func.lower(d.c.match_text)))
        dest_id = sa.func.coalesce(ledger.c.dest_id, sa.case((f.c.matches == 1, f.c.dest_id)))
        no_record = dest_id.is_(None)
    matched_by_another: sa.ColumnElement[bool] | None = None
    if request.whole and not request.full:
        # Where the ledger's row for this key still has its fingerprint in the model, another row matched it.
        gone = sa.select(d.c.old_fingerprint).where(d.c.old_fingerprint.is_not(None)).distinct().subquery("gone")
        joined = joined.outerjoin(gone, gone.c.old_fingerprint == ledger.c.fingerprint)
        matched_by_another = sa.and_(ledger.c.fingerprint.is_not(None), gone.c.old_fingerprint.is_(None))
    # Counting over a window would hold every column of every row in memory; the shared keys alone are few.
    shared = (
        sa.select(d.c.match_key)
        .where(d.c.fingerprint.is_not(None), d.c.match_key.is_not(None))
        .group_by(d.c.match_key)
        .having(sa.func.count() > 1)
    )
    # A statement of its own, as for siblings: together with the joins below it would need memory for all at once.
    temporary(connection, _TWINS, shared)
    twin = sa.table(_TWINS, sa.column("match_key", sa.Text))
    joined = joined.outerjoin(twin, twin.c.match_key == d.c.match_key)
    verdicts = _verdicts(request, d, ledger, references, no_record, matched_by_another, asked)
    if sync.mode == "delete":
        verdicts += _of_deletion(request, no_record, ambiguous)
    operation: sa.ColumnElement[Any] = sa.case((dest_id.is_not(None), t.UPDATE), else_=t.CREATE)
    if sync.mode == "delete":
        operation = sa.literal(t.DELETE)
    base = (
        sa.select(
            *[c for c in d.c if not c.name.startswith("lookup_")],
            twin.c.match_key.label("twin"),
            sa.case(*[(c, s) for c, s, _, _ in verdicts], else_=t.REMOVAL if sync.mode == "delete" else t.SEND).label(
                "status"
            ),
            sa.case(*[(c, code) for c, _, code, _ in verdicts], else_=sa.cast(sa.null(), sa.Text)).label("code"),
            sa.case(*[(c, m) for c, _, _, m in verdicts], else_=sa.cast(sa.null(), sa.Text)).label("message"),
            operation.label("operation"),
            dest_id.label("dest_id"),
            *[sa.cast(r.dest_id, sa.Text).label(ref_column(r.slot)) for r in references],
            *[r.blocked_by.label(t.blocked_column(r.slot)) for r in references if r.blocked_by is not None],
        )
        .select_from(joined)
        .where(d.c.fingerprint.is_not(None))
        .subquery("judged")
    )
    twins = base.c.twin.is_not(None)
    temporary(
        connection,
        JUDGED,
        sa.select(
            *[c for c in base.c if c.name not in ("status", "code", "message", "twin")],
            sa.case((twins, t.INVALID_DUPLICATE), else_=base.c.status).label("status"),
            sa.case((twins, "DUPLICATE_KEY"), else_=base.c.code).label("code"),
            sa.case((twins, _DUPLICATE), else_=base.c.message).label("message"),
        ),
    )


_KEPT = "the row changed; mode: insert leaves its record as it was created"
_UNRESOLVED = (
    "the reply to its insert was lost, and without a match field nobody can tell whether its record was created. Look "
    "for it in the destination; when it is not there, name the row in only_keys to have it sent again"
)
_DUPLICATE = "another row of the model has the same key, as the destination compares keys"


def _parent(
    connection: sa.Connection,
    request: PlanRequest,
    joined: sa.FromClause,
    d: sa.TableClause,
    n: int,
    slot: str,
    parent: str,
    if_missing: IfMissing,
) -> tuple[_Reference, sa.FromClause]:
    key, field = d.c[parent_column(slot)], request.sync.field_of(slot)
    own = parent == request.sync.name
    table = request.tables.ledger if own else request.parent_ledgers.get(parent)
    shown = "***" if request.sync.is_sensitive(field) else key
    if table is None:
        return (
            _Reference(
                slot,
                key,
                sa.cast(sa.null(), sa.Text),
                key.is_not(None),
                sa.true(),
                if_missing,
                sa.literal(f"{field}: {parent} has not run yet; waits for ").concat(shown),
            ),
            joined,
        )
    ledger = table.alias(f"parent{n}")
    joined = joined.outerjoin(ledger, ledger.c.match_key == key)
    missing = sa.and_(key.is_not(None), ledger.c.dest_id.is_(None))
    known: sa.ColumnElement[bool] = ledger.c.match_key.is_not(None)
    blocked: sa.ColumnElement[Any] | None = None
    if own:
        other = delta_table(Shape.of(request.sync)).alias("other")
        present = sa.select(other.c.match_key).where(other.c.match_key.is_not(None), other.c.fingerprint.is_not(None))
        temporary(
            connection,
            f"{_SIBLINGS}{n}",
            sa.select(key.label("match_key")).where(d.c.fingerprint.is_not(None), key.in_(present)).distinct(),
        )
        siblings = sa.table(f"{_SIBLINGS}{n}", sa.column("match_key", sa.Text))
        joined = joined.outerjoin(siblings, siblings.c.match_key == key)
        in_this_plan = siblings.c.match_key.is_not(None)
        blocked = sa.case((sa.and_(missing, in_this_plan), key), else_=sa.cast(sa.null(), sa.Text))
        missing = sa.and_(missing, sa.not_(in_this_plan))
    message = (
        sa.literal(f"{field}: ")
        .concat(
            sa.case(
                (known, f"the parent in {parent} has no destination id yet: "),
                else_=f"the parent is not in the model of {parent}: ",
            )
        )
        .concat(shown)
    )
    return _Reference(slot, key, ledger.c.dest_id, missing, known, if_missing, message, blocked_by=blocked), joined


def _deferred(
    request: PlanRequest, joined: sa.FromClause, d: sa.TableClause, n: int, slot: str, parent: str
) -> tuple[_Reference, sa.FromClause]:
    """A lookup that no row waits for: the parent's id where it is known, judged by finish where it is not."""
    key = d.c[parent_column(slot)]
    table = request.tables.ledger if parent == request.sync.name else request.parent_ledgers.get(parent)
    dest_id: sa.ColumnElement[Any] = sa.cast(sa.null(), sa.Text)
    if table is not None:
        ledger = table.alias(f"parent{n}")
        joined = joined.outerjoin(ledger, ledger.c.match_key == key)
        dest_id = ledger.c.dest_id
    never = sa.false()
    return _Reference(slot, key, dest_id, never, never, "send_empty", sa.literal("")), joined


_Verdict = tuple[sa.ColumnElement[bool], str, str, Any]


def _several_parents(sync: SyncSpec, d: sa.TableClause) -> Iterator[_Verdict]:
    """Rows that say two parents at once for a field that holds one."""
    for field, lookups in sync.slots().items():
        keys = {slot: d.c[parent_column(slot)] for slot in lookups}
        filled = [key.is_not(None) for key in keys.values()]
        pairs = [sa.and_(*pair) for pair in combinations(filled, 2)]
        if not pairs:
            continue
        said: sa.ColumnElement[str] = sa.literal(f"{field}: the row has more than one parent, and the field holds one:")
        for slot, key in keys.items():
            shown = sa.literal("***") if sync.is_sensitive(field) else key
            of = sa.literal(f" {lookups[slot].parent} ").concat(shown).concat(";")
            said = said.concat(sa.case((key.is_not(None), of), else_=""))
        columns = " and ".join("/".join(lookup.from_) for lookup in lookups.values())
        yield sa.or_(*pairs), t.REFUSED, "SEVERAL_PARENTS", said.concat(f" leave only one of {columns} filled")


def _verdicts(
    request: PlanRequest,
    d: sa.TableClause,
    ledger: Any,
    references: list[_Reference],
    no_record: sa.ColumnElement[bool],
    matched_by_another: sa.ColumnElement[bool] | None,
    asked: sa.TableClause,
) -> list[_Verdict]:
    # The first that applies counts, so the order is from what can never be sent to what may be sent later.
    verdicts: list[_Verdict] = [
        (d.c.match_key.is_(None), t.INVALID_NULL, "NULL_KEY", "the key is null or blank"),
    ]
    inserts = request.sync.mode == "insert"
    if inserts or (request.named and not request.resync):
        same = sa.and_(ledger.c.state == t.ACKNOWLEDGED, ledger.c.fingerprint == d.c.fingerprint)
        verdicts.append((same, t.UNCHANGED, "", ""))
    if request.by_key:
        # One that was refused, held or skipped, and has its acknowledged values again, waits for nothing.
        again = ledger.c.state.in_([t.ACKNOWLEDGED, t.REJECTED, t.HELD, t.SKIPPED])
        verdicts.append((sa.and_(again, ledger.c.fingerprint == d.c.fingerprint), t.UNCHANGED, "", ""))
    verdicts.append((skipped(asked, d.c.fingerprint), t.SKIPPED, "SKIPPED", asked.c.told))
    waits = sa.not_(released(asked, ledger))
    if matched_by_another is not None:
        verdicts.append((matched_by_another, t.INVALID_DUPLICATE, "DUPLICATE_KEY", _DUPLICATE))
    if inserts:
        verdicts.append((ledger.c.dest_id.is_not(None), t.KEPT, "NOT_UPDATED", _KEPT))
    if request.sync.once_at_most and not request.named:
        verdicts.append((ledger.c.state == t.UNRESOLVED, t.WAITING, "UNRESOLVED", _UNRESOLVED))
    verdicts += _several_parents(request.sync, d)
    tried = sa.and_(waits, ledger.c.state == t.REJECTED, ledger.c.tried_fingerprint == d.c.fingerprint)
    # A refused row whose parent has gone meanwhile is judged anew when it is tried again, and not by whether other rows
    # have made a plan necessary.
    rests = sa.or_(ledger.c.retry_at.is_(None), ledger.c.retry_at > request.now)
    may_be_held = sa.not_(sa.func.coalesce(sa.and_(tried, rests), sa.false(), type_=sa.Boolean))
    if request.full or request.named or request.resync:
        may_be_held = sa.true()
    for r in references:
        if r.unusable is not None:
            verdicts.append((r.unusable.is_not(None), t.REFUSED, "LOOKUP_UNUSABLE", r.unusable))
        if r.if_missing == "hold":
            held = sa.and_(r.missing, may_be_held)
            verdicts.append((sa.and_(held, r.pending), t.HELD_PENDING, "PARENT_PENDING", r.message))
            verdicts.append((held, t.HELD_MISSING, r.code, r.message))
        elif r.if_missing == "reject":
            verdicts.append((r.missing, t.REFUSED, r.code, r.message))
    if request.sync.mode == "update":
        not_gone = ledger.c.state.is_distinct_from(t.GONE)
        verdicts.append(
            (
                no_record if request.named or request.resync else sa.and_(no_record, not_gone),
                t.REFUSED,
                "NO_RECORD",
                f"mode update never creates, and not exactly one {request.sync.object} has this {request.sync.match}",
            )
        )
    before = sa.func.coalesce(ledger.c.code, "").concat(": ").concat(sa.func.coalesce(ledger.c.message, ""))
    if not (request.named or request.resync):
        # Whether a record that was deleted in the org shall come back is for a person to say.
        lost = sa.literal("its record ").concat(sa.func.coalesce(ledger.c.gone_id, ""))
        lost = lost.concat(" is gone in the destination, and no other has this key; name the row in only_keys ")
        lost = lost.concat("to have it created again. ").concat(before)
        verdicts.append((sa.and_(waits, ledger.c.state == t.GONE), t.WAITING, "GONE", lost))
        if not request.full:
            given_up = sa.literal("refused ").concat(sa.cast(ledger.c.attempts, sa.Text)).concat(" times; ")
            given_up = given_up.concat("change the row, or requeue it, to have it tried again. ")
            verdicts.append(
                (sa.and_(tried, ledger.c.retry_at.is_(None)), t.WAITING, "QUARANTINED", given_up.concat(before))
            )
            verdicts.append((sa.and_(tried, ledger.c.retry_at > request.now), t.WAITING, "REFUSED_BEFORE", before))
    return verdicts


def _of_deletion(
    request: PlanRequest, no_record: sa.ColumnElement[bool], ambiguous: sa.ColumnElement[bool]
) -> list[_Verdict]:
    """What keeps a row of mode: delete from having its record removed."""
    sync = request.sync
    several = f"more than one {sync.object} has this {sync.match}, and nobody said which of them is meant"
    verdicts: list[_Verdict] = [
        (sa.and_(no_record, ambiguous), t.REFUSED, "SEVERAL_RECORDS", several),
        (no_record, t.ABSENT, "", ""),
    ]
    if not request.whole or request.limit is not None:
        partial = "a run for some rows only removes nothing; mode: delete waits for a whole one"
        verdicts.append((sa.true(), t.WAITING, "PARTIAL_RUN", partial))
    return verdicts


def _numbered(room: Room, request: PlanRequest) -> Parts:
    connection, shape = room.connection, Shape.of(request.sync)
    judged = sa.table(
        JUDGED,
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
        placed = judged.join(levels, levels.c.match_key == judged.c.match_key)
        level = levels.c.level
        lacking = lacking.concat(sa.func.coalesce(levels.c.lacking, ""))
    # Rows of one parent go together: batches that share a parent would fight for its lock.
    together = [judged.c[parent_column(f)] for f in shape.parents]
    order = [level, judged.c.operation, *([lacking] if request.sync.filled_later() else []), *together]
    order.append(judged.c.match_key)
    number = sa.func.row_number().over(order_by=order)
    numbered = sa.select(
        judged.c.match_key,
        level.label("level"),
        sa.func.nullif(lacking, "", type_=sa.Text).label("lacking"),
        number.label("seq"),
    )
    temporary(connection, _NUMBERS, numbered.select_from(placed).where(goes))
    numbers = sa.table(
        _NUMBERS,
        sa.column("match_key", sa.Text),
        sa.column("level", sa.Integer),
        sa.column("lacking", sa.Text),
        sa.column("seq", sa.BigInteger),
    )
    # Only rows of a hierarchy can be without a number, and then no level was found for them.
    unplaced = sa.and_(goes, numbers.c.seq.is_(None))
    no_level = f"{''.join(map(shape.field_of, own[:1]))}: the parent row is itself held, invalid, refused or skipped"
    selected = sa.select(
        numbers.c.seq,
        sa.case((unplaced, t.HELD_PENDING), else_=judged.c.status).label("status"),
        judged.c.operation,
        sa.func.coalesce(numbers.c.level, 0).label("level"),
        judged.c.match_key,
        judged.c.match_text,
        judged.c.fingerprint,
        judged.c.dest_id,
        sa.case((unplaced, "PARENT_PENDING"), else_=judged.c.code).label("code"),
        sa.case((unplaced, no_level), else_=judged.c.message).label("message"),
        numbers.c.lacking,
        *[judged.c[key_column(k)] for k in shape.keys],
        *[judged.c[value_column(f)] for f in shape.values],
        *[judged.c[parent_column(f)] for f in shape.parents],
        *[judged.c[ref_column(f)] for f in (*shape.parents, *shape.lookups)],
        # A key that goes is the only one of its kind: rows that share one are all invalid.
    ).select_from(judged.outerjoin(numbers, numbers.c.match_key == judged.c.match_key))
    going = connection.execute(sa.select(sa.func.count()).select_from(numbers)).scalar_one()
    return room.part(selected, numbers.c.seq.name, going)


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
