"""How many API calls each connection has made lately, counted together by all syncs and processes."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from seqsync_dagster.journal import tables
from seqsync_dagster.journal.database import Database, database_now

#: What "lately" means, in seconds. Salesforce counts over a moving day as well.
WINDOW_S = 86_400
#: Calls are counted by quarters of an hour: a connection has a hundred small rows, and not one per call.
SLOT_S = 900

# Any number, as long as every version of this package uses the same one.
_CALLS_LOCK = 0x5E95_0002


class CallLedger:
    """The calls of `connection` within the last 24 hours; a `destinations.protocol.CallLedger`.

    Every method is one short transaction, and raises `JournalUnavailable` when the database does
    not answer.
    """

    def __init__(self, database: Database, connection: str) -> None:
        self._database = database
        self._connection = connection

    def add(self, calls: int) -> None:
        """Count `calls` more; a negative number gives calls back that were taken and not made."""
        with self._database.write() as connection:
            self._count(connection, calls)

    def take(self, calls: int, most: int) -> int:
        """Count `calls` more, unless that makes more than `most`; the number before.

        Nobody else can come between the look and the count: of two that want the last calls, one
        gets them.
        """
        with self._database.write() as connection:
            if not self._database.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CALLS_LOCK)))
            table = tables.call.c
            connection.execute(sa.delete(tables.call).where(table.slot + SLOT_S <= database_now() - WINDOW_S))
            spent = connection.scalar(sa.select(sa.func.sum(table.calls)).where(table.connection == self._connection))
            before = max(0, int(spent or 0))
            if before + calls <= most:
                self._count(connection, calls)
        return before

    def _count(self, connection: sa.Connection, calls: int) -> None:
        now: float = connection.execute(sa.select(database_now())).scalar_one()
        row = {"connection": self._connection, "slot": int(now // SLOT_S * SLOT_S), "calls": calls}
        more = {"calls": tables.call.c.calls + calls}
        # Both dialects say ON CONFLICT with the same methods, of classes that have no common type.
        if self._database.is_sqlite:
            connection.execute(sqlite_insert(tables.call).values(row).on_conflict_do_update(
                index_elements=["connection", "slot"], set_=more))  # fmt: skip
        else:
            connection.execute(postgresql_insert(tables.call).values(row).on_conflict_do_update(
                index_elements=["connection", "slot"], set_=more))  # fmt: skip
