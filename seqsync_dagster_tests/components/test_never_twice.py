"""Schedule, sensor, job and hand at once: one run is at work on a sync, and the others end politely and name it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import dagster as dg
import pytest

from seqsync_dagster import SyncSequence, Warehouse
from seqsync_dagster.components import triggers
from seqsync_dagster.journal import Scope
from seqsync_dagster_tests.emulator_process import EmulatorProcess, emulator  # noqa: F401
from seqsync_dagster_tests.journal.actor import Actor

from .location import Location, run
from .test_error_policy import KEYS, SEQUENCE, Seen, fill, org, with_a_schema  # noqa: F401
from .test_triggers import Sensor, build, end, schedule_tick, start, stored  # noqa: F401


@pytest.fixture
def made() -> Iterator[Location]:
    with with_a_schema() as made:
        yield made


TRIGGERS = "  runs_on:\n    - {cron: '0 * * * *'}\n    - {models: all}\n  syncs:"


@pytest.fixture
def defs(made: Location, org: EmulatorProcess) -> dg.Definitions:  # noqa: F811
    fill(made, rows=3, bad=0)
    text = SEQUENCE.replace("ERRORS", "{}").replace("  syncs:", TRIGGERS)
    made.write("crm", text.replace("table: crm.people", "table: crm.people\n      deps: raw/people"))
    return made.load()


@pytest.fixture
def holder(made: Location, defs: dg.Definitions) -> Iterator[Actor]:
    """A process that syncs accounts by hand, as run 1234abcd."""
    sequence, warehouse = made.component("crm"), made.component("warehouse")
    assert isinstance(sequence, SyncSequence) and isinstance(warehouse, Warehouse)
    with Actor(warehouse.journal_url(), "crm", "accounts") as actor:
        assert actor.answer() == "ready"
        assert actor.ask("acquire", holder="run 1234abcd") == 1
        yield actor


def test_whoever_comes_second_ends_politely_and_names_the_first(
    defs: dg.Definitions,
    holder: Actor,
    stored: dg.DagsterInstance,  # noqa: F811
    org: EmulatorProcess,  # noqa: F811
) -> None:
    at_work = "crm is at work already: crm/accounts is held by run 1234abcd."
    sensor = Sensor(defs, stored)
    sensor.tick()
    build(stored, dg.AssetKey(["raw", "people"]))
    # No run of the job is known: what is at work was started by hand, or elsewhere.
    assert schedule_tick(defs, stored) == at_work
    assert sensor.tick() == at_work
    org.reset_calls()
    for job, select in (("crm", None), ("__ASSET_JOB", [KEYS["accounts"], KEYS["workspaces"]])):
        seen = Seen(stored, run(defs, stored, job=job, select=select))
        assert (seen.status, seen.tags["refused"]) == ("CANCELED", "held by run 1234abcd")
        assert seen.materialised == [] and "stopped" not in seen.tags
        assert "outcome" not in seen.tags, "it has none: another run does its work"
    assert org.calls()["row_bearing"] == 0
    # The holder is killed: its lease is free at once on this host, and the news is still news.
    holder.kill()
    holder.process.wait()
    assert isinstance(schedule_tick(defs, stored), dg.RunRequest)
    assert isinstance(sensor.tick(), dg.RunRequest)
    assert Seen(stored, run(defs, stored)).status == "SUCCESS"


def test_a_killed_run_that_dagster_calls_started_is_taken_over(
    made: Location,
    defs: dg.Definitions,
    holder: Actor,
    instance: dg.DagsterInstance,
) -> None:
    killed = start(instance)
    sequence, warehouse = made.component("crm"), made.component("warehouse")
    assert isinstance(sequence, SyncSequence) and isinstance(warehouse, Warehouse)
    silent = time.time() + triggers.SILENT_S + 60

    def busy() -> str | None:
        return triggers.busy(instance, "crm", lambda: sequence.held_by(warehouse), silent)

    assert busy() == f"crm is already running: run {killed[:8]} (started).", "silent for long, but alive"
    holder.kill()
    holder.process.wait()
    assert busy() is None
    done = run(defs, instance)
    assert done.success
    found = instance.get_run_by_id(killed)
    assert found and found.status == dg.DagsterRunStatus.STARTED, "for ever, as far as Dagster knows"
    with sequence.open_journal(warehouse) as journal, journal.acquire(Scope("crm", "accounts"), "run 2") as lease:
        assert lease.epoch == 3, "the killed run's, the one that took over, and this one"
