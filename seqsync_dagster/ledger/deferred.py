"""References that rows went without, and that `finish` fills in: deferred lookups, and loops among own rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.delta import temporary
from seqsync_dagster.ledger.tables import Shape, StateTables, key_column, parent_column, ref_column
from seqsync_dagster.sequence.sync import SyncSpec

#: States of rows that have a record, and a reference in it.
_STANDING = (t.ACKNOWLEDGED, t.REJECTED, t.HELD)


#: Where the parents of a sync's unfilled references are looked up: slot -> ledger; None where there is none yet.
#: A slot that is not in it stays as it is.
Parents = Mapping[str, sa.TableClause | None]


def lacking_of_deferred(shape: Shape, row: Any) -> sa.ColumnElement[Any]:
    """The deferred fields that a judged row goes without, each followed by a comma."""
    text: sa.ColumnElement[Any] = sa.literal("")
    for slot, mapping in shape.parents.items():
        if mapping.deferred:
            without = sa.and_(row.c[parent_column(slot)].is_not(None), row.c[ref_column(slot)].is_(None))
            text = text.concat(sa.case((without, f"{shape.field_of(slot)},"), else_=""))
    return text


def fields_filled_later(sync: SyncSpec) -> dict[str, tuple[str, ...]]:
    """The fields that a row may go without, each with all of its slots."""
    later = sync.filled_later()
    return {field: tuple(slots) for field, slots in sync.slots().items() if not later.keys().isdisjoint(slots)}


def lacks(plan: Any, field: str) -> sa.ColumnElement[bool]:
    """Whether a plan row goes without this field."""
    listed = sa.literal(",").concat(plan.c.lacking)
    return sa.func.coalesce(listed.contains(f",{field},", autoescape=True), sa.false(), type_=sa.Boolean)


def due_reference(shape: Shape, plan: Any, field: str) -> sa.ColumnElement[Any]:
    """What a row of a plan of references sends in a field; null in those that stay as they are."""
    return sa.case((lacks(plan, field), sa.cast(sa.null(), sa.Text)), else_=shape.reference(field, plan))


@dataclass(frozen=True)
class _Joined:
    """The ledger's standing rows, each with the parents that its references lead to now."""

    source: sa.FromClause
    known: Mapping[str, sa.ColumnElement[Any]]
    """Slot -> the parent's destination id as its ledger has it."""
    in_ledger: Mapping[str, sa.ColumnElement[bool]]
    due: Mapping[str, sa.ColumnElement[bool]]
    """Slot -> finish has something to write."""
    waits: Mapping[str, sa.ColumnElement[bool]]
    """Slot -> finish has nothing to write yet, for want of the parent's id."""
    standing: sa.ColumnElement[bool]


def _joined(tables: StateTables, sync: SyncSpec, parents: Parents) -> _Joined:
    ledger, slots_of = tables.ledger, sync.slots()
    source: sa.FromClause = ledger
    known: dict[str, sa.ColumnElement[Any]] = {}
    in_ledger: dict[str, sa.ColumnElement[bool]] = {}
    due: dict[str, sa.ColumnElement[bool]] = {}
    waits: dict[str, sa.ColumnElement[bool]] = {}
    for n, (slot, mapping) in enumerate(sync.filled_later().items()):
        if slot not in parents:
            continue
        key, ref = ledger.c[parent_column(slot)], ledger.c[ref_column(slot)]
        # What a self-reference was sent with is the plan's affair, except where there was nothing to send.
        open_ = key.is_not(None) if mapping.deferred else sa.and_(key.is_not(None), ref.is_(None))
        table = parents[slot]
        if table is None:
            known[slot], in_ledger[slot] = sa.cast(sa.null(), sa.Text), sa.false()
        else:
            parent = table.alias(f"parent{n}")
            source = source.outerjoin(parent, sa.and_(parent.c.match_key == key, open_))
            known[slot], in_ledger[slot] = parent.c.dest_id, parent.c.match_key.is_not(None)
        there = known[slot].is_not(None)
        due[slot] = sa.and_(open_, there, known[slot].is_distinct_from(ref))
        waits[slot] = sa.and_(open_, sa.not_(there))
        if mapping.if_missing == "send_empty":
            if mapping.nulls == "clear":
                # The record may hold a parent of another sync, which the row pointed to before.
                together = next(slots for slots in slots_of.values() if slot in slots)
                holds = sa.or_(*[ledger.c[ref_column(s)].is_not(None) for s in together])
                due[slot] = sa.or_(due[slot], sa.and_(waits[slot], holds))
            waits[slot] = sa.false()
    standing = sa.and_(ledger.c.dest_id.is_not(None), ledger.c.state.in_(_STANDING))
    return _Joined(source, known, in_ledger, due, waits, standing)


