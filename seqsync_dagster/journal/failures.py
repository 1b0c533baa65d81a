"""Which syncs have failed and since when: what a stopped sequence knows of itself, whoever asks and from where."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from seqsync_dagster.journal import tables
from seqsync_dagster.journal.database import Database, database_now

FailureKind = Literal["fatal", "rejected"]


@dataclass(frozen=True)
class Failure:
    """One sync's failure that is not mended yet."""

    sync: str
    kind: FailureKind
    """``fatal``: its last run broke off. ``rejected``: too many of its rows are refused."""
    since: datetime
    """When it first failed so, without a run in order since."""
    holder: str
    """The run that failed first, as people know it."""
    reason: str
    """Why the last one failed, in its own words."""
    refused: int = 0
    """Rows that were refused, of `judged`, in the run that failed last."""
    judged: int = 0
    every: bool = False
    """Whether that was every row that was sent."""


class Failures:
    """The failures of one sequence. Every method is one short transaction and raises `JournalUnavailable`."""

    def __init__(self, database: Database, sequence: str) -> None:
        self._database, self._sequence = database, sequence

    def of(self, syncs: Collection[str]) -> list[Failure]:
        """Unmended failures of these syncs, in their order."""
        f = tables.failure.c
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(tables.failure).where(f.sequence == self._sequence, f.sync.in_(list(syncs)))
            ).all()
        place = list(syncs).index
        return sorted((_failure(row) for row in rows), key=lambda each: (place(each.sync), each.kind))

    def note(
        self,
        sync: str,
        kind: FailureKind,
        holder: str,
        reason: str,
        *,
        refused: int = 0,
        judged: int = 0,
        every: bool = False,
    ) -> Failure:
        """A sync has failed, perhaps again; the failure as it is known from now on."""
        # PostgreSQL has no text with NUL.
        last: dict[str, Any] = {
            "failed_at": database_now(),
            "reason": reason.replace("\x00", "\ufffd"),
            "refused": refused,
            "judged": judged,
            "every": every,
        }
        first: dict[str, Any] = {"since": database_now(), "holder": holder}
        names = {"sequence": self._sequence, "sync": sync, "kind": kind}
        insert: Any = sqlite_insert if self._database.is_sqlite else postgresql_insert
        with self._database.write() as connection:
            connection.execute(
                insert(tables.failure)
                .values(**names, **last, **first)
                .on_conflict_do_update(index_elements=list(names), set_=last)
            )
            f = tables.failure.c
            mine = (f.sequence == self._sequence, f.sync == sync, f.kind == kind)
            return _failure(connection.execute(sa.select(tables.failure).where(*mine)).one())

    def forget(self, sync: str, kind: FailureKind) -> bool:
        """The sync is mended; whether it had failed."""
        f = tables.failure.c
        with self._database.write() as connection:
            done = connection.execute(
                sa.delete(tables.failure).where(f.sequence == self._sequence, f.sync == sync, f.kind == kind)
            )
        return bool(done.rowcount)


def _failure(row: sa.Row[Any]) -> Failure:
    return Failure(
        sync=row.sync,
        kind=cast(FailureKind, row.kind),
        since=datetime.fromtimestamp(row.since, UTC),
        holder=row.holder,
        reason=row.reason,
        refused=row.refused,
        judged=row.judged,
        every=row.every,
    )
