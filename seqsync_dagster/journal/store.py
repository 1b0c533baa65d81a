"""The journal: what is under way, durable at every step, so that a kill loses nothing.

The order of a run's calls is the order of its life::

    acquire -> begin -> planned -> (in_flight -> record ... -> finish_send) ... -> close_run -> release

A call that returned is durable. Every writing call proves in its own transaction that the lease
is current and raises `LeaseLost`, having written nothing, when it is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from seqsync_dagster.destinations.protocol import OUTCOME_SCHEMA, SEQ
from seqsync_dagster.errors import StateError
from seqsync_dagster.journal import lease as leases
from seqsync_dagster.journal import tables
from seqsync_dagster.journal.alerts import Alerts
from seqsync_dagster.journal.calls import CallLedger
from seqsync_dagster.journal.database import Database, database_now
from seqsync_dagster.journal.failures import Failures
from seqsync_dagster.journal.lease import Lease, Scope
from seqsync_dagster.journal.rests import Rests

if TYPE_CHECKING:
    import pandas as pd

_PAGE = 10_000
"""Rows that are converted at once, on their way in and out: it bounds memory."""


# Any number, as long as every version of this package uses the same one.
_TURN_LOCK = 0x5E95_0003


@dataclass(frozen=True)
class OpenSend:
    """Rows `first_seq` to `last_seq` of a run's plan, sent or about to be sent."""

    number: int
    first_seq: int
    last_seq: int
    request: Mapping[str, object]
    token: Mapping[str, object]
    finished: bool
    """The destination had its last word on these rows."""


@dataclass(frozen=True)
class OpenRun:
    """A run that was begun and not closed: under way, or killed."""

    run_id: str
    scope: Scope
    plan_id: str | None
    epoch: int
    started_at: datetime
    sends: tuple[OpenSend, ...]


