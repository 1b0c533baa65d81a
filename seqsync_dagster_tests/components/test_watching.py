"""Those who follow a step hear how it began and how it ended, and cannot harm it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import dagster as dg
import pytest

from seqsync_dagster.components.sequence_component import SyncSequence
from seqsync_dagster.components.watching import Beginning, Ending
from seqsync_dagster.engine.telling import Told
from seqsync_dagster.errors import DestinationStillBusy, LeaseHeld, LedgerLost

from .location import PAIR, location, run
from .test_steps import Engine, engine, report

__all__ = ["engine"]


@dataclass
class Follower:
    """Notes what it hears, and breaks when it is told to."""

    heard: list[tuple[str, Ending]] = field(default_factory=list)
    breaks: bool = False

    def __call__(self, beginning: Beginning) -> _Following:
        return _Following(self, f"{beginning.sequence.name}/{beginning.name}")


@dataclass
class _Following:
    follower: Follower
    name: str

    def told(self, told: Told) -> None: ...

    def ended(self, ending: Ending) -> None:
        self.follower.heard.append((self.name, ending))
        if self.follower.breaks:
            raise RuntimeError("https://hooks.example.com/secret")


@pytest.fixture(scope="module")
def followed() -> Iterator[tuple[dg.Definitions, Follower]]:
    follower = Follower()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SyncSequence, "watches", lambda *_: (follower, lambda _: None))
        with location(crm=PAIR) as made:
            yield made.load(), follower


@pytest.fixture
def heard(followed: tuple[dg.Definitions, Follower]) -> list[tuple[str, Ending]]:
    followed[1].heard.clear()
    followed[1].breaks = False
    return followed[1].heard


def test_each_step_has_its_last_word(
    followed: tuple[dg.Definitions, Follower],
    heard: list[tuple[str, Ending]],
    instance: dg.DagsterInstance,
    engine: Engine,
) -> None:
    engine.answers["accounts"] = report("accounts", verdict="partial", rejected=1, planned=9)
    engine.answers["contacts"] = DestinationStillBusy("the job goes on")
    run(followed[0], instance)
    assert [(name, e.how, e.stops) for name, e in heard] == [
        ("crm/accounts", "partial", False),
        ("crm/contacts", "in_progress", False),
        ("crm/finish", "success", False),
    ]
    assert heard[0][1].report is engine.answers["accounts"]
    assert heard[1][1].text.startswith("crm/contacts is in progress: the job goes on")


def test_a_failure_says_whether_those_below_wait(
    followed: tuple[dg.Definitions, Follower],
    heard: list[tuple[str, Ending]],
    instance: dg.DagsterInstance,
    engine: Engine,
) -> None:
    engine.answers["accounts"] = LedgerLost("the ledger is new")
    run(followed[0], instance)
    engine.answers["accounts"] = KeyError("a defect")
    run(followed[0], instance)
    engine.answers["accounts"] = LeaseHeld("crm/accounts", "run 1234")
    run(followed[0], instance)
    assert [(name, e.how, e.stops) for name, e in heard] == [
        ("crm/accounts", "failed", True),
        ("crm/accounts", "failed", True),
        ("crm/accounts", "refused", False),
    ]
    assert heard[0][1].text.startswith("the ledger is new. contacts and finish wait")
    assert [type(e.error) for _, e in heard] == [LedgerLost, KeyError, LeaseHeld]


def test_one_who_breaks_harms_nobody(
    followed: tuple[dg.Definitions, Follower],
    heard: list[tuple[str, Ending]],
    instance: dg.DagsterInstance,
    engine: Engine,
) -> None:
    followed[1].breaks = True
    done = run(followed[0], instance)
    assert done.success
    assert [name for name, _ in heard] == ["crm/accounts", "crm/contacts", "crm/finish"]
    log = " ".join(e.user_message or "" for e in instance.all_logs(done.run_id))
    assert log.count("somebody could not be told of it: RuntimeError") == 3
    assert "hooks.example.com" not in log
