"""A sequence at even intervals: on its grid, once for all that was missed, and never beside itself."""

from __future__ import annotations

import time
from collections.abc import Iterator

import dagster as dg
import pytest

from seqsync_dagster.components.triggers import TRIGGER
from seqsync_dagster.components.triggers.interval import start_of_interval
from seqsync_dagster.sequence.triggers import IntervalTrigger

from .location import PAIR, location
from .test_triggers import Sensor, end, start

#: 2026-03-01 12:00 UTC.
NOON = 1_772_366_400


@pytest.fixture(scope="module")
def defs() -> Iterator[dg.Definitions]:
    with location(crm=PAIR.replace("  syncs:", "  runs_on:\n    - {every: 45m, enabled: true}\n  syncs:", 1)) as made:
        yield made.load()


def test_it_runs_when_switched_on_and_then_says_when_next(defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    assert defs.resolve_sensor_def("crm_every").default_status == dg.DefaultSensorStatus.RUNNING
    sensor = Sensor(defs, instance, "crm_every")
    running = start(instance)
    assert sensor.tick() == f"crm is already running: run {running[:8]} (started)."
    end(instance, running)
    request = sensor.tick()
    assert isinstance(request, dg.RunRequest)
    assert request.asset_selection is None, "the models are built too"
    assert request.tags[TRIGGER] == "every 45m"
    assert str(sensor.tick()).startswith("The next run is due in ")
    # While a run takes longer than the interval, what became due is kept.
    sensor.cursor = str(int(time.time()) - 100 * 60)
    running = start(instance)
    assert sensor.tick() == f"crm is already running: run {running[:8]} (started)."
    end(instance, running)
    assert isinstance(sensor.tick(), dg.RunRequest)
    assert isinstance(sensor.tick(), str)


@pytest.mark.parametrize(
    ("passed", "began", "reason"),
    [
        (0, NOON, "The next run is due in 45m, at 2026-03-01 12:45 UTC: every 45m since 2026-03-01 12:00 UTC."),
        (
            44 * 60 + 1,
            NOON,
            "The next run is due in 59s, at 2026-03-01 12:45 UTC: every 45m since 2026-03-01 12:00 UTC.",
        ),
        (45 * 60, NOON + 45 * 60, None),
        (45 * 60 + 29, NOON + 45 * 60, None),
        (100 * 60, NOON + 90 * 60, None),
        (-5, NOON - 5, None),
    ],
)
def test_a_late_tick_moves_no_later_one(passed: int, began: int, reason: str | None) -> None:
    trigger = IntervalTrigger(every="45m")
    assert start_of_interval(str(NOON), trigger, NOON + passed) == (began, reason)


def test_units() -> None:
    assert [IntervalTrigger(every=e).interval.total_seconds() for e in ("1m", "2h", "3d", "1h30m")] == [
        60,
        7200,
        259_200,
        5400,
    ]
