"""How fast rows go, and when they will be through."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from seqsync_dagster.sequence.durations import span

#: Every line is a write to Dagster's storage.
QUIET_S = 5.0


@dataclass
class Pace:
    """Follows one plan's rows on their way; says at most every `QUIET_S` seconds how far they are."""

    name: str
    """Of the sync."""
    total: int
    """Rows of the plan."""
    log: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    _began: float = field(init=False)
    _said: float = field(init=False)
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self._said = self._last = self.clock()

    def add(self, rows: int) -> float:
        """So many rows more have their outcome. Returns the seconds since the last time."""
        now = self.clock()
        took, self._last = now - self._last, now
        self.done += rows
        if now - self._said >= QUIET_S and self.done < self.total:
            self.say()
        return took

    def say(self, detail: str = "", underway: int = 0) -> None:
        """Log how far the rows are, now. `underway`: rows that the destination is through with, outcomes to come."""
        self._said = self.clock()
        done = min(self.done + underway, self.total)
        self.log(
            f"{self.name}: {done:,} of {self.total:,} rows sent{self._speed(done)}{f' ({detail})' if detail else ''}"
        )

    def _speed(self, done: int) -> str:
        took = self.clock() - self._began
        if not done or took < 1:
            return ""
        rate = done / took
        left = max(1, (self.total - done) / rate)
        end = f"about {_span(left)} left" if done < self.total else f"in {_span(took)}"
        return f", {rate:,.0f} rows/s{', ' if done < self.total else ' '}{end}"


def _span(seconds: float) -> str:
    return span(timedelta(seconds=seconds))
