"""Settling: the journal's outcomes become the ledger's state, in one transaction, once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.ledger import registry
from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.deferred import fills_references, lacks, write_filled
from seqsync_dagster.ledger.delta import temporary
from seqsync_dagster.ledger.mapping_change import MIXED, sent_by_another
from seqsync_dagster.ledger.tables import Shape, StateTables, key_column, parent_column, ref_column
from seqsync_dagster.sequence.spec import SequenceSpec
from seqsync_dagster.sequence.sync import SyncSpec

_NEW = "seqsync_new_rows"

#: Refused rows are tried again unchanged after 1, 2, 4, 8, 16 and then every 24 hours: an admin may have
#: changed a rule of the org meanwhile, and a call per run for a row that cannot pass helps nobody.
_RETRY_HOURS = (1, 2, 4, 8, 16, 24)


@dataclass(frozen=True)
class Settlement:
    """What is settled, and how the run went."""

    sequence: SequenceSpec
    sync: SyncSpec
    run_id: str
    plan_id: str | None
    holder: str
    epoch: int
    started_at: datetime
    now: datetime
    completed: bool
    """The run ended by itself: a row that was to be sent and was not is held by its parent.
    Otherwise such rows stay due."""
    in_flight: Sequence[tuple[int, int]] = ()
    """Ranges of rows that were sent; nobody knows which of those without an outcome were written."""
    registry: Mapping[str, Any] | None = None
    """Columns of ``syncs`` to set, when the run completed."""
    counts: Mapping[str, int] | None = None
    resync_reason: str | None = None


def settle(connection: sa.Connection, tables: StateTables, s: Settlement) -> None:
    """Fold plan and outcomes into the ledger, append to change log and runs, drop the plan; then commit.

    Does nothing when this run was settled before. Raises `LeaseLost`.
    """
    registry.claim(connection, tables, s.sequence.name, s.sync.name, s.epoch)
    known = registry.read(connection, tables, s.sequence.name, s.sync.name)
    if known is None or known.plan_run_id != s.run_id:
        connection.rollback()
        return
    if fills_references(connection, tables):
        write_filled(connection, tables, s.sync, s.run_id, s.now, into=_NEW, retry_hours=_RETRY_HOURS)
    else:
        _new_rows(connection, tables, s)
    if s.in_flight and s.sync.mode != "insert":
        # An inserted record is not written again, whatever its row says.
        _doubt(connection, tables, s)
    arrivals = _arrivals(connection, tables)
    _log(connection, tables, s)
    ledger = tables.ledger
    new = sa.table(_NEW, *[sa.column(c.name, c.type) for c in ledger.c], sa.column("forget", sa.Boolean))
    _clear_stale_states(connection, tables, s)
    connection.execute(sa.delete(ledger).where(ledger.c.match_key.in_(sa.select(new.c.match_key))))
    columns = [c.name for c in ledger.c]
    connection.execute(
        sa.insert(ledger).from_select(columns, sa.select(*[new.c[c] for c in columns]).where(sa.not_(new.c.forget)))
    )
    connection.execute(
        sa.insert(tables.runs).values(
            sequence=s.sequence.name,
            sync=s.sync.name,
            run_id=s.run_id,
            plan_id=s.plan_id,
            holder=s.holder,
            started_at=s.started_at,
            settled_at=s.now,
            resync_reason=s.resync_reason,
            completed=s.completed,
            counts=json.dumps(dict(s.counts or {})),
        )
    )
    _note_own_parents(connection, tables, s)
    meaning: dict[str, Any] = {}
    if sent_by_another(known.mapping, known.mapping_digest, s.sync) and _anything_sent(connection, tables):
        meaning = {"mapping_digest": MIXED}
    registry.update(
        connection,
        tables,
        s.sequence.name,
        s.sync.name,
        **{
            **meaning,
            **(s.registry or {}),
            "arrivals": known.arrivals + arrivals,
            "plan_run_id": None,
            "plan_spec": None,
            "settled_at": s.now,
        },
    )
    # The plan holds the values as they were sent, sensitive ones too, so it does not outlive its run.
    connection.execute(sa.text(f'DROP TABLE "{tables.plan.schema}"."{tables.plan.name}"'))
    connection.execute(sa.delete(tables.outcome))
    connection.commit()


def _anything_sent(connection: sa.Connection, tables: StateTables) -> bool:
    p, o = tables.plan, tables.outcome
    taken = p.outerjoin(o, o.c.seq == p.c.seq)
    # References are those that are known of already; the mapping says nothing new with them.
    telling = p.c.operation.not_in([*t.REMOVING, t.REFERENCE])
    acknowledged = sa.and_(o.c.seq.is_not(None), telling, o.c.code.is_(None))
    sent = sa.select(sa.func.count()).select_from(taken).where(sa.or_(acknowledged, p.c.status == t.ADOPTED))
    return connection.execute(sent).scalar_one() > 0


def _new_rows(connection: sa.Connection, tables: StateTables, s: Settlement) -> None:
    shape, emptied = Shape.of(s.sync), s.sync.emptied()
    p, o, own = tables.plan, tables.outcome, tables.ledger.alias("own")
    sent = o.c.seq.is_not(None)
    # Not of a row without a record: those of a plan may have no operation.
    removing = sa.and_(p.c.operation.is_not(None), p.c.operation.in_(t.REMOVING))
    as_is = p.c.status == t.ADOPTED
    acknowledged = sa.or_(sa.and_(sent, o.c.code.is_(None), sa.not_(removing)), as_is)
    cleared = sa.and_(sent, o.c.code.is_(None), p.c.operation == t.CLEAR)
    # A record that is gone already is as deleted, or as empty, as we wanted it.
    removed = sa.and_(sent, removing, sa.or_(o.c.code.is_(None), o.c.error_class == "gone"))
    gone = sa.and_(sent, sa.not_(removing), o.c.error_class == "gone")
    not_removed = sa.and_(sent, removing, sa.not_(removed))
    refused = sa.or_(sa.and_(sent, o.c.code.is_not(None)), p.c.status == t.REFUSED)
    unsent = sa.and_(p.c.status == t.SEND, sa.not_(sent), sa.not_(removing))
    held: sa.ColumnElement[bool] = p.c.status.in_([t.HELD_PENDING, t.HELD_MISSING])
    if s.completed:
        held = sa.or_(held, unsent)
    # Whether its record comes back is another question than whether its parent is there.
    held = sa.and_(held, own.c.state.is_distinct_from(t.GONE))
    looked_for = sa.and_(p.c.status == t.WAITING, own.c.state == t.GONE, own.c.retry_at.is_not(None))
    lost = sa.and_(
        unsent,
        p.c.operation == t.CREATE,
        _in_flight(p, s),
    )
    # Sent, and the destination itself cannot say what became of it.
    unknown = sa.and_(sent, p.c.operation == t.CREATE, o.c.error_class == "unknown")
    # It is in the model again, so its record, which stays as it is, is not removed.
    kept = sa.and_(p.c.status == t.KEPT, own.c.state.in_([t.LEFT, t.REMOVAL_DUE]))
    # A plan that was not carried out has not passed its guards, or not been seen to: what left its model is for the
    # next plan to say.
    left = sa.and_(p.c.status.in_([t.LEFT, t.REMOVAL]), sa.true() if s.completed else sa.false())
    # A row of mode: delete stays in the ledger, so that it is not looked for at every run.
    deletes = sa.true() if s.sync.mode == "delete" else sa.false()
    named = sa.and_(deletes, left)
    absent = sa.and_(p.c.status == t.ABSENT, sa.true() if s.completed else sa.false())
    forgotten = sa.and_(p.c.status == t.FORGET, sa.true() if s.completed else sa.false())
    duplicate = p.c.status == t.INVALID_DUPLICATE
    # What a person must know of a row before it goes again, skipping does not hide.
    skipped = sa.and_(p.c.status == t.SKIPPED, sa.func.coalesce(own.c.state, "").not_in([t.GONE, t.UNRESOLVED]))
    attempts = sa.case(
        (own.c.tried_fingerprint == p.c.fingerprint, sa.func.coalesce(own.c.attempts, 0) + 1),
        (removing, sa.func.coalesce(own.c.attempts, 0) + 1),
        else_=1,
    )
    soon = sa.func.coalesce(o.c.error_class, "fix_row").in_(["retry_now", "retry_later"])
    # An earlier try whose reply was lost may have been carried out, and be what the last one met.
    passing = sa.and_(sent, sa.not_(removing), o.c.error_class.in_(["retry_now", "unknown"]))
    # A rule of the org may have changed since, but after so many tries that is for a person to say.
    given_up = sa.and_(
        sent,
        o.c.code.is_not(None),
        sa.not_(removing),
        attempts >= s.sequence.errors_of(s.sync).quarantine_after,
    )
    null_text, null_number = sa.cast(sa.null(), sa.Text), sa.cast(sa.null(), sa.BigInteger)
    null_time = sa.cast(sa.null(), sa.DateTime(timezone=True))
    moment = [sa.cast(s.now + timedelta(hours=h), sa.DateTime(timezone=True)) for h in _RETRY_HOURS]
    later = sa.case(*[(attempts == n + 1, m) for n, m in enumerate(moment[:-1])], else_=moment[-1])
    origin = sa.case(
        (own.c.dest_id.is_not(None), own.c.origin),
        (o.c.created.is_(True), "created"),
        (sa.or_(sa.and_(o.c.created.is_(None), p.c.operation == t.CREATE), own.c.origin == "unknown"), "unknown"),
        (own.c.gone_id.is_not(None), sa.func.coalesce(own.c.origin, "adopted")),
        else_="adopted",
    )
    columns: dict[str, sa.ColumnElement[Any]] = {
        "match_key": p.c.match_key,
        "fingerprint": sa.case(
            (sa.or_(acknowledged, named, absent), p.c.fingerprint),
            (sa.or_(left, gone, cleared, passing), null_number),
            else_=own.c.fingerprint,
        ),
        "tried_fingerprint": sa.case((refused, p.c.fingerprint), else_=null_number),
        # Nothing may point at a record that is gone, so its id does not stand in the ledger; the change log has it.
        "dest_id": sa.case(
            (acknowledged, sa.func.coalesce(o.c.dest_id, p.c.dest_id)),
            (named, p.c.dest_id),
            (sa.or_(gone, absent, sa.and_(deletes, removed)), null_text),
            else_=own.c.dest_id,
        ),
        "origin": sa.case(
            (acknowledged, origin), (named, "adopted"), (sa.or_(lost, unknown), "unknown"), else_=own.c.origin
        ),
        "state": sa.case(
            (acknowledged, t.ACKNOWLEDGED),
            (sa.or_(gone, looked_for), t.GONE),
            (cleared, t.LEFT),
            (sa.or_(absent, sa.and_(deletes, removed)), t.REMOVED),
            (not_removed, t.REMOVAL_DUE),
            (unknown, t.UNRESOLVED),
            (kept, t.ACKNOWLEDGED),
            (refused, t.REJECTED),
            (lost, t.UNRESOLVED),
            (held, t.HELD),
            (p.c.status == t.REMOVAL, t.REMOVAL_DUE),
            (left, t.LEFT),
            (skipped, t.SKIPPED),
            else_=t.INVALID,
        ),
        "attempts": sa.case((refused, attempts), else_=0),
        "retry_at": sa.case(
            (sa.or_(gone, sa.and_(refused, soon)), sa.cast(s.now, sa.DateTime(timezone=True))),
            (given_up, null_time),
            (refused, later),
            else_=null_time,
        ),
        "code": sa.case(
            (looked_for, own.c.code),
            (kept, null_text),
            (sa.and_(sent, refused), o.c.code),
            (sa.not_(sent), p.c.code),
            else_=null_text,
        ),
        "message": sa.case(
            (looked_for, own.c.message),
            (kept, null_text),
            (sa.and_(sent, refused), o.c.message),
            (sa.not_(sent), p.c.message),
            else_=null_text,
        ),
        "error_class": sa.case(
            (looked_for, own.c.error_class),
            (sa.and_(sent, refused), o.c.error_class),
            (refused, "fix_row"),
            else_=null_text,
        ),
        "gone_id": sa.case(
            (acknowledged, null_text), (gone, sa.func.coalesce(own.c.dest_id, p.c.dest_id)), else_=own.c.gone_id
        ),
        "run_id": sa.literal(s.run_id),
        "settled_at": sa.cast(s.now, sa.DateTime(timezone=True)),
        **{key_column(k): p.c[key_column(k)] for k in shape.keys},
        **{
            parent_column(slot): sa.case(
                (acknowledged, p.c[parent_column(slot)]),
                # An emptied lookup points at nobody, so it keeps no parent from being removed.
                *([(cleared, null_text)] if shape.field_of(slot) in emptied else []),
                else_=own.c[parent_column(slot)],
            )
            for slot in shape.parents
        },
        **{
            ref_column(slot): sa.case(
                (lacks(p, shape.field_of(slot)), own.c[ref_column(slot)]),
                (acknowledged, p.c[ref_column(slot)]),
                *([(cleared, null_text)] if shape.field_of(slot) in emptied else []),
                else_=own.c[ref_column(slot)],
            )
            for slot in shape.parents
        },
    }
    # An acknowledged record whose key is now shared keeps its row as it is.
    touched = sa.or_(
        sent,
        as_is,
        looked_for,
        refused,
        held,
        lost,
        left,
        skipped,
        forgotten,
        kept,
        absent,
        # A record whose key is in the model again, however wrongly, is not removed.
        sa.and_(duplicate, sa.or_(own.c.match_key.is_(None), own.c.state == t.REMOVAL_DUE)),
    )
    selected = (
        sa.select(
            *[c.label(n) for n, c in columns.items()],
            sa.or_(sa.and_(removed, sa.not_(cleared), sa.not_(deletes)), forgotten).label("forget"),
            own.c.dest_id.label("previous_dest_id"),
        )
        .select_from(p.outerjoin(o, o.c.seq == p.c.seq).outerjoin(own, own.c.match_key == p.c.match_key))
        .where(touched, p.c.match_key.is_not(None))
    )
    # Only rows that share a key stand more than once: numbering all rows would hold all of them in memory.
    temporary(connection, _NEW, selected.where(sa.not_(duplicate)))
    nth = sa.func.row_number().over(partition_by=p.c.match_key, order_by=p.c.fingerprint).label("nth")
    shared = selected.add_columns(nth).where(duplicate).subquery("shared")
    names = [c.name for c in shared.c if c.name != "nth"]
    new = sa.table(_NEW, *[sa.column(n) for n in names])
    connection.execute(
        sa.insert(new).from_select(names, sa.select(*[shared.c[n] for n in names]).where(shared.c.nth == 1))
    )


def _in_flight(p: sa.TableClause, s: Settlement) -> sa.ColumnElement[bool]:
    return sa.or_(sa.false(), *[p.c.seq.between(first, last) for first, last in s.in_flight])


def _doubt(connection: sa.Connection, tables: StateTables, s: Settlement) -> None:
    # A record whose update was in flight holds the values from before it, or those that were sent. As long as nobody
    # knows, its row is due, even if the model turns back to what was acknowledged last, or leaves the row out again.
    # References of finish are no values: what they hold is compared by finish itself.
    p, o, ledger = tables.plan, tables.outcome, tables.ledger
    sent = p.c.operation.not_in([t.CREATE, t.REFERENCE, *t.REMOVING])
    unknown = (
        sa.select(p.c.match_key)
        .select_from(p.outerjoin(o, o.c.seq == p.c.seq))
        .where(o.c.seq.is_(None), p.c.status == t.SEND, sent, _in_flight(p, s))
    )
    # Its record may be filled again, so it is looked after as the record of a row that is there.
    state = sa.case((ledger.c.state.in_([t.LEFT, t.REMOVAL_DUE]), t.ACKNOWLEDGED), else_=ledger.c.state)
    connection.execute(sa.update(ledger).where(ledger.c.match_key.in_(unknown)).values(fingerprint=None, state=state))


def _note_own_parents(connection: sa.Connection, tables: StateTables, s: Settlement) -> None:
    # The id of a parent that went with the same run was not known when the plan was written.
    ledger, p, shape = tables.ledger, tables.plan, Shape.of(s.sync)
    for slot, mapping in shape.parents.items():
        if mapping.parent == s.sync.name:
            parent = ledger.alias("parent")
            without = sa.exists().where(p.c.match_key == ledger.c.match_key, lacks(p, shape.field_of(slot)))
            given = (
                sa.select(parent.c.dest_id).where(parent.c.match_key == ledger.c[parent_column(slot)]).scalar_subquery()
            )
            connection.execute(
                sa.update(ledger)
                .where(
                    ledger.c.run_id == s.run_id,
                    ledger.c.state == t.ACKNOWLEDGED,
                    ledger.c[parent_column(slot)].is_not(None),
                    ledger.c[ref_column(slot)].is_(None),
                    sa.not_(without),
                )
                .values({ref_column(slot): given})
            )


def _arrivals(connection: sa.Connection, tables: StateTables) -> int:
    new = sa.table(_NEW, sa.column("dest_id"), sa.column("previous_dest_id"), sa.column("state"))
    return connection.execute(
        sa.select(sa.func.count()).where(
            new.c.dest_id.is_not(None), new.c.dest_id.is_distinct_from(new.c.previous_dest_id)
        )
    ).scalar_one()


def _clear_stale_states(connection: sa.Connection, tables: StateTables, s: Settlement) -> None:
    # A row that was refused or held and now stands in the model with its acknowledged values again waits for
    # nothing: it is not in the plan, because it does not differ.
    # Or it is there as unchanged, because its key was read.
    ledger, p = tables.ledger, tables.plan
    in_plan = sa.exists().where(p.c.match_key == ledger.c.match_key)
    as_it_was = in_plan.where(p.c.status == t.UNCHANGED, p.c.fingerprint == ledger.c.fingerprint)
    whole = s.completed and s.registry is not None and s.registry.get("model_rows") is not None
    connection.execute(
        sa.update(ledger)
        .where(
            ledger.c.state.in_([t.REJECTED, t.HELD, t.SKIPPED]),
            ledger.c.fingerprint.is_not(None),
            sa.or_(as_it_was, sa.not_(in_plan)) if whole else as_it_was,
        )
        .values(
            state=t.ACKNOWLEDGED,
            attempts=0,
            tried_fingerprint=None,
            retry_at=None,
            code=None,
            message=None,
            error_class=None,
        )
    )


def _log(connection: sa.Connection, tables: StateTables, s: Settlement) -> None:
    p, o, log = tables.plan, tables.outcome, tables.changelog
    own = tables.ledger.alias("own")
    operation = sa.case(
        (sa.and_(p.c.operation == t.CLEAR, o.c.code.is_(None)), "cleared"),
        (sa.and_(p.c.operation.in_(t.REMOVING), sa.or_(o.c.code.is_(None), o.c.error_class == "gone")), "removed"),
        (o.c.code.is_not(None), "rejected"),
        (p.c.operation.in_([t.UPDATE, t.REFERENCE]), "updated"),
        (sa.or_(p.c.operation.in_([t.ADOPT, t.LINK]), o.c.created.is_(False)), "adopted"),
        else_="created",
    )
    values: dict[str, Any] = {
        "sequence": sa.literal(s.sequence.name),
        "sync": sa.literal(s.sync.name),
        "run_id": sa.literal(s.run_id),
        "seq": p.c.seq,
        "key": sa.func.coalesce(p.c.match_text, p.c.match_key),
        "operation": operation,
        "dest_id": sa.func.coalesce(o.c.dest_id, p.c.dest_id),
        "previous_dest_id": sa.func.coalesce(own.c.dest_id, own.c.gone_id),
        "code": o.c.code,
        "message": o.c.message,
        "error_class": o.c.error_class,
        "logged_at": sa.cast(s.now, sa.DateTime(timezone=True)),
    }
    connection.execute(
        sa.insert(log).from_select(
            list(values),
            sa.select(*values.values())
            .select_from(p.outerjoin(o, o.c.seq == p.c.seq).outerjoin(own, own.c.match_key == p.c.match_key))
            .where(sa.or_(o.c.seq.is_not(None), p.c.status == t.ADOPTED)),
        )
    )
