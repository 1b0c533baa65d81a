"""The sensor that tells what a run cannot say any more, ticked as the daemon does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.remote_origin import RegisteredCodeLocationOrigin

from seqsync_dagster.components import alert_sensor, alerting
from seqsync_dagster.components.sequence_component import SyncSequence
from seqsync_dagster.errors import JournalUnavailable, WarehouseError
from seqsync_dagster.journal import Journal, Scope, tables
from seqsync_dagster.notify.judging import Verdict
from seqsync_dagster_tests.notify.listener import Listener, nobody

from .location import PAIR, location, run
from .test_alerts import Clock, clock, forgetful, hook, ops
from .test_steps import Engine, engine, report
from .test_triggers import run_of

__all__ = ["clock", "engine", "forgetful", "hook", "ops"]

ALERTS = """
  alerts:
    - to: {env: TEST_OPS_URL}
      when: [failed, {held_longer_than: 2h}, {slower_than: 30m}, {no_run_in: 26h}, recovered]
  syncs:"""
OWN = """
      alerts: [{to: {env: TEST_HOOK_URL}, when: [{no_run_in: 1h}, recovered]}]
      object: Contact"""


@pytest.fixture(scope="module")
def defs() -> Iterator[dg.Definitions]:
    text = PAIR.replace("\n  syncs:", ALERTS, 1).replace("\n      object: Contact", OWN, 1)
    with location(crm=text) as made:
        yield made.load()


class Watch:
    """The sensor, with its cursor."""

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self._defs, self._instance = defs, instance
        self._cursor: str | None = None

    def tick(self) -> str:
        """What it says of its look."""
        with dg.SensorEvaluationContext(
            instance_ref=None,
            instance=self._instance,
            last_tick_completion_time=None,
            last_run_key=None,
            cursor=self._cursor,
            repository_name=None,
            repository_def=self._defs.get_repository_def(),
            code_location_origin=RegisteredCodeLocationOrigin("sales"),
        ) as context:
            done = self._defs.resolve_sensor_def("crm_watch").evaluate_tick(context)
        self._cursor = done.cursor
        assert not done.run_requests
        return str(done.skip_message)


@pytest.fixture
def watch(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    engine: Engine,
    ops: Listener,
    hook: Listener,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> Watch:
    monkeypatch.setenv("TEST_OPS_URL", ops.apprise)
    monkeypatch.setenv("TEST_HOOK_URL", hook.apprise)
    monkeypatch.setattr(alert_sensor, "utc_now", clock)
    clock.now = alerting.datetime.now(alerting.UTC)
    return Watch(defs, instance)


@pytest.fixture
def journal(engine: Engine, tmp_path: Path) -> Iterator[Journal]:
    with Journal(f"sqlite:///{tmp_path}/journal.sqlite") as made:
        yield made


def started(instance: dg.DagsterInstance) -> dg.DagsterRun:
    return instance.create_run_for_job(
        dg.GraphDefinition(name="crm").to_job(), tags={}, status=dg.DagsterRunStatus.STARTED
    )


def test_a_killed_run_is_told_once_and_the_next_one_that_ends_in_order_recovers(
    watch: Watch,
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    engine: Engine,
    ops: Listener,
    journal: Journal,
    clock: Clock,
) -> None:
    assert watch.tick() == "Nothing new to tell."
    killed = started(instance)
    journal.alerts_of("crm").began("accounts", killed.run_id, clock.now)
    watch.tick()
    assert ops.titles == [], "it is at work"
    instance.report_run_failed(killed)
    assert watch.tick() == "Messages delivered: 1."
    assert watch.tick() == "Nothing new to tell."
    assert ops.titles == ["crm/accounts: failed"]
    assert f"Run {killed.run_id[:8]} ended (failure), and crm/accounts had no last word" in ops.messages[0]
    assert run(defs, instance).success
    assert ops.titles[1:] == ["crm/accounts: recovered (failed)"]
    assert journal.alerts_of("crm").under_way() == [], "each step that ends says so"
    assert watch.tick() == "Nothing new to tell."


def test_a_run_that_hangs_is_told_while_it_is_there(
    watch: Watch, instance: dg.DagsterInstance, ops: Listener, journal: Journal, clock: Clock
) -> None:
    found = started(instance)
    journal.alerts_of("crm").began("accounts", found.run_id, clock.now)
    clock.now += timedelta(minutes=29)
    watch.tick()
    assert ops.titles == []
    clock.now += timedelta(minutes=2)
    watch.tick()
    watch.tick()
    assert ops.titles == ["crm/accounts: slow"]
    assert "It took 31m by now; told above 30m." in ops.messages[0]
    with journal.acquire(Scope("crm", "accounts"), f"run {found.run_id[:8]}"):
        with journal._database.write() as connection:
            connection.execute(tables.lease.update().values(expires_at=0))
        watch.tick()
        watch.tick()
    assert ops.titles[1:] == ["crm/accounts: failed"]
    assert "gives no sign of life any more" in ops.messages[1]


def test_a_killed_run_that_a_later_one_took_over_says_nothing_any_more(
    watch: Watch,
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    engine: Engine,
    ops: Listener,
    journal: Journal,
    clock: Clock,
) -> None:
    watch.tick()
    # Dagster takes it for at work, for ever.
    killed = started(instance)
    journal.alerts_of("crm").began("accounts", killed.run_id, clock.now)
    clock.now += timedelta(minutes=31)
    assert run(defs, instance).success
    assert watch.tick() == "Nothing new to tell."
    instance.report_run_canceled(killed)
    assert watch.tick() == "Nothing new to tell."
    assert ops.titles == []


def test_what_was_told_of_a_sync_that_is_taken_out_is_over(
    watch: Watch,
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    engine: Engine,
    ops: Listener,
    journal: Journal,
    clock: Clock,
) -> None:
    engine.answers["accounts"] = report("accounts", verdict="partial", held_pending=1)
    engine.answers["contacts"] = WarehouseError("no warehouse")
    assert not run(defs, instance).success
    assert ops.titles == ["crm/contacts: failed"]
    with journal._database.write() as connection:
        for sync in ("accounts", "contacts"):
            renamed = sa.update(tables.alert).where(tables.alert.c.sync == sync)
            connection.execute(renamed.values(sync=f"former_{sync}"))
    clock.now += timedelta(hours=3)
    watch.tick()
    assert ops.titles[1:] == ["crm/former_contacts: recovered (failed)"], "rows of no sync are not held for too long"
    assert "crm/former_contacts is no sync of crm any more" in ops.messages[1]
    assert journal.alerts_of("crm").told_of() == set()
    assert watch.tick() == "Nothing new to tell."


def test_a_run_that_fails_before_any_sync_is_told_of_the_sequence(
    watch: Watch, defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine, ops: Listener
) -> None:
    watch.tick()
    instance.add_run(run_of("crm", dg.DagsterRunStatus.FAILURE, "finance"))
    watch.tick()
    assert ops.titles == [], "another code location has a sequence of that name"
    instance.report_run_failed(started(instance))
    instance.add_run(run_of("crm", dg.DagsterRunStatus.SUCCESS, "finance"))
    watch.tick()
    watch.tick()
    assert ops.titles == ["crm: failed"]
    assert "No step of it has begun." in ops.messages[0]
    # What a sync has said itself is not said again.
    engine.answers["contacts"] = ValueError("a defect")
    run(defs, instance)
    watch.tick()
    assert ops.titles[1:] == ["crm/contacts: failed"]
    engine.answers["contacts"] = report("contacts", created=1)
    run(defs, instance)
    assert ops.titles[2:] == ["crm/contacts: recovered (failed)", "crm: recovered (failed)"]
    watch.tick()
    assert len(ops.titles) == 4


def test_no_run_and_rows_that_wait_meanwhile(
    watch: Watch,
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    engine: Engine,
    ops: Listener,
    hook: Listener,
    journal: Journal,
    clock: Clock,
) -> None:
    engine.answers["contacts"] = report("contacts", verdict="partial", held_missing=1)
    run(defs, instance)
    watch.tick()
    clock.now += timedelta(hours=1, minutes=1)
    watch.tick()
    assert (ops.titles, hook.titles) == ([], ["crm/contacts: no run"]), "the sync has a channel of its own"
    clock.now += timedelta(hours=1)
    [channel] = [c for _, c, _ in journal.alerts_of("crm").begun()]
    say = Verdict(watched=frozenset({"held_longer_than"}))
    taken_out = journal.alerts_of("crm").turn("leads", channel, clock.now - timedelta(hours=9), lambda _: say, str)
    assert taken_out == []
    watch.tick()
    assert ops.titles == ["crm/contacts: rows are held too long"], "and not of a sync that is in no file any more"
    clock.now += timedelta(hours=24)
    watch.tick()
    watch.tick()
    assert ops.titles[1:] == ["crm: no run"]
    assert "No run has ended for 1d 2h, the last one at " in ops.messages[1]
    engine.answers["contacts"] = report("contacts", created=1)
    run(defs, instance)
    assert ops.titles[2:] == ["crm/contacts: recovered (rows are held too long)", "crm: recovered (no run)"]
    assert hook.titles[1:] == ["crm/contacts: recovered (no run)"]


def test_what_could_not_be_delivered_is_tried_again_by_the_sensor(
    watch: Watch,
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    engine: Engine,
    ops: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine.answers["accounts"] = ValueError("a defect")
    with monkeypatch.context() as patch:
        patch.setenv("TEST_OPS_URL", f"json://127.0.0.1:{nobody()}")
        run(defs, instance)
        said = "Messages that could not be delivered and are tried again: 1. TEST_OPS_URL: it does not answer"
        assert watch.tick().startswith(said)
    assert watch.tick() == "Messages delivered: 1."
    assert ops.titles == ["crm/accounts: failed"]


def test_without_a_journal_it_says_so(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Journal:
        raise JournalUnavailable("The journal does not answer.")

    monkeypatch.setattr(SyncSequence, "open_journal", broken)
    assert watch.tick() == "The journal does not answer."
