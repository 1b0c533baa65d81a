"""Letters on their way, in the background: whoever sends them waits for a bounded time only, and hears what failed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from seqsync_dagster.notify.channels import CannotTell, Channel
from seqsync_dagster.notify.notice import Letter

#: After a failure a channel is left alone for so long by the run that has seen it: each of its steps would wait again.
_REST_S = 60.0

_failed: dict[tuple[str, str], tuple[float, str]] = {}
_failed_lock = threading.Lock()


@dataclass(frozen=True)
class Undelivered:
    """A letter that is not known to have arrived."""

    letter: Letter
    channel: Channel
    reason: str
    late: bool = False
    """It is still on its way, and may arrive yet."""


class Outgoing:
    """Letters of one step of a run. Each channel has a thread of its own, so that none keeps another waiting.

    `delivered` is called in that thread, with every letter that has arrived, even when nobody waits any more.
    """

    def __init__(self, run_id: str, delivered: Callable[[Letter], None] = lambda letter: None) -> None:
        self._run_id, self._delivered = run_id, delivered
        self._lines: dict[str, queue.SimpleQueue[Letter | None]] = {}
        self._news = threading.Condition()
        self._open: dict[int, tuple[Letter, Channel]] = {}
        self._undelivered: list[Undelivered] = []

    def send(self, channel: Channel, letter: Letter) -> None:
        """Send it soon, after those that were given for this channel before."""
        with self._news:
            self._open[id(letter)] = (letter, channel)
        if channel.digest not in self._lines:
            line: queue.SimpleQueue[Letter | None] = queue.SimpleQueue()
            self._lines[channel.digest] = line
            # A thread that hangs must not keep the process from ending.
            threading.Thread(target=self._deliver, args=(channel, line), name="alerts", daemon=True).start()
        self._lines[channel.digest].put(letter)

    def close(self, seconds: float) -> list[Undelivered]:
        """Wait until all are delivered, at most for so long; those that are not, and why."""
        for line in self._lines.values():
            line.put(None)
        with self._news:
            self._news.wait_for(lambda: not self._open, timeout=seconds)
            late = list(self._open.values())
            found = list(self._undelivered)
        for letter, channel in late:
            reason = f"no answer within {seconds:g} s."
            self._note_failure(channel, reason)
            found.append(Undelivered(letter, channel, reason, late=True))
        return found

    def _deliver(self, channel: Channel, line: queue.SimpleQueue[Letter | None]) -> None:
        while (letter := line.get()) is not None:
            reason = self._resting(channel)
            if reason is None:
                try:
                    channel.send(letter)
                    self._delivered(letter)
                except CannotTell as cannot:
                    reason = str(cannot)
                except Exception as error:
                    # Not its text: it may quote the address.
                    reason = f"{type(error).__name__}."
                if reason is not None:
                    self._note_failure(channel, reason)
            with self._news:
                self._open.pop(id(letter), None)
                if reason is not None:
                    self._undelivered.append(Undelivered(letter, channel, reason))
                self._news.notify_all()

    def _resting(self, channel: Channel) -> str | None:
        with _failed_lock:
            at, reason = _failed.get((self._run_id, channel.digest), (0.0, ""))
        return reason if at and time.monotonic() - at < _REST_S else None

    def _note_failure(self, channel: Channel, reason: str) -> None:
        with _failed_lock:
            if len(_failed) >= 1000:
                _failed.clear()
            _failed[self._run_id, channel.digest] = (time.monotonic(), reason)
