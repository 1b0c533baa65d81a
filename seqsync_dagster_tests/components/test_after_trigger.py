"""A sequence after another one, of this code location or another: real runs' ends in Dagster's own records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import dagster as dg
import pytest

from seqsync_dagster.components.triggers import TRIGGER, after

from .location import PAIR, location
from .test_triggers import Sensor, run_of

RUNS_ON = """  runs_on:
    - {after: crm}
    - {after: crm, location: sales, when: finished, build: false}
  syncs:"""
SECOND = PAIR.replace("name: crm\n", "name: billing\n", 1).replace("  syncs:", RUNS_ON, 1)
CRM, FINISH = dg.AssetKey(["crm", "accounts"]), dg.AssetKey(["crm", "finish"])


@pytest.fixture(scope="module")
def defs() -> Iterator[dg.Definitions]:
    with location(crm=PAIR, billing=SECOND) as made:
        yield made.load()


class Ends:
    """Runs of sequences that come to an end."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance

    def __call__(
        self,
        event: str = "RUN_SUCCESS",
        *,
        job: str = "crm",
        where: str | None = None,
        only: frozenset[dg.AssetKey] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        run = self.begin(job, where, only, tags)
        self.end(run, event, job)
        return run

    def begin(
        self,
        job: str = "crm",
        where: str | None = None,
        only: frozenset[dg.AssetKey] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        run = run_of(job, dg.DagsterRunStatus.STARTED, where, only, tags)
        self._instance.add_run(run)
        return run.run_id

    def end(self, run: str, event: str = "RUN_SUCCESS", job: str = "crm") -> None:
        self._instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType[event].value, job), run)


@pytest.fixture
def ends(instance: dg.DagsterInstance) -> Ends:
    return Ends(instance)


@pytest.fixture
def sensor(defs: dg.Definitions, instance: dg.DagsterInstance, ends: Ends) -> Sensor:
    """A sensor that had its first tick."""
    ends()
    made = Sensor(defs, instance, "billing_after_crm")
    assert made.tick() == "Runs of crm that end from now on count."
    return made


NOTHING = "No run of crm has succeeded since the last look."


def test_one_end_is_one_run(sensor: Sensor, ends: Ends) -> None:
    assert sensor.tick() == NOTHING, "what had ended before the first tick is old"
    run = ends()
    request = sensor.tick()
    assert isinstance(request, dg.RunRequest)
    assert request.tags[TRIGGER] == f"after crm run {run[:8]}"
    assert request.asset_selection is None, "the models are built too"
    assert sensor.tick() == NOTHING


def test_what_is_no_end_of_it(sensor: Sensor, ends: Ends) -> None:
    ends("RUN_FAILURE")
    ends("RUN_CANCELED")
    ends(job="other")
    assert sensor.tick() == NOTHING
    part = ends(only=frozenset([CRM]))
    assert sensor.tick() == f"Run {part[:8]} of crm does not count: it was of some syncs only, without crm/finish."
    ends(only=frozenset([CRM, FINISH]))
    ends(only=frozenset([CRM]))
    assert isinstance(sensor.tick(), dg.RunRequest), "syncs without models, to their end; and a part of them later"


def test_several_ends_and_one_that_began_earlier(sensor: Sensor, ends: Ends) -> None:
    long = ends.begin()
    ends()
    last = ends()
    request = sensor.tick()
    assert isinstance(request, dg.RunRequest) and request.run_key == last
    ends.end(long)
    request = sensor.tick()
    assert isinstance(request, dg.RunRequest) and request.run_key == long
    assert sensor.tick() == NOTHING


def test_many_ends_of_others_between_two_ticks(sensor: Sensor, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(after, "_PAGE", 2)
    monkeypatch.setattr(after, "_PAGES", 3)
    for _ in range(7):
        ends(job="other")
    ends()
    assert sensor.tick() == NOTHING, "a look is bounded"
    assert isinstance(sensor.tick(), dg.RunRequest), "and the next one goes on"


def test_news_during_a_run_waits_for_its_end(sensor: Sensor, ends: Ends, instance: dg.DagsterInstance) -> None:
    running = ends.begin("billing")
    ends()
    assert sensor.tick() == f"billing is already running: run {running[:8]} (started)."
    ends.end(running, job="billing")
    assert isinstance(sensor.tick(), dg.RunRequest)


def test_another_code_location(defs: dg.Definitions, instance: dg.DagsterInstance, ends: Ends) -> None:
    sensor = Sensor(defs, instance, "billing_after_crm_sales", location="finance")
    assert sensor.tick() == "Runs of crm in the code location sales that end from now on count."
    assert sensor.tick() == (
        "Dagster has never seen a run of crm in the code location sales. Unless it is new, the name is wrong."
    )
    here = ends(where="finance")
    assert sensor.tick() == (
        f"Run {here[:8]} of crm does not count: it is of the code location finance, and not of sales."
    )
    ends("RUN_FAILURE", where="sales")
    kept = json.loads(sensor.cursor or "{}")
    sensor.cursor = json.dumps({"PIPELINE_SUCCESS": kept["PIPELINE_SUCCESS"]})
    assert "has ended since" in str(sensor.tick()), "when: finished is new, so failures before it are old"
    ends("RUN_FAILURE", where="sales")
    request = sensor.tick()
    assert isinstance(request, dg.RunRequest), "finished: in success or failure"
    assert {key.path[0] for key in request.asset_selection or []} == {"billing"}, "build: false"
    assert request.tags[after.AFTER] == "crm@sales"
    nothing = "No run of crm in the code location sales has ended since the last look."
    ends("RUN_CANCELED", where="sales")
    assert sensor.tick() == nothing
    ends()
    assert isinstance(sensor.tick(), dg.RunRequest), "dagster job execute says no location"
    # Over code locations a circle shows in its runs only.
    circle = ends(where="sales", tags={after.AFTER: "billing@finance, plans"})
    assert sensor.tick() == (
        f"Run {circle[:8]} of crm does not count: it was started after billing itself (billing@finance, plans, "
        "crm@sales), and that would go on for ever."
    )
    ends(where="sales", tags={after.AFTER: "billing@elsewhere"})
    assert isinstance(sensor.tick(), dg.RunRequest), "another sequence of the same name"
