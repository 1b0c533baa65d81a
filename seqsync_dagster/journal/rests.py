"""Which syncs have nothing to do, and until when: so that a run need not wake the warehouse to find out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from seqsync_dagster.journal import tables
from seqsync_dagster.journal.database import Database


@dataclass(frozen=True)
class Rest:
    """What is so as long as a sync has nothing to do."""

    build: str
    """Which materialisation of the model was compared."""
    digest: str
    """Of everything in YAML that decides about rows, and of where they lie."""
    compared_at: datetime
    """When model and ledger were compared last."""
    due_at: datetime | None
    """When a refused row is tried again; None: none is."""
    arrivals: int
    """Destination ids that the ledger had received."""
    parents: Mapping[str, int]
    """The same of each parent's ledger."""
    finish_due: bool
    """Whether `finish` has something to look at."""
    counts: Mapping[str, int]
    """What a run that finds nothing to do tells."""


class Rests:
    """The resting syncs of one sequence. Every method is one short transaction and raises `JournalUnavailable`."""

    def __init__(self, database: Database, sequence: str) -> None:
        self._database, self._sequence = database, sequence

    def all(self) -> dict[str, Rest]:
        """By sync."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(tables.rest).where(tables.rest.c.sequence == self._sequence)).all()
        return {row.sync: _rest(row) for row in rows}

    def note(self, sync: str, rest: Rest) -> None:
        """A sync has come to rest."""
        with self._database.write() as connection:
            connection.execute(self._mine(sync))
            connection.execute(
                sa.insert(tables.rest).values(
                    sequence=self._sequence,
                    sync=sync,
                    build=rest.build,
                    digest=rest.digest,
                    compared_at=rest.compared_at.timestamp(),
                    due_at=rest.due_at.timestamp() if rest.due_at is not None else None,
                    arrivals=rest.arrivals,
                    parents=json.dumps(dict(rest.parents)),
                    finish_due=rest.finish_due,
                    counts=json.dumps(dict(rest.counts)),
                )
            )

    def forget(self, sync: str) -> None:
        """Something is done to a sync's ledger, or is about to be."""
        with self._database.write() as connection:
            connection.execute(self._mine(sync))

    def _mine(self, sync: str) -> sa.Delete:
        r = tables.rest.c
        return sa.delete(tables.rest).where(r.sequence == self._sequence, r.sync == sync)


def _rest(row: sa.Row[tuple[object, ...]]) -> Rest:
    return Rest(
        build=row.build,
        digest=row.digest,
        compared_at=datetime.fromtimestamp(row.compared_at, UTC),
        due_at=datetime.fromtimestamp(row.due_at, UTC) if row.due_at is not None else None,
        arrivals=row.arrivals,
        parents=json.loads(row.parents),
        finish_due=row.finish_due,
        counts=json.loads(row.counts),
    )
