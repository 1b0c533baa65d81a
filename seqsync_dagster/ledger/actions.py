"""What operators asked for single rows: kept for ever, the last word on a key counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.delta import temporary
from seqsync_dagster.ledger.tables import SCHEMA_VERSION, StateTables

REQUEUE, SKIP_ONCE, SKIP_ALWAYS = "requeue", "skip_once", "skip_always"

#: Temporary table of the last word on each key of a sync.
_ASKED = "seqsync_asked"


def asked_table() -> sa.TableClause:
    """The table that `write_asked` makes; `told` is the action in words."""
    return sa.table(
        _ASKED,
        sa.column("match_key", sa.Text),
        sa.column("action", sa.Text),
        sa.column("fingerprint", sa.BigInteger),
        sa.column("asked_at", sa.DateTime(timezone=True)),
        sa.column("told", sa.Text),
    )


def record(
    connection: sa.Connection,
    tables: StateTables,
    sequence: str,
    sync: str,
    actions: Mapping[str, Sequence[str]],
    fingerprints: Mapping[str, int],
    *,
    run_id: str,
    asked_by: str,
    now: datetime,
) -> None:
    """Append actions: action -> match keys. `fingerprints`: of the rows as they are now, by match key."""
    rows = [
        {
            "sequence": sequence,
            "sync": sync,
            "key": key,
            "action": action,
            "fingerprint": fingerprints[key],
            "run_id": run_id,
            "asked_by": asked_by,
            "asked_at": now,
            "schema_version": SCHEMA_VERSION,
        }
        for action, keys in actions.items()
        for key in keys
    ]
    connection.execute(sa.insert(tables.actions), rows)


def _last(tables: StateTables, sequence: str, sync: str) -> sa.Select[Any]:
    a = tables.actions
    mine = sa.and_(a.c.sequence == sequence, a.c.sync == sync)
    last = (
        sa.select(a.c.key, sa.func.max(a.c.asked_at).label("asked_at")).where(mine).group_by(a.c.key).subquery("last")
    )
    end = sa.case((a.c.action == SKIP_ONCE, "when its values change, or when a run requeues it"), else_="when requeued")
    told = a.c.action.concat(" was asked for by ").concat(a.c.asked_by).concat("; it goes ").concat(end)
    return (
        sa.select(a.c.key.label("match_key"), a.c.action, a.c.fingerprint, a.c.asked_at, told.label("told"))
        .select_from(a.join(last, sa.and_(last.c.key == a.c.key, last.c.asked_at == a.c.asked_at)))
        .where(mine)
    )


def write_asked(connection: sa.Connection, tables: StateTables, sequence: str, sync: str) -> None:
    """Write the last word on each key to a temporary table, for planning."""
    temporary(connection, _ASKED, _last(tables, sequence, sync))


def skipped(asked: Any, fingerprint: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """Whether a row with this fingerprint is not to be sent."""
    same = sa.and_(asked.c.action == SKIP_ONCE, asked.c.fingerprint == fingerprint)
    return sa.func.coalesce(sa.or_(asked.c.action == SKIP_ALWAYS, same), sa.false(), type_=sa.Boolean)


def released(asked: Any, ledger: Any) -> sa.ColumnElement[bool]:
    """Whether a row was requeued since its ledger row was written: whatever it waited for is of no account."""
    since = sa.or_(ledger.c.settled_at.is_(None), ledger.c.settled_at < asked.c.asked_at)
    return sa.func.coalesce(sa.and_(asked.c.action == REQUEUE, since), sa.false(), type_=sa.Boolean)


def requeued(connection: sa.Connection, tables: StateTables, sequence: str, sync: str) -> bool:
    """Whether a row was requeued that no run has seen to: the one that was asked ended before."""
    asked, ledger = _last(tables, sequence, sync).subquery("asked"), tables.ledger
    waits = ledger.c.state.in_([t.REJECTED, t.GONE, t.SKIPPED])
    pending = sa.select(sa.func.count()).select_from(asked.join(ledger, ledger.c.match_key == asked.c.match_key))
    return connection.execute(pending.where(waits, released(asked, ledger))).scalar_one() > 0
