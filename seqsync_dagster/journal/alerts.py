"""What was told of a sequence, to whom, and what is not delivered yet: so that everything is told once.

What has changed and the messages about it are written in one transaction: whoever comes first, in whatever process,
makes the message. It is deleted when it has arrived; until then every later run tries again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from seqsync_dagster.journal import tables
from seqsync_dagster.journal.database import Database, database_now
from seqsync_dagster.journal.lease import lapsed
from seqsync_dagster.sequence.words import FINISH, sync_of_step

#: How long a message is left to whoever sends it, and how long it is tried at all.
CLAIM = timedelta(seconds=60)
KEPT = timedelta(days=7)

#: Most messages that one step of a run takes up from those before it.
MOST = 20

Kind = Literal["raised", "recovered"]


@dataclass(frozen=True)
class Told:
    """One condition that has begun for one channel."""

    condition: str
    since: datetime
    raised: bool
    """It was told; otherwise it is too young for that."""
    judged: int = 0
    """Rows that were sent when rows were refused."""


@dataclass(frozen=True)
class Kept:
    """A message that is not delivered yet."""

    id: str
    channel: str
    text: str


@dataclass(frozen=True)
class StepUnderWay:
    """A step that has had no last word yet."""

    sync: str
    run_id: str
    began_at: datetime
    silent: bool
    """Its lease has run out without being given back: the process is gone, or out of touch."""


class Decision(Protocol):
    """What becomes of the conditions of one channel."""

    @property
    def raised(self) -> Mapping[Any, int]: ...
    @property
    def cleared(self) -> Collection[str]: ...
    @property
    def watched(self) -> Collection[str]: ...


#: From what is kept of the conditions to what becomes of them. Called within a transaction: must be quick.
Decide = Callable[[Mapping[str, Told]], Decision]
#: The message about conditions that were raised, or are over; None: nobody wants to hear of it.
Compose = Callable[[Kind, tuple[Told, ...]], str | None]


class Alerts:
    """What was told of one sequence. Every method is one short transaction and raises `JournalUnavailable`."""

    def __init__(self, database: Database, sequence: str) -> None:
        self._database, self._sequence = database, sequence

    def turn(self, sync: str, channel: str, now: datetime, decide: Decide, compose: Compose) -> list[Kept]:
        """Note what has changed for one channel, and keep the messages about it.

        Of several who notice the same change only the first gets its message, and has `CLAIM` to deliver it.
        """
        a = tables.alert.c
        mine = (a.sequence == self._sequence, a.sync == sync, a.channel == channel)
        with self._database.write() as connection:
            known = {row.condition: _told(row) for row in connection.execute(sa.select(tables.alert).where(*mine))}
            decided = decide(known)
            names = {"sequence": self._sequence, "sync": sync, "channel": channel}
            raised = tuple(
                Told(name, known[name].since if name in known else now, True, judged)
                for name, judged in decided.raised.items()
                if self._raise(connection, names | {"condition": name}, now, judged)
            )
            for name in decided.watched:
                connection.execute(
                    self._insert(tables.alert)
                    .values(**names, condition=name, since=now.timestamp(), raised_at=None, judged=0)
                    .on_conflict_do_nothing()
                )
            over = connection.execute(
                sa.delete(tables.alert).where(*mine, a.condition.in_(list(decided.cleared))).returning(tables.alert)
            ).all()
            cleared = tuple(_told(row) for row in over if row.raised_at is not None)
            return [
                self._keep(connection, channel, text)
                for kind, conditions in (("raised", raised), ("recovered", cleared))
                if conditions and (text := compose(kind, conditions)) is not None  # type: ignore[arg-type]
            ]

    def begun(self) -> list[tuple[str, str, Told]]:
        """What has begun and was not told yet, with sync and channel, oldest first."""
        a = tables.alert.c
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(tables.alert).where(a.sequence == self._sequence, a.raised_at.is_(None)).order_by(a.since)
            ).all()
        return [(row.sync, row.channel, _told(row)) for row in rows]

    def told_of(self) -> set[str]:
        """The syncs of which something has begun, or was told, that is not over; empty: the sequence as a whole."""
        a = tables.alert.c
        with self._database.read() as connection:
            return set(connection.execute(sa.select(a.sync).where(a.sequence == self._sequence).distinct()).scalars())

    def forget(self, sync: str) -> None:
        """Nothing was ever told of this sync."""
        a = tables.alert.c
        with self._database.write() as connection:
            connection.execute(sa.delete(tables.alert).where(a.sequence == self._sequence, a.sync == sync))

    def take_up(self, channels: Collection[str]) -> list[Kept]:
        """Messages for these channels that nobody is sending, oldest first. Whoever takes them has `CLAIM`."""
        m, now = tables.letter.c, database_now()
        with self._database.write() as connection:
            connection.execute(
                sa.delete(tables.letter).where(m.sequence == self._sequence, m.made_at < now - KEPT.total_seconds())
            )
            free = sa.or_(m.claimed_until.is_(None), m.claimed_until < now)
            rows = connection.execute(
                sa.select(tables.letter)
                .where(m.sequence == self._sequence, m.channel.in_(list(channels)), free)
                .order_by(m.made_at)
                .limit(MOST)
                .with_for_update(skip_locked=True)
            ).all()
            found = [Kept(row.letter, row.channel, row.text) for row in rows]
            connection.execute(
                sa.update(tables.letter)
                .where(m.letter.in_([each.id for each in found]))
                .values(claimed_until=now + CLAIM.total_seconds())
            )
        return found

    def delivered(self, message: str) -> None:
        """It has arrived."""
        with self._database.write() as connection:
            connection.execute(sa.delete(tables.letter).where(tables.letter.c.letter == message))

    def failed(self, message: str, reason: str, *, still_trying: bool) -> None:
        """It could not be delivered: the next one may try, at once or when the claim is over."""
        m = tables.letter.c
        free: dict[str, Any] = {} if still_trying else {"claimed_until": None}
        with self._database.write() as connection:
            connection.execute(
                sa.update(tables.letter)
                .where(m.letter == message)
                .values(tries=m.tries + 1, reason=reason.replace("\x00", "\ufffd"), **free)
            )

    def began(self, sync: str, run_id: str, now: datetime) -> None:
        """A step begins."""
        row = {"sequence": self._sequence, "sync": sync, "run_id": run_id, "began_at": now.timestamp()}
        with self._database.write() as connection:
            connection.execute(
                self._insert(tables.step)
                .values(**row)
                .on_conflict_do_update(
                    index_elements=["sequence", "sync", "run_id"], set_={"began_at": row["began_at"]}
                )
            )

    def ended(self, sync: str, run_id: str, *, took_over: bool = False) -> None:
        """A step has had its last word, or what became of it was told by others.

        `took_over`: so has every step of the sync that began before it, for no two are at work at once.
        """
        s = tables.step.c
        own = (s.sequence == self._sequence, s.sync == sync, s.run_id == run_id)
        with self._database.write() as connection:
            if took_over:
                began = connection.execute(sa.select(s.began_at).where(*own)).scalar_one_or_none() or 0
                before = (s.sequence == self._sequence, s.sync == sync, s.began_at < began)
                connection.execute(sa.delete(tables.step).where(*before))
            connection.execute(sa.delete(tables.step).where(*own))

    def forget_others(self, channels: Mapping[str, Collection[str]]) -> None:
        """Forget what was told of syncs that are not there any more, or to channels that hear of them no more.

        `channels`: of each step, and of the sequence as a whole. What is not over would keep a sync that comes back
        later under its name from being told of.
        """
        a = tables.alert.c
        with self._database.read() as connection:
            rows = connection.execute(sa.select(a.sync, a.channel).distinct().where(a.sequence == self._sequence)).all()
        others = [row for row in rows if row.channel not in channels.get(row.sync, ())]
        if not others:
            return
        with self._database.write() as connection:
            for sync, channel in others:
                connection.execute(
                    sa.delete(tables.alert).where(a.sequence == self._sequence, a.sync == sync, a.channel == channel)
                )

    def under_way(self) -> list[StepUnderWay]:
        """The steps without a last word, oldest first."""
        s = tables.step.c
        with self._database.read() as connection:
            steps = connection.execute(
                sa.select(tables.step).where(s.sequence == self._sequence).order_by(s.began_at)
            ).all()
        lost = lapsed(self._database, self._sequence) if steps else []
        return [
            StepUnderWay(
                row.sync,
                row.run_id,
                datetime.fromtimestamp(row.began_at, UTC),
                # Whoever holds a lease is called after the run. A step beside the one that was killed may be well, and
                # `finish` holds the leases of all syncs, one after the other.
                any(
                    holder.startswith(f"run {row.run_id[:8]}") and sync_of_step(row.sync) in (sync, FINISH)
                    for sync, holder in lost
                ),
            )
            for row in steps
        ]

    def _raise(self, connection: sa.Connection, names: Mapping[str, Any], now: datetime, judged: int) -> bool:
        insert = self._insert(tables.alert).values(
            **names, since=now.timestamp(), raised_at=now.timestamp(), judged=judged
        )
        done = connection.execute(
            insert.on_conflict_do_update(
                index_elements=list(names),
                set_={"raised_at": now.timestamp(), "judged": judged},
                where=tables.alert.c.raised_at.is_(None),
            ).returning(tables.alert.c.condition)
        )
        return done.first() is not None

    def _keep(self, connection: sa.Connection, channel: str, text: str) -> Kept:
        # PostgreSQL has no text with NUL; in JSON it is written with a backslash anyway.
        kept = Kept(uuid.uuid4().hex, channel, text)
        connection.execute(
            sa.insert(tables.letter).values(
                letter=kept.id,
                sequence=self._sequence,
                channel=channel,
                made_at=database_now(),
                text=text,
                claimed_until=database_now() + CLAIM.total_seconds(),
                tries=0,
            )
        )
        return kept

    def _insert(self, table: sa.Table) -> Any:
        return sqlite_insert(table) if self._database.is_sqlite else postgresql_insert(table)


def _told(row: sa.Row[Any]) -> Told:
    return Told(row.condition, datetime.fromtimestamp(row.since, UTC), row.raised_at is not None, row.judged)
