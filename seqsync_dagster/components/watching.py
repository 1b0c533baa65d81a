"""Who hears of a step: that it begins, what it tells meanwhile, and how it ended. None of them may harm it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import dagster as dg

if TYPE_CHECKING:
    from seqsync_dagster.engine.report import DriftReport, FinishReport, SyncReport
    from seqsync_dagster.engine.telling import Told
    from seqsync_dagster.sequence.spec import SequenceSpec

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext

How = Literal["success", "partial", "failed", "in_progress", "refused", "cancelled"]


@dataclass(frozen=True)
class Beginning:
    """A step that begins."""

    sequence: SequenceSpec
    name: str
    """Of the sync, ``finish``, or ``<sync>.drift``."""
    run_id: str
    job: str
    """That the run is of; Dagster's own when somebody materialised an asset by itself."""
    context: Context = field(repr=False)


@dataclass(frozen=True)
class Ending:
    """How a step ended."""

    how: How
    """``in_progress``: the next run takes it up. ``refused``: another run holds the sync. ``cancelled``: somebody
    stopped the run."""
    text: str
    """For a person: the summary, or what went wrong."""
    report: SyncReport | FinishReport | DriftReport | None = None
    error: BaseException | None = None
    stops: bool = False
    """The syncs below wait for this one."""


class Watcher(Protocol):
    """Follows one step from its beginning to its end."""

    def told(self, told: Told) -> None:
        """Something that the run tells meanwhile."""

    def ended(self, ending: Ending) -> None:
        """The last word. Called once."""


#: Begins to follow a step; None when it has no interest in this one.
Watch = Callable[[Beginning], Watcher | None]


class Watchers:
    """All who follow one step. What goes wrong with one of them is a warning in the run's log."""

    def __init__(self, beginning: Beginning, watches: Sequence[Watch]) -> None:
        self._log = beginning.context.log
        self._following: list[Watcher] = []
        self._ended = False
        for watch in watches:
            with self._harmless():
                watcher = watch(beginning)
                if watcher is not None:
                    self._following.append(watcher)

    def told(self, told: Told) -> None:
        """Pass on what the run tells."""
        for watcher in self._following:
            with self._harmless():
                watcher.told(told)

    def ended(self, ending: Ending) -> None:
        """Pass on how it ended; only the first word counts."""
        if self._ended:
            return
        self._ended = True
        for watcher in self._following:
            with self._harmless():
                watcher.ended(ending)

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # Not its text: whoever sends things elsewhere may quote an address with a secret in it.
            self._log.warning(f"The run goes on, but somebody could not be told of it: {type(error).__name__}.")


@contextmanager
def watched(context: Context, sequence: SequenceSpec, name: str, watches: Sequence[Watch]) -> Iterator[Watchers]:
    """Let all of `watches` follow a step. When it is left without a last word, this is said for it."""
    watchers = Watchers(Beginning(sequence, name, context.run.run_id, context.run.job_name, context), watches)
    try:
        yield watchers
    except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt, GeneratorExit, SystemExit) as stopped:
        watchers.ended(Ending("cancelled", f"{sequence.name}/{name}: the run was stopped.", error=stopped))
        raise
    except BaseException as error:
        watchers.ended(Ending("failed", f"{sequence.name}/{name}: {type(error).__name__}.", error=error))
        raise
    else:
        watchers.ended(Ending("success", f"{sequence.name}/{name} ended."))
