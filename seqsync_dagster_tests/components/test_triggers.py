"""Ticks of the schedule and the sensor, evaluated by Dagster against real runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.utils import make_new_run_id

from seqsync_dagster import SyncSequence
from seqsync_dagster.components import triggers
from seqsync_dagster.errors import StateError
from seqsync_dagster.journal import Scope
from seqsync_dagster.journal.store import Journal

from .location import PAIR, location

A, B = dg.AssetKey(["raw", "accounts"]), dg.AssetKey(["raw", "contacts"])


def text(models: str) -> str:
    return PAIR.replace(
        "  syncs:", f'  runs_on:\n    - {{cron: "0 * * * *"}}\n    - {{models: {models}}}\n  syncs:', 1
    ).replace("table: crm.contacts", "table: crm.contacts\n      deps: [raw/contacts, raw/accounts]")


@pytest.fixture(scope="module", params=["all", "any"])
def defs(request: pytest.FixtureRequest) -> Iterator[dg.Definitions]:
    with location(crm=text(request.param)) as made:
        yield made.load()


@pytest.fixture(scope="module")
def both() -> Iterator[dg.Definitions]:
    with location(crm=text("all")) as made:
        yield made.load()


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Schedules open the instance of their context again, which one in memory does not allow."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


class Sensor:
    """A sensor as the daemon ticks it."""

    def __init__(
        self,
        defs: dg.Definitions,
        instance: dg.DagsterInstance,
        name: str = "crm_models",
        location: str | None = None,
    ) -> None:
        self.defs, self._instance, self._name, self._location = defs, instance, name, location
        self.cursor: str | None = None

    def tick(self) -> str | dg.RunRequest:
        """The run that was asked for, or why none was."""
        with dg.SensorEvaluationContext(
            instance_ref=None,
            instance=self._instance,
            last_tick_completion_time=None,
            last_run_key=None,
            cursor=self.cursor,
            repository_name=None,
            repository_def=self.defs.get_repository_def(),
            code_location_origin=RegisteredCodeLocationOrigin(self._location) if self._location else None,
        ) as context:
            done = self.defs.resolve_sensor_def(self._name).evaluate_tick(context)
        self.cursor = done.cursor or self.cursor
        assert len(done.run_requests or []) <= 1
        return done.run_requests[0] if done.run_requests else str(done.skip_message)


def build(
    instance: dg.DagsterInstance,
    *keys: dg.AssetKey,
    job: str = "dbt_nightly",
    where: str | None = None,
    selected: frozenset[dg.AssetKey] | None = None,
) -> None:
    """Somebody's run that materialises these models, in the code location `where`."""
    made = run_of(job, dg.DagsterRunStatus.SUCCESS, where, selected)
    instance.add_run(made)
    for key in keys:
        event = dg.AssetMaterialization(key)
        instance.report_dagster_event(_materialised(event), made.run_id)


def _materialised(event: dg.AssetMaterialization) -> dg.DagsterEvent:
    from dagster._core.events import StepMaterializationData

    return dg.DagsterEvent(
        event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
        job_name="dbt",
        event_specific_data=StepMaterializationData(event),
    )


def run_of(
    job: str,
    status: dg.DagsterRunStatus,
    where: str | None = None,
    selected: frozenset[dg.AssetKey] | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.DagsterRun:
    """A run as Dagster keeps it, of the code location `where`, or of one that it was not told."""
    return dg.DagsterRun(
        job_name=job,
        run_id=make_new_run_id(),
        status=status,
        remote_job_origin=_origin(where, job) if where else None,
        asset_selection=selected,
        tags=tags,
    )


def _origin(location: str, job: str) -> RemoteJobOrigin:
    return RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "__repository__"), job)


def start(instance: dg.DagsterInstance, event: str = "RUN_START") -> str:
    # Where the queue would find the job again; nothing takes it from the queue here.
    job = dg.GraphDefinition(name="crm").to_job()
    run_id = instance.create_run_for_job(job, remote_job_origin=_origin("nowhere", "crm")).run_id
    instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType[event].value, "crm"), run_id)
    return run_id


def end(instance: dg.DagsterInstance, run_id: str) -> None:
    found = instance.get_run_by_id(run_id)
    assert found
    instance.report_run_canceled(found)


