"""From what was found to what is said: judged against what was told, kept, and sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

from seqsync_dagster.errors import SeqsyncError
from seqsync_dagster.notify.channels import Channel
from seqsync_dagster.notify.judging import Facts, judge, sentence
from seqsync_dagster.notify.notice import Kind, Letter, Matter, Notice, letter
from seqsync_dagster.notify.outgoing import Outgoing, Undelivered


class Kept(Protocol):
    """A message that stands in the journal."""

    @property
    def id(self) -> str: ...
    @property
    def channel(self) -> str: ...
    @property
    def text(self) -> str: ...


class Book(Protocol):
    """What was told of one sequence."""

    def turn(self, sync: str, channel: str, now: datetime, decide: Any, compose: Any) -> Sequence[Kept]: ...
    def take_up(self, channels: Any) -> Sequence[Kept]: ...
    def delivered(self, message: str) -> None: ...
    def failed(self, message: str, reason: str, *, still_trying: bool) -> None: ...


class Journal(Protocol):
    """Where the book is kept."""

    def alerts_of(self, sequence: str) -> Book: ...


class Announcer:
    """Tells the channels of one step, or of one look at the sequence."""

    def __init__(
        self,
        sequence: str,
        channels: Sequence[Channel],
        run_id: str,
        open_journal: Callable[[], AbstractContextManager[Journal]],
    ) -> None:
        self._sequence, self._open_journal = sequence, open_journal
        self._channels = {c.digest: c for c in channels}
        self._kept: dict[int, str] = {}
        self._outgoing = Outgoing(run_id, self._delivered)

    def send(self, channel: Channel, made: Letter) -> None:
        """Send something that is told as it happens, and is not kept."""
        self._outgoing.send(channel, made)

    @property
    def sent(self) -> int:
        """Messages that were handed on by now."""
        return len(self._kept)

    def turn(
        self, journal: Journal, notice: Notice, facts: Facts, channels: Sequence[Channel], *, only: bool = False
    ) -> None:
        """Tell each channel what has changed for it.

        `only`: the conditions of these channels are not all that they ask for. Raises `SeqsyncError`.
        """
        for channel in channels:
            for kept in _turned(journal.alerts_of(self._sequence), notice, facts, channel, only=only):
                self._send_kept(channel, kept)

    def without_journal(self, notice: Notice, facts: Facts, channels: Sequence[Channel]) -> None:
        """Tell what is wrong though nobody knows whether it was told before."""
        for channel in channels:
            said = judge(channel.conditions, facts, {}, notice.at)
            if said.raised:
                matters = [(name, notice.at) for name in said.raised]
                self.send(channel, letter(_filled(notice, "raised", matters, facts, channel)))

    def take_up(self, journal: Journal) -> None:
        """Send what could not be delivered before. Raises `SeqsyncError`."""
        for kept in journal.alerts_of(self._sequence).take_up(list(self._channels)):
            self._send_kept(self._channels[kept.channel], kept)

    def close(self, seconds: float) -> list[Undelivered]:
        """Wait for what is on its way, at most for so long; what has not arrived stays in the journal."""
        undelivered = self._outgoing.close(seconds)
        kept = [(self._kept[id(each.letter)], each) for each in undelivered if id(each.letter) in self._kept]
        if kept:
            try:
                with self._open_journal() as journal:
                    book = journal.alerts_of(self._sequence)
                    for message, each in kept:
                        book.failed(message, each.reason, still_trying=each.late)
            except SeqsyncError:
                # Its claim runs out by itself.
                pass
        return undelivered

    def _send_kept(self, channel: Channel, kept: Kept) -> None:
        made = Letter.from_json(kept.text)
        self._kept[id(made)] = kept.id
        self._outgoing.send(channel, made)

    def _delivered(self, made: Letter) -> None:
        if (message := self._kept.get(id(made))) is None:
            return
        try:
            with self._open_journal() as journal:
                journal.alerts_of(self._sequence).delivered(message)
        except SeqsyncError:
            # Told twice is better than not told.
            pass


def _turned(book: Book, notice: Notice, facts: Facts, channel: Channel, *, only: bool) -> Sequence[Kept]:
    def decide(known: Mapping[str, Any]) -> Any:
        if only:
            known = {name: each for name, each in known.items() if name in channel.conditions}
        return judge(channel.conditions, facts, known, notice.at)

    def compose(kind: Kind, told: Sequence[Any]) -> str | None:
        # That a full resync is over is no news of anything mended.
        named = [(t.condition, t.since) for t in told if kind == "raised" or t.condition != "full_resync"]
        asked = [(name, since) for name, since in named if name in channel.conditions]
        if not asked or (kind == "recovered" and not channel.recovered):
            return None
        return letter(_filled(notice, kind, asked, facts, channel)).to_json()

    return book.turn(notice.sync, channel.digest, notice.at, decide, compose)


def _filled(notice: Notice, kind: Kind, told: Sequence[tuple[Any, datetime]], facts: Facts, channel: Channel) -> Notice:
    over = notice.at if kind == "recovered" else None
    matters = tuple(
        Matter(name, since, over, "" if over is not None else sentence(channel.conditions[name], facts))
        for name, since in told
    )
    errors = notice.errors if kind == "raised" else ()
    return replace(notice, kind=kind, matters=matters, runbook=channel.runbook or notice.runbook, errors=errors)