def count_lacking(connection: sa.Connection, tables: StateTables) -> int:
    """Rows of the plan that go without a reference."""
    p = tables.plan
    goes = sa.and_(p.c.status == t.SEND, p.c.lacking.is_not(None))
    return connection.execute(sa.select(sa.func.count()).select_from(p).where(goes)).scalar_one()


def count_unfilled(connection: sa.Connection, tables: StateTables, sync: SyncSpec, parents: Parents) -> int:
    """Records with a reference that finish has to fill in, at once or when the parent is there.

    Those that stand in the plan of a run are not among them: they go with a reference, or are counted as lacking it.
    """
    joined, p = _joined(tables, sync, parents), tables.plan
    unfilled = [joined.standing, sa.or_(sa.false(), *joined.due.values(), *joined.waits.values())]
    if sa.inspect(connection).has_table(p.name, schema=p.schema):
        goes = sa.exists().where(p.c.match_key == tables.ledger.c.match_key, p.c.status == t.SEND)
        unfilled.append(sa.not_(goes))
    return connection.execute(sa.select(sa.func.count()).select_from(joined.source).where(*unfilled)).scalar_one()


def _untried(ledger: Any, now: datetime) -> sa.ColumnElement[bool]:
    """Not refused a while ago: such a reference waits like a refused row does."""
    moment = sa.cast(now, sa.DateTime(timezone=True))
    return sa.or_(ledger.c.state != t.ACKNOWLEDGED, ledger.c.retry_at.is_(None), ledger.c.retry_at <= moment)


def count_due(
    connection: sa.Connection, tables: StateTables, sync: SyncSpec, parents: Parents, now: datetime
) -> tuple[int, int]:
    """Records with a reference to write now, and those that were refused and wait for their next try."""
    joined, ledger = _joined(tables, sync, parents), tables.ledger
    if not joined.due:
        return 0, 0
    untried = _untried(ledger, now)
    select = (
        sa.select(sa.func.count(sa.case((untried, 1))), sa.func.count(sa.case((sa.not_(untried), 1))))
        .select_from(joined.source)
        .where(joined.standing, sa.or_(*joined.due.values()))
    )
    row = connection.execute(select).one()
    return row[0], row[1]


def write_reference_plan(
    connection: sa.Connection, tables: StateTables, sync: SyncSpec, parents: Parents, now: datetime
) -> int:
    """Write the plan that fills in every reference whose parent's id is known now; returns its number of rows."""
    shape, joined = Shape.of(sync), _joined(tables, sync, parents)
    ledger, plan = tables.ledger, tables.plan
    connection.execute(sa.text(f'DROP TABLE IF EXISTS "{plan.schema}"."{plan.name}"'))
    lacking: sa.ColumnElement[str] = sa.literal("")
    refs: list[sa.ColumnElement[Any]] = []
    fields = fields_filled_later(sync)
    for field, slots in fields.items():
        due = {slot: joined.due[slot] for slot in slots if slot in joined.due}
        goes = sa.or_(sa.false(), *due.values())
        lacking = lacking.concat(sa.case((goes, ""), else_=f"{field},"))
        for slot in slots:
            now_known = [(due[slot], joined.known[slot])] if slot in due else []
            # With one parent filled in, the field holds none of another sync any more.
            emptied = (goes, sa.cast(sa.null(), sa.Text))
            refs.append(sa.case(*now_known, emptied, else_=ledger.c[ref_column(slot)]).label(ref_column(slot)))
    # Rows of one parent go together: batches that share a parent would fight for its lock.
    together = [ledger.c[parent_column(slot)] for slots in fields.values() for slot in slots]
    seq = sa.func.row_number().over(order_by=[lacking, *together, ledger.c.match_key])
    connection.execute(
        sa.select(
            seq.label("seq"),
            sa.literal(t.SEND).label("status"),
            sa.literal(t.REFERENCE).label("operation"),
            sa.cast(0, sa.Integer).label("level"),
            ledger.c.match_key,
            ledger.c.match_key.label("match_text"),
            sa.cast(sa.null(), sa.BigInteger).label("fingerprint"),
            ledger.c.dest_id,
            sa.cast(sa.null(), sa.Text).label("code"),
            sa.cast(sa.null(), sa.Text).label("message"),
            sa.func.nullif(lacking, "", type_=sa.Text).label("lacking"),
            *[ledger.c[key_column(k)] for k in shape.keys],
            *together,
            *refs,
        )
        .select_from(joined.source)
        .where(joined.standing, sa.or_(sa.false(), *joined.due.values()), _untried(ledger, now))
        .order_by(seq)
        .into(plan.name, schema=plan.schema)
    )
    return connection.execute(sa.select(sa.func.count()).select_from(plan)).scalar_one()


