"""Leases: at most one process writes a sync's state.

A lease is one row per scope. Its holder renews it every few seconds from a thread of its own.
It may be taken over when it has not been renewed for its time to live, or at once when its
process is known to be gone. Each acquisition raises the row's epoch, and every write to the
journal proves in its own transaction that its epoch is still the current one (`fence`): a
holder that was only slow cannot do harm when it wakes up.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from seqsync_dagster.errors import JournalUnavailable, LeaseHeld, LeaseLost
from seqsync_dagster.journal import tables
from seqsync_dagster.journal.database import Database, database_now

_log = logging.getLogger(__name__)
_row = tables.lease.c


@dataclass(frozen=True)
class Scope:
    """What a lease protects: one sync of one sequence."""

    sequence: str
    sync: str

    def __str__(self) -> str:
        return f"{self.sequence}/{self.sync}"


class Lease:
    """The right to write one sync's state, as long as it is renewed. Made by `Journal.acquire`.

    A context manager: leaving it releases the lease.
    """

    def __init__(
        self, database: Database, scope: Scope, holder: str, token: str, epoch: int, *, beat_s: float, ttl_s: float
    ) -> None:
        self.scope = scope
        self.epoch = epoch
        self.holder = holder
        self._token = token
        self._database = database
        self._beat_s = beat_s
        self._ttl_s = ttl_s
        self._renewed_at = time.monotonic()
        self._lost: str | None = None
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"lease {scope}", daemon=True)

    def __repr__(self) -> str:
        return f"<Lease {self.scope} epoch {self.epoch} of {self.holder}>"

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def released(self) -> bool:
        """Whether `release` was called."""
        return self._ended.is_set()

    def check(self) -> None:
        """Return if this lease still holds.

        Raises `LeaseLost` when it was taken over or released, or when the journal could not be
        reached for so long that somebody may have taken it over.
        """
        self._raise_if_lost()
        try:
            with self._database.read() as connection:
                fence(connection, self)
        except JournalUnavailable as error:
            self._missed(error)
        self._raise_if_lost()

    def release(self) -> None:
        """Let the next run have it. Harmless when it was released or lost already.

        Never raises because the journal does not answer: the lease then ends with its time to live.
        """
        if self._ended.is_set():
            return
        self._ended.set()
        if self._heart.is_alive():
            # A beat that waits for a lock would otherwise outlive the journal's connections.
            self._heart.join(timeout=self._ttl_s)
        if self._lost is None:
            self._lost = f"The lease on {self.scope} was released; nothing can be written under it any more."
        try:
            with self._database.write() as connection:
                connection.execute(
                    sa.update(tables.lease).where(*_current(self)).values(token=None, expires_at=database_now())
                )
        except JournalUnavailable as error:
            _log.warning(
                "The lease on %s could not be released and ends by itself within %g s: %s",
                self.scope,
                self._ttl_s,
                error,
            )

    def _renew(self) -> None:
        # Taken before the renewal is sent: this end of the lease must be the earlier one.
        asked_at = time.monotonic()
        now = database_now()
        with self._database.write() as connection:
            renewed = connection.execute(
                sa.update(tables.lease).where(*_current(self)).values(heartbeat_at=now, expires_at=now + self._ttl_s)
            ).rowcount
            if not renewed:
                fence(connection, self)
        self._renewed_at = asked_at

    def _beat(self) -> None:
        while self._lost is None and not self._ended.wait(self._beat_s):
            try:
                self._renew()
            except LeaseLost as error:
                if not self._ended.is_set():
                    _log.error("%s", error)
            except Exception as error:
                self._missed(error)

    def _missed(self, error: Exception) -> None:
        silent_s = time.monotonic() - self._renewed_at
        if silent_s < self._ttl_s:
            _log.warning("The lease on %s was not renewed for %.0f s: %s", self.scope, silent_s, error)
            return
        self._lost = (
            f"The lease on {self.scope} (epoch {self.epoch}, {self.holder}) could not be renewed for "
            f"{silent_s:.0f} s, so another run may have taken over; this one must not write any more. "
            f"What it recorded is safe, and the next run takes it up. The last failure was: {error}"
        )
        _log.error("%s", self._lost)

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise LeaseLost(self._lost)


def acquire(database: Database, scope: Scope, holder: str, *, beat_s: float, ttl_s: float) -> Lease:
    """Take the lease on `scope`. Raises `LeaseHeld` and `JournalUnavailable`."""
    token = uuid.uuid4().hex
    me = _this_process()
    now = database_now()
    insert: Any = sqlite_insert if database.is_sqlite else postgresql_insert
    with database.write() as connection:
        connection.execute(
            insert(tables.lease).values(sequence=scope.sequence, sync=scope.sync, epoch=0).on_conflict_do_nothing()
        )
        # FOR UPDATE waits for writers under the old epoch (they hold FOR KEY SHARE) to end, and
        # keeps rivals out; on SQLite the transaction as such does.
        row = connection.execute(_holder_row(scope).with_for_update()).one()
        if not _is_free(row):
            raise LeaseHeld(_held_message(scope, row), row.holder)
        connection.execute(
            sa.update(tables.lease)
            .where(*_of(scope))
            .values(
                epoch=row.epoch + 1,
                token=token,
                holder=holder,
                acquired_at=now,
                heartbeat_at=now,
                expires_at=now + ttl_s,
                host=me.host,
                machine=me.machine,
                pid=me.pid,
                process_start=me.start,
            )
        )
    if row.token is not None:
        _log.warning("Took over the lease on %s from %s, which is no longer alive.", scope, row.holder)
    lease = Lease(database, scope, holder, token, row.epoch + 1, beat_s=beat_s, ttl_s=ttl_s)
    lease._heart.start()
    return lease


def current_holder(database: Database, scope: Scope) -> str | None:
    """Who holds the lease, None when `acquire` would succeed. Raises `JournalUnavailable`."""
    with database.read() as connection:
        row = connection.execute(_holder_row(scope)).one_or_none()
    return None if row is None or _is_free(row) else str(row.holder)


def lapsed(database: Database, sequence: str) -> list[tuple[str, str]]:
    """Leases of a sequence that nobody gave back and anybody may take: sync and holder. Raises `JournalUnavailable`."""
    held = (_row.sequence == sequence, _row.token.is_not(None))
    with database.read() as connection:
        rows = connection.execute(sa.select(tables.lease, database_now().label("now")).where(*held)).all()
    return [(row.sync, row.holder) for row in rows if _is_free(row)]


def fence(connection: sa.Connection, lease: Lease) -> None:
    """Prove, for the rest of the transaction, that the lease is current. Raises `LeaseLost`.

    FOR KEY SHARE lets the heartbeat through, which would otherwise wait for long writes, but
    not `acquire`.
    """
    lease._raise_if_lost()
    current = connection.execute(
        sa.select(_row.epoch).where(*_current(lease)).with_for_update(read=True, key_share=True)
    ).one_or_none()
    if current is not None:
        return
    row = connection.execute(_holder_row(lease.scope)).one_or_none()
    by = (
        "somebody else"
        if row is None or row.epoch == lease.epoch
        else f"{row.holder} on {row.host} at {_clock_text(row.acquired_at)}"
    )
    lease._lost = (
        f"The lease on {lease.scope} (epoch {lease.epoch}, {lease.holder}) was taken over by {by}, because "
        f"it had not been renewed for {lease._ttl_s:g} s or its process seemed gone. This run must not write "
        "any more; what it recorded is safe and is taken up by the other one."
    )
    raise LeaseLost(lease._lost)


def _of(scope: Scope) -> tuple[sa.ColumnElement[bool], ...]:
    return (_row.sequence == scope.sequence, _row.sync == scope.sync)


def _current(lease: Lease) -> tuple[sa.ColumnElement[bool], ...]:
    return (*_of(lease.scope), _row.token == lease._token, _row.epoch == lease.epoch)


def _holder_row(scope: Scope) -> sa.Select[Any]:
    return sa.select(tables.lease, database_now().label("now")).where(*_of(scope))


def _is_free(row: sa.Row[Any]) -> bool:
    return row.token is None or row.expires_at <= row.now or _is_gone(row)


def _held_message(scope: Scope, row: sa.Row[Any]) -> str:
    return (
        f"{scope} is being synced by {row.holder} since {_clock_text(row.acquired_at)} "
        f"(process {row.pid} on {row.host}, last sign of life {max(0.0, row.now - row.heartbeat_at):.0f} s ago). "
        "Wait until it ends; when its process is killed, the lease ends with it, "
        f"at the latest {row.expires_at - row.heartbeat_at:g} s after its last sign of life."
    )


def _clock_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@dataclass(frozen=True)
class _Process:
    host: str
    machine: str
    pid: int
    start: int | None


def _this_process() -> _Process:
    return _Process(socket.gethostname(), _machine(), os.getpid(), _process_start(os.getpid()))


def _machine() -> str:
    """Where a pid means the same as here: host names repeat among containers, this does not."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _is_gone(row: sa.Row[Any]) -> bool:
    """Whether the holder's process is known to have ended. False when it cannot be known."""
    if row.host != socket.gethostname() or row.machine != _machine():
        return False
    try:
        os.kill(row.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's process: alive
    stat = _stat(row.pid)
    # Zombies have ended, even when nobody has asked for their exit code yet.
    return stat is not None and (stat[0] in "ZXx" or int(stat[19]) != row.process_start)


def _process_start(pid: int) -> int | None:
    stat = _stat(pid)
    return None if stat is None else int(stat[19])


def _stat(pid: int) -> list[str] | None:
    """What Linux tells of a process from its state on; None where there is no such view of it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name stands in parentheses and may contain both blanks and parentheses.
    return stat[stat.rindex(")") + 2 :].split()
