"""What a run tells while it goes on, to whoever watches: traces, metrics, alerts. The log is for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from seqsync_dagster.engine.report import Counts

StepName = Literal["recover", "plan", "guard", "apply", "settle", "references", "removals"]


@dataclass(frozen=True)
class StepBegan:
    """A step of a sync's run begins. Steps of one sync follow each other, and never overlap."""

    sync: str
    step: StepName


@dataclass(frozen=True)
class StepEnded:
    """The step that began last has ended."""

    sync: str
    step: StepName
    seconds: float
    error: str | None
    """Name of the error's class when it ended with one."""


@dataclass(frozen=True)
class PlanReady:
    """What is to be sent stands fast; nothing was sent yet."""

    sync: str
    plan_id: str
    counts: Counts
    resync_reason: str | None
    """Why every row is due, when every row is."""


@dataclass(frozen=True)
class BatchDone:
    """The destination has given its word on some more rows."""

    sync: str
    operation: str
    level: int
    rows: int
    """Rows of this batch."""
    rejected: int
    """Of these, rows refused."""
    done: int
    """Rows of the whole plan with an outcome by now."""
    total: int
    """Rows of the whole plan."""
    seconds: float
    """Since the batch before."""


Told = StepBegan | StepEnded | PlanReady | BatchDone

#: Must not raise: nobody who listens may stop a sync.
Tell = Callable[[Told], None]


def to_nobody(told: Told) -> None:
    """Nobody listens."""


@contextmanager
def step(tell: Tell, sync: str, name: StepName) -> Iterator[None]:
    """Tell when a step of a sync's run begins and ends."""
    tell(StepBegan(sync, name))
    began = time.monotonic()
    error: str | None = None
    try:
        yield
    except BaseException as raised:
        error = type(raised).__name__
        raise
    finally:
        tell(StepEnded(sync, name, time.monotonic() - began, error))