def unfilled_rows(
    connection: sa.Connection, tables: StateTables, sync: SyncSpec, parents: Parents, limit: int
) -> tuple[dict[str, int], list[Mapping[str, Any]]]:
    """References without a parent to lead to: how many by what becomes of them (``held``, ``rejected``), and the
    first of them as problem rows."""
    joined, ledger = _joined(tables, sync, parents), tables.ledger
    counts: dict[str, int] = {}
    samples: list[Mapping[str, Any]] = []
    for slot, mapping in sync.filled_later().items():
        if slot not in joined.waits or mapping.if_missing == "send_empty":
            continue
        where, field = [joined.standing, joined.waits[slot]], sync.field_of(slot)
        count = connection.execute(sa.select(sa.func.count()).select_from(joined.source).where(*where)).scalar_one()
        if not count:
            continue
        status = "held" if mapping.if_missing == "hold" else "rejected"
        counts[status] = counts.get(status, 0) + count
        known = joined.in_ledger[slot]
        pending = f"{field}: the parent in {mapping.parent} has no destination id yet: "
        missing = f"{field}: the parent is not in the model of {mapping.parent}: "
        shown = (
            sa.select(
                ledger.c.match_key.label("key"),
                sa.literal(status).label("status"),
                sa.case((known, "PARENT_PENDING"), else_="PARENT_MISSING").label("code"),
                sa.case((known, pending), else_=missing).concat(ledger.c[parent_column(slot)]).label("message"),
            )
            .select_from(joined.source)
            .where(*where)
            .order_by(ledger.c.match_key)
            .limit(limit - len(samples))
        )
        if limit > len(samples):
            samples += [dict(r) for r in connection.execute(shown).mappings()]
    return counts, samples


def fills_references(connection: sa.Connection, tables: StateTables) -> bool:
    """Whether the plan is one that `write_reference_plan` made."""
    p = tables.plan
    return connection.execute(sa.select(sa.func.count()).where(p.c.operation == t.REFERENCE)).scalar_one() > 0


def write_filled(
    connection: sa.Connection,
    tables: StateTables,
    sync: SyncSpec,
    run_id: str,
    now: datetime,
    *,
    into: str,
    retry_hours: Sequence[int],
) -> None:
    """Write the ledger's rows as they are after a plan of references to the temporary table `into`.

    A row's values and state stay what they are: only what its references hold is new. A refused
    reference is tried again later, like a refused row; a row that is refused or held itself keeps its own reason.
    """
    p, o, own = tables.plan, tables.outcome, tables.ledger.alias("own")
    gone, taken = o.c.error_class == "gone", o.c.code.is_(None)
    plain = own.c.state == t.ACKNOWLEDGED
    attempts = sa.func.coalesce(own.c.attempts, 0) + 1
    moments = [sa.cast(now + timedelta(hours=h), sa.DateTime(timezone=True)) for h in retry_hours]
    later = sa.case(*[(attempts == n + 1, m) for n, m in enumerate(moments[:-1])], else_=moments[-1])
    soon = o.c.error_class.in_(["retry_now", "retry_later"])
    null_text, null_number = sa.cast(sa.null(), sa.Text), sa.cast(sa.null(), sa.BigInteger)
    null_time = sa.cast(sa.null(), sa.DateTime(timezone=True))
    tells = sa.or_(plain, gone)
    new: dict[str, sa.ColumnElement[Any]] = {
        "fingerprint": sa.case((gone, null_number), else_=own.c.fingerprint),
        "dest_id": sa.case((gone, null_text), else_=own.c.dest_id),
        "state": sa.case((gone, t.GONE), else_=own.c.state),
        "attempts": sa.case((sa.and_(plain, taken), 0), (plain, attempts), else_=own.c.attempts),
        "retry_at": sa.case(
            (sa.or_(gone, sa.and_(plain, taken)), null_time),
            (sa.and_(plain, soon), sa.cast(now, sa.DateTime(timezone=True))),
            (plain, later),
            else_=own.c.retry_at,
        ),
        "run_id": sa.literal(run_id),
        "settled_at": sa.cast(now, sa.DateTime(timezone=True)),
        **{c: sa.case((tells, o.c[c]), else_=own.c[c]) for c in ("code", "message", "error_class")},
        **{
            ref_column(slot): sa.case((taken, p.c[ref_column(slot)]), else_=own.c[ref_column(slot)])
            for slots in fields_filled_later(sync).values()
            for slot in slots
        },
    }
    columns = [new[c.name].label(c.name) if c.name in new else c for c in own.c]
    rows = sa.select(*columns, sa.false().label("forget"), own.c.dest_id.label("previous_dest_id"))
    temporary(
        connection,
        into,
        rows.select_from(p.join(o, o.c.seq == p.c.seq).join(own, own.c.match_key == p.c.match_key)),
    )