def test_one_build_of_all_models_is_one_run(both: dg.Definitions, instance: dg.DagsterInstance) -> None:
    sensor = Sensor(both, instance)
    build(instance, A, B)
    assert sensor.tick() == "0 of 2 models are new; waiting for raw/accounts, raw/contacts."
    build(instance, A)
    build(instance, A)
    assert sensor.tick() == "1 of 2 models are new; waiting for raw/contacts."
    build(instance, B)
    request = sensor.tick()
    assert isinstance(request, dg.RunRequest)
    assert request.tags[triggers.TRIGGER] == "models raw/accounts, raw/contacts"
    assert {key.to_user_string() for key in request.asset_selection or []} == {
        "crm/accounts",
        "crm/contacts",
        "crm/finish",
    }
    assert isinstance(sensor.tick(), str)
    build(instance, A, B)
    again = sensor.tick()
    assert isinstance(again, dg.RunRequest)
    assert again.run_key and again.run_key != request.run_key
    assert len(again.run_key) == 64, "however many models there are: PostgreSQL's index of tags takes 2,700 bytes"
    assert isinstance(sensor.tick(), str)


def test_own_builds_are_no_news(defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    sensor = Sensor(defs, instance)
    sensor.tick()
    build(instance, A, B, job="crm")
    assert isinstance(sensor.tick(), str)
    # A model that somebody built and the sequence built again is no news either.
    build(instance, A)
    build(instance, A, job="crm")
    assert isinstance(sensor.tick(), str)


def test_the_same_job_of_another_code_location_is_somebody_else(
    both: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    sensor = Sensor(both, instance, location="sales")
    sensor.tick()
    build(instance, A, B, job="crm", where="sales")
    assert isinstance(sensor.tick(), str)
    build(instance, A, B, job="crm", where="finance")
    assert isinstance(sensor.tick(), dg.RunRequest)


def test_models_and_syncs_materialised_together_by_hand_are_no_news(
    defs: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    sensor = Sensor(defs, instance)
    sensor.tick()
    syncs = frozenset(dg.AssetKey(["crm", name]) for name in ("accounts", "contacts", "finish"))
    build(instance, A, B, job="__ASSET_JOB", selected=syncs | {A, B})
    assert isinstance(sensor.tick(), str)
    build(instance, A, B, job="__ASSET_JOB", selected=frozenset({A, B, dg.AssetKey(["crm", "accounts"])}))
    assert isinstance(sensor.tick(), dg.RunRequest)


def test_a_model_that_was_never_built_is_waited_for(both: dg.Definitions, instance: dg.DagsterInstance) -> None:
    sensor = Sensor(both, instance)
    build(instance, A)
    sensor.tick()
    for _ in range(30):
        build(instance, A)
    assert sensor.tick() == "1 of 2 models are new; waiting for raw/contacts (never built)."
    build(instance, B)
    assert isinstance(sensor.tick(), dg.RunRequest)


def test_a_model_that_comes_later_is_old_until_it_is_built_again(instance: dg.DagsterInstance) -> None:
    with location(crm=text("any")) as made:
        whole = made.load()
        made.write("crm", text("any").replace("[raw/contacts, raw/accounts]", "raw/accounts"))
        sensor = Sensor(made.load(), instance)
    build(instance, A, B)
    sensor.tick()
    sensor.defs = whole
    assert sensor.tick() == "0 of 2 models are new; waiting for raw/accounts, raw/contacts."
    build(instance, B)
    request = sensor.tick()
    assert isinstance(request, dg.RunRequest) and request.tags[triggers.TRIGGER] == "models raw/contacts"


def test_any_model(instance: dg.DagsterInstance) -> None:
    with location(crm=text("any")) as made:
        sensor = Sensor(made.load(), instance)
        sensor.tick()
        build(instance, B)
        assert isinstance(sensor.tick(), dg.RunRequest)
        assert isinstance(sensor.tick(), str)


def test_news_during_a_run_waits_for_its_end(both: dg.Definitions, instance: dg.DagsterInstance) -> None:
    sensor = Sensor(both, instance)
    sensor.tick()
    running = start(instance)
    build(instance, A, B)
    assert sensor.tick() == f"crm is already running: run {running[:8]} (started)."
    end(instance, running)
    assert isinstance(sensor.tick(), dg.RunRequest)


def schedule_tick(defs: dg.Definitions, instance: dg.DagsterInstance) -> str | dg.RunRequest:
    with dg.build_schedule_context(instance, datetime(2026, 3, 1, 12, tzinfo=UTC)) as context:
        done = defs.resolve_schedule_def("crm_schedule").evaluate_tick(context)
    return done.run_requests[0] if done.run_requests else str(done.skip_message)


def test_schedule_runs_the_whole_job(both: dg.Definitions, stored: dg.DagsterInstance) -> None:
    request = schedule_tick(both, stored)
    assert isinstance(request, dg.RunRequest)
    assert request.asset_selection is None
    assert request.run_key == "2026-03-01T12:00:00+00:00"
    assert request.tags[triggers.TRIGGER] == "schedule"


def test_a_schedule_that_is_on_from_the_start_and_leaves_the_models_alone(stored: dg.DagsterInstance) -> None:
    trigger = '{cron: "0 * * * *"'
    with location(crm=text("all").replace(trigger, f"{trigger}, enabled: true, build: false")) as made:
        defs = made.load()
    assert defs.resolve_schedule_def("crm_schedule").default_status == dg.DefaultScheduleStatus.RUNNING
    assert defs.resolve_sensor_def("crm_models").default_status == dg.DefaultSensorStatus.STOPPED
    request = schedule_tick(defs, stored)
    assert isinstance(request, dg.RunRequest)
    assert [key.to_user_string() for key in request.asset_selection or []] == [
        "crm/accounts",
        "crm/contacts",
        "crm/finish",
    ]


@pytest.mark.parametrize(("event", "status"), [("RUN_ENQUEUED", "queued"), ("RUN_START", "started")])
def test_schedule_skips_while_a_run_is_active(
    both: dg.Definitions, stored: dg.DagsterInstance, event: str, status: str
) -> None:
    running = start(stored, event)
    assert schedule_tick(both, stored) == f"crm is already running: run {running[:8]} ({status})."
    end(stored, running)
    assert isinstance(schedule_tick(both, stored), dg.RunRequest)


def test_a_dead_run_does_not_block_for_ever(instance: dg.DagsterInstance) -> None:
    running = start(instance)
    soon = datetime.now(UTC).timestamp()
    later = soon + timedelta(minutes=11).total_seconds()
    said = f"crm is already running: run {running[:8]} (started)."

    def no_answer() -> str | None:
        raise StateError("the journal does not answer.")

    assert triggers.busy(instance, "crm", lambda: None, soon) == said
    assert triggers.busy(instance, "crm", lambda: None, later) is None
    assert triggers.busy(instance, "crm", lambda: "crm/x is held by run 1", later) == said
    assert triggers.busy(instance, "crm", no_answer, later) == (
        f"{said} Whether it is alive cannot be told: the journal does not answer."
    )
    assert triggers.busy(instance, "other", no_answer, later) is None


def test_a_dead_run_that_another_one_has_outlived_blocks_nobody(instance: dg.DagsterInstance) -> None:
    killed = start(instance)
    later = start(instance)
    assert triggers.busy(instance, "crm", lambda: None) is not None
    instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, "crm"), later)
    assert triggers.busy(instance, "crm", lambda: None) is None
    found = instance.get_run_by_id(killed)
    assert found and found.status == dg.DagsterRunStatus.STARTED
    held = triggers.busy(instance, "crm", lambda: "crm/x is held by run 1")
    assert held == f"crm is already running: run {killed[:8]} (started)."


def test_a_queued_run_counts_however_old(instance: dg.DagsterInstance) -> None:
    start(instance, "RUN_ENQUEUED")
    assert triggers.busy(instance, "crm", lambda: None, datetime.now(UTC).timestamp() + 86_400)


def test_leases_are_asked_for_in_the_journal(tmp_path: Path) -> None:
    from seqsync_dagster import Warehouse
    from seqsync_dagster.warehouse.settings import WarehouseSettings

    url = f"sqlite:///{tmp_path / 'journal.sqlite'}"
    settings = WarehouseSettings.model_validate({"url": "duckdb:///w.duckdb", "state": {"journal": url}})
    warehouse = Warehouse(settings, tmp_path)
    with location(crm=PAIR) as made:
        sequence = made.component("crm")
    assert isinstance(sequence, SyncSequence)
    assert sequence.held_by(warehouse) is None
    with Journal(url) as journal:
        with journal.acquire(Scope("crm", "contacts"), "run 1234abcd"):
            assert sequence.held_by(warehouse) == "crm/contacts is held by run 1234abcd"
        with journal.acquire(Scope("other", "contacts"), "run 1234abcd"):
            assert sequence.held_by(warehouse) is None


def test_the_cursor_is_small_and_readable(both: dg.Definitions, instance: dg.DagsterInstance) -> None:
    sensor = Sensor(both, instance)
    build(instance, A, B)
    sensor.tick()
    assert set(json.loads(str(sensor.cursor))) == {"raw/accounts", "raw/contacts"}
