"""What a run tells those who watch it."""

from __future__ import annotations

import pytest

from seqsync_dagster.engine.pace import Pace
from seqsync_dagster.engine.telling import BatchDone, PlanReady, StepBegan, StepEnded
from seqsync_dagster.errors import ConfigurationError
from seqsync_dagster_tests.engine.world import ACCOUNTS, WORKSPACES, World, crm


def steps(world: World) -> list[tuple[str, str]]:
    began = [(t.sync, t.step) for t in world.told if isinstance(t, StepBegan)]
    assert began == [(t.sync, t.step) for t in world.told if isinstance(t, StepEnded)]
    return began


def test_a_run_tells_its_steps_its_plan_and_every_batch(world: World) -> None:
    world.sequence = crm(ACCOUNTS)
    world.insert("crm.accounts", [*((f"A{n}", f"name {n}", None, None) for n in range(450)), ("bad", None, None, None)])

    report = world.run("accounts")

    assert steps(world) == [("accounts", s) for s in ("recover", "plan", "guard", "apply", "settle")]
    (ready,) = [t for t in world.told if isinstance(t, PlanReady)]
    assert (ready.plan_id, ready.counts.planned, ready.resync_reason) == (report.plan_id, 451, None)
    batches = [t for t in world.told if isinstance(t, BatchDone)]
    assert len(batches) == 3
    assert [sum(t.rows for t in batches), sum(t.rejected for t in batches)] == [451, 1]
    assert (batches[-1].done, batches[-1].total) == (451, 451)
    order = [type(t) for t in world.told]
    assert order.index(PlanReady) < order.index(BatchDone)

    world.told.clear()
    world.run("accounts")
    assert steps(world) == [("accounts", "recover"), ("accounts", "plan")]
    assert len(world.told) == 4


def test_a_step_that_fails_ends_with_its_error(world: World) -> None:
    world.sequence = crm(ACCOUNTS | {"fields": {"Name": "name", "Nmae__c": "name"}})
    world.insert("crm.accounts", [("A1", "one", None, None)])

    with pytest.raises(ConfigurationError):
        world.run("accounts")

    ended = [t for t in world.told if isinstance(t, StepEnded)]
    assert [(t.step, t.error is not None) for t in ended] == [("recover", False), ("plan", True)]
    assert not [t for t in world.told if isinstance(t, BatchDone)]


def test_finish_tells_the_syncs_it_looks_after(world: World) -> None:
    world.sequence = crm(ACCOUNTS, WORKSPACES)
    world.insert("crm.accounts", [("A1", "one", None, None)])
    world.insert("crm.workspaces", [("W1", "one", "Free", "A1"), ("W2", "two", "Free", "A1")])
    world.run_all()
    world.sql("DELETE FROM crm.workspaces WHERE workspace_id = 'W1'")
    world.run("workspaces")
    world.told.clear()

    world.finish()

    assert steps(world) == [("accounts", "references"), ("workspaces", "removals")]
    (batch,) = [t for t in world.told if isinstance(t, BatchDone)]
    assert (batch.sync, batch.operation, batch.rows) == ("workspaces", "delete", 1)


def test_progress_is_said_now_and_then_with_rate_and_time_left() -> None:
    lines: list[str] = []
    now = 100.0
    pace = Pace("contacts", 10_000, lines.append, clock=lambda: now)
    for _ in range(10):
        now += 1
        pace.add(200)
    assert lines == [
        "contacts: 1,000 of 10,000 rows sent, 200 rows/s, about 45s left",
        "contacts: 2,000 of 10,000 rows sent, 200 rows/s, about 40s left",
    ]
    # A job of which the destination has said only how far it is.
    now += 10
    pace.say("Bulk job 750 is InProgress", underway=2_000)
    assert lines[-1] == ("contacts: 4,000 of 10,000 rows sent, 200 rows/s, about 30s left (Bulk job 750 is InProgress)")
    pace.add(8_000)
    pace.say("create, level 0")
    assert lines[-1] == "contacts: 10,000 of 10,000 rows sent, 500 rows/s in 20s (create, level 0)"
