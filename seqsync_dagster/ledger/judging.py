"""What is to become of each differing row: sent, and how; or held, refused, invalid, left, and why.

One statement; its result is the table JUDGED.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.actions import asked_table, released, skipped
from seqsync_dagster.ledger.delta import delta_table, temporary
from seqsync_dagster.ledger.tables import Shape, StateTables, parent_column, ref_column
from seqsync_dagster.sequence.mappings import IfMissing
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.open import Room

#: Temporary table of records found in the destination for lookups: field, value (canonical), dest_id, matches,
#: and why the field cannot take the only records there are.
FOUND = "seqsync_found"
#: Field name under which FOUND holds a sync's own records, for mode update.
OWN_RECORD = "(match)"
#: Temporary table of judged differences, each with a number `n` of its own.
JUDGED = "seqsync_judged"


#: Temporary tables: keys that several differing rows share, and keys of parents that are among the differing rows.
_TWINS = "seqsync_twins"
_SIBLINGS = "seqsync_siblings"


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


def judge_rows(room: Room, request: PlanRequest) -> None:
    """Give every difference its verdict, in the table JUDGED. Needs DELTA, and FOUND when there are lookups."""
    _write_judged(room.connection, request)


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
            # A number is joined on in a third of the memory that a key takes.
            sa.func.row_number().over().label("n"),
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
