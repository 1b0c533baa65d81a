"""What has changed: from what a step found, and what was told before, to what is to be told now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from seqsync_dagster.sequence.alerts import Condition, ConditionName
from seqsync_dagster.sequence.durations import span

#: Conditions that are judged by all rows of a model.
_OF_ROWS: tuple[ConditionName, ...] = ("rejected", "held_longer_than")


@dataclass(frozen=True)
class Refused:
    """Rows that the destination has refused."""

    now: int
    """All that are refused by now, in this run or before."""
    fresh: int
    """Of these, for the first time with their values,"""
    judged: int
    """among so many that the run has sent."""


@dataclass(frozen=True)
class Facts:
    """What is so by now. None: nothing was learned about it, and what was told stands."""

    failed: bool | None = None
    guarded: bool | None = None
    refused: Refused | None = None
    held: int | None = None
    """Rows that wait for their parent."""
    took: timedelta | None = None
    """How long the step took, or is at work by now."""
    drifted: int | None = None
    resync_reason: str | None = None
    whole: bool = False
    """The run came to its end, so that without a `resync_reason` there is no full resync any more."""
    last_run: datetime | None = None
    """When a run has ended last."""
    some_rows: bool = False
    """Only rows that somebody named were looked at: what is not so among them may be so among the others."""
    only_later: bool = False
    """Nothing was looked at: what has begun goes on, as far as is known."""


class Known(Protocol):
    """What is kept of a condition."""

    @property
    def since(self) -> datetime: ...
    @property
    def raised(self) -> bool: ...
    @property
    def judged(self) -> int: ...


@dataclass(frozen=True)
class Verdict:
    """What becomes of the conditions of one channel."""

    raised: Mapping[ConditionName, int] = field(default_factory=dict)
    """So now, with what has to be kept of each (see `Refused.judged`)."""
    cleared: frozenset[str] = frozenset()
    """Not so any more."""
    watched: frozenset[ConditionName] = frozenset()
    """Begun, and not long enough to be told."""


def judge(
    conditions: Mapping[ConditionName, Condition], facts: Facts, known: Mapping[str, Known], now: datetime
) -> Verdict:
    """Compare what is so with what one channel is to be told of. Conditions that it does not ask for any more are
    cleared."""
    raised: dict[ConditionName, int] = {}
    cleared = set(known) - set(conditions)
    watched: set[ConditionName] = set()
    for name, condition in conditions.items():
        before = known.get(name)
        match _is_so(condition, facts, before, now):
            case None:
                pass
            case "begun":
                watched.add(name)
            case True:
                raised[name] = facts.refused.judged if facts.refused is not None else 0
            case False if not (facts.some_rows and name in _OF_ROWS):
                cleared.add(name)
    return Verdict(raised, frozenset(cleared), frozenset(watched))


def _is_so(condition: Condition, facts: Facts, before: Known | None, now: datetime) -> bool | str | None:
    after = condition.after or timedelta(0)
    match condition.name:
        case "failed":
            return facts.failed
        case "guarded":
            return facts.guarded
        case "rejected":
            return None if facts.refused is None else _refused(condition, facts.refused, before)
        case "held_longer_than":
            if facts.held is None and not (facts.only_later and before is not None):
                return None
            if facts.held == 0:
                return False
            return True if before is not None and now - before.since >= after else "begun"
        case "slower_than":
            return None if facts.took is None else facts.took > after
        case "no_run_in":
            return None if facts.last_run is None else now - facts.last_run >= after
        case "drift":
            return None if facts.drifted is None else facts.drifted > 0
        case "full_resync":
            return True if facts.resync_reason is not None else False if facts.whole else None
    return None


def _refused(condition: Condition, refused: Refused, before: Known | None) -> bool:
    if condition.limit is None:
        return refused.now > 0
    if condition.limit.exceeded(refused.fresh, refused.judged):
        return True
    # As many as made it so are still refused, of a run that has sent so many: a later run sends fewer.
    return before is not None and before.raised and condition.limit.exceeded(refused.now, before.judged)


def sentence(condition: Condition, facts: Facts) -> str:
    """What is so, with its numbers; empty where the run's own words say it."""
    after = span(condition.after) if condition.after is not None else ""
    match condition.name:
        case "rejected" if facts.refused is not None:
            limit = f", told above {condition.limit}" if condition.limit is not None else ""
            sent = f"; new ones: {facts.refused.fresh} of {facts.refused.judged} sent" if facts.refused.judged else ""
            return f"Refused rows: {facts.refused.now}{sent}{limit}."
        case "held_longer_than":
            rows = f"{facts.held} rows are" if facts.held else "Rows are"
            return f"{rows} held, and there were some at every run for {after} and longer."
        case "slower_than" if facts.took is not None:
            return f"It took {span(facts.took)} by now; told above {after}."
        case "no_run_in" if facts.last_run is not None:
            return f"No run has ended for {after}, the last one at {facts.last_run:%Y-%m-%d %H:%M} UTC."
        case "full_resync" if facts.resync_reason is not None:
            return f"Every row is due: {facts.resync_reason}."
    return ""
