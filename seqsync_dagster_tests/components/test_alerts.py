"""Alerts of real runs, to real servers: once per change, and never in the way of a sync."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from seqsync_dagster.components import alerting
from seqsync_dagster.components.sequence_component import SyncSequence
from seqsync_dagster.components.warehouse_component import Warehouse
from seqsync_dagster.engine.report import DriftReport, FinishReport, RowProblem
from seqsync_dagster.errors import DestinationUnreachable, GuardTripped, JournalUnavailable, LeaseHeld
from seqsync_dagster.notify import outgoing
from seqsync_dagster_tests.notify.listener import Listener, listening, nobody

from .location import PAIR, location, run
from .test_steps import Engine, engine, report

__all__ = ["engine"]

ALERTS = """
  alerts:
    - to: {env: TEST_OPS_URL}
      when:
        - failed
        - guarded
        - rejected: {percent: 10, min_rows: 2}
        - held_longer_than: 2h
        - slower_than: 1h
        - drift
        - full_resync
        - recovered
      runbook: https://wiki.example.com/crm
    - webhook: {url: {env: TEST_HOOK_URL}, secret: {env: TEST_HOOK_SECRET}}
      when: failed
      events: [started, plan_ready, finished]
  syncs:"""
LINKS = """
      links: {runbook: https://wiki.example.com/contacts}
      object: Contact"""
SECRET = "s3cret of ours"
REQUIRED = "REQUIRED_FIELD_MISSING"


def refused(*keys: str, message: str = "Required fields are missing: [Name]") -> tuple[RowProblem, ...]:
    return tuple(RowProblem(key, "rejected", REQUIRED, message) for key in keys)


class Clock:
    """Time that passes when it is told to."""

    now = datetime(2026, 5, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(scope="module")
def defs() -> Iterator[dg.Definitions]:
    text = PAIR.replace("\n  syncs:", ALERTS, 1).replace("\n      object: Contact", LINKS, 1)
    with location(crm=text) as made:
        yield made.load()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(alerting, "utc_now", made)
    return made


@pytest.fixture
def ops() -> Iterator[Listener]:
    with listening() as made:
        yield made


@pytest.fixture
def hook() -> Iterator[Listener]:
    with listening() as made:
        yield made


@pytest.fixture(autouse=True)
def addresses(ops: Listener, hook: Listener, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_OPS_URL", f"{ops.apprise}/token")
    monkeypatch.setenv("TEST_HOOK_URL", f"{hook.url}/hooks/token")
    monkeypatch.setenv("TEST_HOOK_SECRET", SECRET)
    monkeypatch.setenv("SEQSYNC_UI_URL", "https://dagster.example.com/")


def log_of(instance: dg.DagsterInstance, done: dg.JobExecutionResult) -> str:
    return "\n".join(e.user_message or "" for e in instance.all_logs(done.run_id))


def failed_channels(instance: dg.DagsterInstance, done: dg.JobExecutionResult) -> str | None:
    found = instance.get_run_by_id(done.run_id)
    assert found
    return found.tags.get(alerting.ALERT_FAILED)


def test_fail_fail_recover_are_two_messages(
    defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine, ops: Listener, clock: Clock
) -> None:
    good, engine.answers["accounts"] = engine.answers["accounts"], DestinationUnreachable("no answer from the org")
    first = run(defs, instance)
    clock.now += timedelta(hours=1)
    run(defs, instance)
    assert ops.titles == ["crm/accounts: failed"]
    assert ops.messages == [
        "no answer from the org. contacts and finish wait until a run of accounts ends in order. Failing since "
        + re.findall(r"Failing since (.*)", ops.messages[0])[0]
        + "\n\nFailed since 2026-05-01 12:00:00 UTC\nWaiting: contacts, finish\n"
        f"Run: https://dagster.example.com/runs/{first.run_id}\n"
        "Owners: team:revops\nRunbook: https://wiki.example.com/crm"
    ]
    clock.now += timedelta(hours=2, minutes=20)
    engine.answers["accounts"] = good
    done = run(defs, instance)
    run(defs, instance)
    assert ops.titles == ["crm/accounts: failed", "crm/accounts: recovered (failed)"]
    assert (
        "Failed since 2026-05-01 12:00:00 UTC, over after 3h 20m\nRows: 100 model, 100 planned, 100 created\n"
        in (ops.messages[1])
    )
    assert failed_channels(instance, done) is None


def test_refused_rows_are_told_above_the_limit_and_stay_told_until_they_are_mended(
    defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine, ops: Listener
) -> None:
    def rejected(number: int, **more: int) -> None:
        problems = (*refused(*(str(n) for n in range(number - 1))), *refused("k", message="Too long."))
        engine.answers["contacts"] = report("contacts", verdict="partial", problems=problems, rejected=number, **more)

    rejected(2, created=8, model=10)
    run(defs, instance)
    assert ops.titles == [], "20% of them, and not more than 2 rows"
    rejected(3, created=17, model=20)
    run(defs, instance)
    assert ops.titles == ["crm/contacts: rows are refused"]
    assert "Refused rows: 3; new ones: 3 of 20 sent, told above 10% (and more than 2 rows)." in ops.messages[0]
    assert (
        "Rows: 20 model, 17 created, 3 rejected\nErrors:\n"
        f"- {REQUIRED}: Required fields are missing: [Name] (2 rows, e.g. 0)\n- {REQUIRED}: Too long. (row k)\n"
        in ops.messages[0]
    )
    assert "Owners: jo@example.com" in ops.messages[0], "the sync's own"
    assert "Runbook: https://wiki.example.com/crm" in ops.messages[0], "the alert's own counts"
    # They wait for their next try, and a run that sends nothing else is none the better.
    engine.answers["contacts"] = report("contacts", verdict="partial", waiting=3, model=20)
    run(defs, instance)
    assert len(ops.titles) == 1
    # A row that somebody named went, and says nothing of the others.
    engine.answers["contacts"] = replace(report("contacts", created=1), some_rows=True)
    run(defs, instance)
    assert len(ops.titles) == 1
    engine.answers["contacts"] = report("contacts", verdict="partial", waiting=2, created=1, model=20)
    run(defs, instance)
    assert ops.titles[1:] == ["crm/contacts: recovered (rows are refused)"]


def test_a_guard_is_one_message_that_says_how_to_go_on(
    defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine, ops: Listener, hook: Listener
) -> None:
    good = engine.answers["contacts"]
    engine.answers["contacts"] = GuardTripped("60 of 100 records would be updated, over max_updated 50%.", "p17")
    run(defs, instance)
    engine.answers["contacts"] = good
    run(defs, instance)
    assert ops.titles == ["crm/contacts: stopped by a guard", "crm/contacts: recovered (stopped by a guard)"]
    assert "start the run again with the config approve_plan: p17." in ops.messages[0]
    # For who asked for failures only, a guard is one; and recovery was not asked for.
    [told] = [e for e in hook.events if e["type"].startswith("alert")]
    assert (told["type"], told["sync"], told["waiting"]) == ("alert.raised", "contacts", ["finish"])
    assert told["runbook"] == "https://wiki.example.com/contacts"


def test_a_full_resync_is_told_once_with_its_reason(
    defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine, ops: Listener
) -> None:
    good = engine.answers["accounts"]
    assert not isinstance(good, Exception | FinishReport)
    engine.answers["accounts"] = replace(good, resync_reason="the mapping has changed: Name")
    run(defs, instance)
    run(defs, instance)
    engine.answers["accounts"] = good
    run(defs, instance)
    assert ops.titles == ["crm/accounts: full resync"], "its end is no news of anything mended"
    assert "Every row is due: the mapping has changed: Name." in ops.messages[0]


def test_held_rows_are_told_when_they_have_waited_too_long(
    defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine, ops: Listener, clock: Clock
) -> None:
    engine.answers["contacts"] = report("contacts", verdict="partial", held_missing=7)
    run(defs, instance)
    clock.now += timedelta(minutes=119)
    run(defs, instance)
    assert ops.titles == []
    clock.now += timedelta(minutes=2)
    run(defs, instance)
    run(defs, instance)
    assert ops.titles == ["crm/contacts: rows are held too long"]
    assert "7 rows are held, and there were some at every run for 2h and longer." in ops.messages[0]
    assert "since 2026-05-01 12:00:00 UTC" in ops.messages[0]
    engine.answers["contacts"] = report("contacts", created=7)
    run(defs, instance)
    assert ops.titles[1:] == ["crm/contacts: recovered (rows are held too long)"]


def test_those_who_wait_and_those_who_step_aside_say_nothing(
    defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine, ops: Listener, hook: Listener
) -> None:
    engine.answers["accounts"] = LeaseHeld("crm/accounts is being synced by run 1234abcd.", "run 1234abcd")
    run(defs, instance)
    assert ops.titles == []
    engine.answers["accounts"] = DestinationUnreachable("no answer")
    run(defs, instance)
    run(defs, instance, select=[dg.AssetKey(["crm", "contacts"])])
    assert ops.titles == ["crm/accounts: failed"]
    assert [(e["sync"], e["outcome"], e["error"]) for e in hook.events if e["type"] == "step.finished"] == [
        ("accounts", "refused", "LeaseHeld"),
        ("accounts", "failed", "DestinationUnreachable"),
        ("contacts", "failed", "SequenceStopped"),
    ]


def test_machines_follow_a_run_and_know_who_sends(
    defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine, hook: Listener
) -> None:
    done = run(defs, instance)
    assert [(e["type"], e["sync"]) for e in hook.events] == [
        (kind, sync) for sync in ("accounts", "contacts", "finish") for kind in ("step.started", "step.finished")
    ]
    first = hook.events[1]
    assert (first["version"], first["sequence"], first["outcome"]) == (1, "crm", "success")
    assert first["counts"] == {"model": 100, "planned": 100, "created": 100}
    assert first["run"] == {"id": done.run_id, "url": f"https://dagster.example.com/runs/{done.run_id}"}
    for got in hook.got:
        signed = f"{got.headers['Seqsync-Timestamp']}.".encode() + got.body
        right = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        assert got.headers["Seqsync-Signature"] == f"v1={right}"
        assert got.headers["Seqsync-Id"] == got.json["id"]
        assert got.path == "/hooks/token"


def test_a_dead_channel_is_visible_and_harmless_and_what_it_missed_comes_later(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    engine: Engine,
    ops: Listener,
    hook: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good, engine.answers["accounts"] = engine.answers["accounts"], GuardTripped("Too many.", "p1")
    hook.status = 500
    with monkeypatch.context() as patch:
        patch.setenv("TEST_OPS_URL", f"json://127.0.0.1:{nobody()}/token")
        dead = run(defs, instance)
        assert "crm/accounts: somebody could not be told, and the sync goes on all the same." in log_of(instance, dead)
        assert "TEST_OPS_URL: it does not answer, or" in log_of(instance, dead)
        assert "TEST_HOOK_URL: it answered 500." in log_of(instance, dead)
        assert failed_channels(instance, dead) == "TEST_HOOK_URL, TEST_OPS_URL"
        engine.answers["accounts"] = good
        again = run(defs, instance)
        assert again.success
        assert failed_channels(instance, again) == "TEST_HOOK_URL, TEST_OPS_URL"
        assert "token" not in log_of(instance, dead) + log_of(instance, again)
    # A variable that is not set is another way of being dead.
    with monkeypatch.context() as patch:
        patch.delenv("TEST_OPS_URL")
        unset = run(defs, instance)
        assert unset.success
        assert "read from the environment variable TEST_OPS_URL, which is not set" in log_of(instance, unset)
    with monkeypatch.context() as patch:
        patch.setenv("TEST_OPS_URL", "slak://token")
        assert "apprise knows no slak://. Did you mean 'slack'?" in log_of(instance, run(defs, instance))
    assert ops.titles == []
    ops.status = 403
    assert "TEST_OPS_URL: it answered 403." in log_of(instance, run(defs, instance))
    ops.status, ops.got = 200, []
    hook.status, hook.got = 200, []
    done = run(defs, instance)
    assert ops.titles == ["crm/accounts: stopped by a guard", "crm/accounts: recovered (stopped by a guard)"]
    assert [e["type"] for e in hook.events if e["type"].startswith("alert")] == ["alert.raised"]
    assert failed_channels(instance, done) is None
    run(defs, instance)
    assert len(ops.titles) == 2, "and only once"


def test_a_channel_that_hangs_keeps_a_run_for_seconds_only(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    engine: Engine,
    ops: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alerting, "PATIENCE_S", 0.2)
    ops.answers.clear()
    for name in ("accounts", "contacts"):
        engine.answers[name] = replace(report(name), resync_reason="asked")
    done = run(defs, instance)
    assert done.success
    assert failed_channels(instance, done) == "TEST_OPS_URL"
    assert "TEST_OPS_URL: no answer within 0.2 s." in log_of(instance, done)
    assert len(ops.got) == 1, "the steps after it do not wait again"


def test_without_a_journal_what_is_wrong_is_told_all_the_same(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    engine: Engine,
    ops: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> Any:
        raise JournalUnavailable("The journal does not answer.")

    monkeypatch.setattr("seqsync_dagster.components.sequence_component.SyncSequence.open_journal", broken)
    done = run(defs, instance)
    assert not done.success
    assert ops.titles == ["crm/accounts: failed"]
    assert failed_channels(instance, done) == "the journal"


def test_drift_is_told_and_that_it_is_gone() -> None:
    from seqsync_dagster.components.watching import Ending

    found = DriftReport("crm", "accounts", 9, 9, 2, 1, {"Name": 2}, (), (), 0, 0, "3 differ.", 1, 0.1)
    assert alerting.facts_of(Ending("partial", "", found), timedelta(0), Clock.now).drifted == 3
    gone = replace(found, changed=0, deleted=0)
    assert alerting.facts_of(Ending("success", "", gone), timedelta(0), Clock.now).drifted == 0


def test_nothing_is_followed_where_there_are_no_alerts() -> None:
    def follows(text: str) -> int:
        with location(crm=text) as made:
            component = made.component("crm")
            assert isinstance(component, SyncSequence)
            warehouse = made.component("warehouse")
            assert isinstance(warehouse, Warehouse)
            return len(component.watches(warehouse))

    assert follows(PAIR.replace("\n  syncs:", ALERTS, 1)) == follows(PAIR) + 1


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "_failed", {})