class Journal:
    """The journal at `url`: ``sqlite:///path/to/file`` or ``postgresql+psycopg://...``.

    On PostgreSQL, ``?seqsync_schema=NAME`` says in which schema it lives; default ``seqsync``.
    The file's folder, the schema and the tables are created when missing. A lease is renewed
    every `beat_s` and may be taken over `ttl_s` after its last renewal.

    Threads may share a journal; processes open their own.

    Raises `ConfigurationError` when the URL is of no use, `StateError` when a newer version of
    this package has changed the tables, and, like every method, `JournalUnavailable` (a
    `StateError`) when the database does not answer.
    """

    def __init__(self, url: str, *, beat_s: float = 10, ttl_s: float = 60) -> None:
        if not 0 < beat_s < ttl_s:
            raise ValueError(f"a lease is renewed before it ends: 0 < beat_s ({beat_s}) < ttl_s ({ttl_s})")
        self._beat_s = beat_s
        self._ttl_s = ttl_s
        self._leases: list[Lease] = []
        self._database = Database(url)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def acquire(self, scope: Scope, holder: str) -> Lease:
        """Take the lease on `scope`; `holder` tells people who has it, e.g. ``run 1234abcd``.

        Raises `LeaseHeld`, naming the holder and since when, while another one is alive.
        """
        lease = leases.acquire(self._database, scope, holder, beat_s=self._beat_s, ttl_s=self._ttl_s)
        self._leases = [held for held in self._leases if not held.released] + [lease]
        return lease

    def holder(self, scope: Scope) -> str | None:
        """Who holds the lease on `scope`; None when it is free to be taken."""
        return leases.current_holder(self._database, scope)

    def calls_of(self, connection: str) -> CallLedger:
        """The count of API calls that all syncs of `connection` share."""
        return CallLedger(self._database, connection)

    def failures_of(self, sequence: str) -> Failures:
        """Which syncs of a sequence have failed, and since when."""
        return Failures(self._database, sequence)

    def alerts_of(self, sequence: str) -> Alerts:
        """What was told of a sequence, and what is still to be delivered."""
        return Alerts(self._database, sequence)

    def rests_of(self, sequence: str) -> Rests:
        """Which syncs of a sequence have nothing to do."""
        return Rests(self._database, sequence)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Only one process at a time is inside: for something short that is read, changed and written elsewhere.

        Nothing of the journal may be written meanwhile. Raises `JournalUnavailable`.
        """
        with self._database.write() as connection:
            if not self._database.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_TURN_LOCK)))
            yield

    def begin(self, lease: Lease, run_id: str) -> None:
        """Register a run; it is open from now on.

        Raises `LeaseLost`, and `StateError` when there is or was a run with this id.
        """
        try:
            with self._fenced(lease) as connection:
                connection.execute(
                    tables.run.insert().values(
                        run_id=run_id,
                        sequence=lease.scope.sequence,
                        sync=lease.scope.sync,
                        epoch=lease.epoch,
                        started_at=database_now(),
                    )
                )
        except sa.exc.IntegrityError as error:
            raise StateError(
                f"The journal knows a run {run_id} already. Every attempt needs an id of its own."
            ) from error

    def planned(self, lease: Lease, run_id: str, plan_id: str) -> None:
        """Say which plan an open run carries out. Raises `LeaseLost`, `StateError` (no such open run)."""
        with self._fenced(lease, run_id) as connection:
            connection.execute(sa.update(tables.run).where(tables.run.c.run_id == run_id).values(plan_id=plan_id))

    def in_flight(
        self,
        lease: Lease,
        run_id: str,
        number: int,
        first_seq: int,
        last_seq: int,
        request: Mapping[str, object],
        token: Mapping[str, object],
    ) -> None:
        """Note a send before it happens, or replace what was noted of send `number`.

        `request` and `token` are JSON. Raises `LeaseLost`, `StateError` (no such open run).
        """
        values = {
            "first_seq": first_seq,
            "last_seq": last_seq,
            "request": dict(request),
            "token": dict(token),
            "finished": False,
        }
        insert = self._insert(tables.send).values(run_id=run_id, number=number, **values)
        with self._fenced(lease, run_id) as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=["run_id", "number"], set_=values))

    def finish_send(self, lease: Lease, run_id: str, number: int) -> None:
        """The destination had its last word on send `number`.

        Raises `LeaseLost`, `StateError` (no such open run, or send).
        """
        with self._fenced(lease, run_id) as connection:
            found = connection.execute(
                sa.update(tables.send)
                .where(tables.send.c.run_id == run_id, tables.send.c.number == number)
                .values(finished=True)
            ).rowcount
            if not found:
                raise StateError(f"Run {run_id} has no send {number} in the journal, so it cannot finish.")

    def record(self, lease: Lease, run_id: str, frame: pd.DataFrame) -> None:
        """Keep outcomes, all of `frame` or nothing; the last word on a row wins.

        Only who created a record stays known when that word no longer tells.
        `frame` has the columns of `OUTCOME_SCHEMA`, in any order. Raises `LeaseLost`,
        `StateError` (no such open run) and `ValueError` (not a frame of outcomes).
        """
        outcomes = _outcomes_table(frame)
        with self._fenced(lease, run_id) as connection:
            for start in range(0, outcomes.num_rows, _PAGE):
                page = outcomes.slice(start, _PAGE)
                if self._database.is_sqlite:
                    _upsert_one_by_one(connection, run_id, page)
                else:
                    _upsert_arrays(connection, run_id, page)

    def open_runs(self, scope: Scope) -> list[OpenRun]:
        """Runs of `scope` that were begun and not closed, oldest first."""
        run, send = tables.run.c, tables.send.c
        open_ones = (run.sequence == scope.sequence, run.sync == scope.sync, run.closed_at.is_(None))
        with self._database.read() as connection:
            runs = connection.execute(
                sa.select(tables.run).where(*open_ones).order_by(run.epoch, run.started_at, run.run_id)
            ).all()
            sends = connection.execute(
                sa.select(tables.send)
                .join(tables.run, run.run_id == send.run_id)
                .where(*open_ones)
                .order_by(send.number)
            ).all()
        return [
            OpenRun(
                run_id=row.run_id,
                scope=scope,
                plan_id=row.plan_id,
                epoch=row.epoch,
                started_at=datetime.fromtimestamp(row.started_at, UTC),
                sends=tuple(_open_send(each) for each in sends if each.run_id == row.run_id),
            )
            for row in runs
        ]

    def outcomes(self, run_id: str, after_seq: int = -1) -> Iterator[pa.Table]:
        """Outcomes of a run with `seq` above `after_seq`, ascending, in tables of `OUTCOME_SCHEMA`.

        Each table is a transaction of its own, so a slow reader keeps nobody waiting, and sees
        what is recorded behind its back.
        """
        outcome = tables.outcome.c
        columns = [outcome[name] for name in OUTCOME_SCHEMA.names]
        while True:
            with self._database.read() as connection:
                rows = connection.execute(
                    sa.select(*columns)
                    .where(outcome.run_id == run_id, outcome.seq > after_seq)
                    .order_by(outcome.seq)
                    .limit(_PAGE)
                ).all()
            if not rows:
                return
            after_seq = rows[-1].seq
            yield pa.Table.from_arrays(
                [
                    pa.array(values, kind)
                    for values, kind in zip(zip(*rows, strict=True), OUTCOME_SCHEMA.types, strict=True)
                ],
                schema=OUTCOME_SCHEMA,
            )

    def close_run(self, lease: Lease, run_id: str) -> None:
        """Forget a settled run's sends and outcomes, keeping only that it was; all or nothing.

        Raises `LeaseLost`, `StateError` (no such open run).
        """
        with self._fenced(lease, run_id) as connection:
            for table in (tables.outcome, tables.send):
                connection.execute(sa.delete(table).where(table.c.run_id == run_id))
            connection.execute(
                sa.update(tables.run).where(tables.run.c.run_id == run_id).values(closed_at=database_now())
            )

    def close(self) -> None:
        """Release the leases still held through this journal, and all connections."""
        for lease in self._leases:
            lease.release()
        self._database.close()

    @contextmanager
    def _fenced(self, lease: Lease, run_id: str | None = None) -> Iterator[sa.Connection]:
        """A writing transaction under `lease`, in which `run_id` is an open run of its scope."""
        with self._database.write() as connection:
            leases.fence(connection, lease)
            if run_id is not None:
                _require_open(connection, lease.scope, run_id)
            yield connection

    def _insert(self, table: sa.Table) -> Any:
        # Both dialects say ON CONFLICT with the same methods, of classes that have no common type.
        return sqlite_insert(table) if self._database.is_sqlite else postgresql_insert(table)


def _require_open(connection: sa.Connection, scope: Scope, run_id: str) -> None:
    run = connection.execute(sa.select(tables.run).where(tables.run.c.run_id == run_id)).one_or_none()
    if run is None:
        raise StateError(f"The journal knows no run {run_id} of {scope}; it has to begin first.")
    if Scope(run.sequence, run.sync) != scope:
        raise StateError(f"Run {run_id} belongs to {run.sequence}/{run.sync}; the lease is on {scope}.")
    if run.closed_at is not None:
        raise StateError(f"Run {run_id} of {scope} is closed; nothing can be added to it.")


def _open_send(row: sa.Row[Any]) -> OpenSend:
    return OpenSend(row.number, row.first_seq, row.last_seq, row.request, row.token, row.finished)


def _outcomes_table(frame: pd.DataFrame) -> pa.Table:
    missing = [name for name in OUTCOME_SCHEMA.names if name not in frame.columns]
    if missing:
        raise ValueError(f"a frame of outcomes lacks {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
    # One statement may not touch a row twice on PostgreSQL, and the last word wins anyway.
    latest = frame.drop_duplicates(SEQ, keep="last")
    try:
        table = pa.Table.from_pandas(latest, schema=OUTCOME_SCHEMA, preserve_index=False)
    except pa.ArrowException as error:
        raise ValueError(f"not a frame of outcomes: {error}") from error
    if table[SEQ].null_count:
        raise ValueError("not a frame of outcomes: seq is null")
    for name in ("code", "message"):
        # PostgreSQL has no text with NUL, and a destination's odd wording must not stop a run.
        clean = pc.replace_substring(table[name], "\x00", "\ufffd")
        table = table.set_column(table.schema.get_field_index(name), OUTCOME_SCHEMA.field(name), clean)
    return table


def _upsert(insert: Any) -> Any:
    said = {name: insert.excluded[name] for name in OUTCOME_SCHEMA.names if name != SEQ}
    # A send that is asked about again no longer knows of a row it repeats whether its record was there before.
    said["created"] = sa.func.coalesce(insert.excluded["created"], tables.outcome.c.created)
    return insert.on_conflict_do_update(index_elements=["run_id", SEQ], set_=said)


def _upsert_one_by_one(connection: sa.Connection, run_id: str, page: pa.Table) -> None:
    insert = sqlite_insert(tables.outcome).values(
        {name: sa.bindparam(name) for name in ("run_id", *OUTCOME_SCHEMA.names)}
    )
    compiled = _upsert(insert).compile(
        dialect=connection.dialect, schema_translate_map={tables.SCHEMA: None}, render_schema_translate=True
    )
    columns = {name: page[name].to_pylist() for name in OUTCOME_SCHEMA.names}
    columns["run_id"] = [run_id] * page.num_rows
    # The driver's own executemany takes tuples; a dictionary per row would cost more than SQLite.
    rows = list(zip(*(columns[name] for name in compiled.positiontup), strict=True))
    connection.exec_driver_sql(str(compiled), rows)


def _upsert_arrays(connection: sa.Connection, run_id: str, page: pa.Table) -> None:
    # One array per column and one statement per page; COPY would be as fast, but leave a
    # transaction that no timeout ends when this process is stopped in the middle of it.
    given = (
        sa.func.unnest(
            *(
                sa.cast(sa.bindparam(name), sa.ARRAY(tables.outcome.c[name].type, dimensions=1))
                for name in OUTCOME_SCHEMA.names
            )
        )
        .table_valued(*OUTCOME_SCHEMA.names)
        .render_derived()
    )
    insert = postgresql_insert(tables.outcome).from_select(
        ["run_id", *OUTCOME_SCHEMA.names],
        sa.select(sa.literal(run_id), *(given.c[name] for name in OUTCOME_SCHEMA.names)),
    )
    connection.execute(_upsert(insert), {name: page[name].to_pylist() for name in OUTCOME_SCHEMA.names})
