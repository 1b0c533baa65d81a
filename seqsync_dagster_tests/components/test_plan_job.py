"""The job that plans without sending, as a person meets it: observations, a file for CI, and the plan sent as read."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from seqsync_dagster_tests.emulator_process import EmulatorProcess, emulator  # noqa: F401

from .location import EMULATED, Location, location, run
from .test_drift import ACCOUNTS, CONTACTS, SEQUENCE, sql


@pytest.fixture
def org(emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch) -> EmulatorProcess:  # noqa: F811
    monkeypatch.setenv("TEST_SALESFORCE_URL", emulator.url)
    return emulator


@pytest.fixture
def made() -> Iterator[Location]:
    with location(salesforce=EMULATED, crm=textwrap.dedent(SEQUENCE).replace("DRIFT", "null")) as made:
        sql(
            made.root,
            "CREATE SCHEMA crm",
            "CREATE TABLE crm.accounts AS SELECT 'A' || i id, 'name ' || i AS name, '555' phone FROM range(3) r(i)",
            "CREATE TABLE crm.contacts AS SELECT 'C1' AS id, 'x' AS name, 'A1' AS account_id",
        )
        yield made


def observed(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, Any]:
    record = instance.fetch_observations(key, limit=1).records[0]
    assert record.asset_observation is not None
    return {name: getattr(v, "value", v) for name, v in record.asset_observation.metadata.items()}


def test_a_plan_is_told_on_the_assets_written_for_ci_and_sent_as_it_was_read(
    made: Location, org: EmulatorProcess, instance: dg.DagsterInstance
) -> None:
    defs, file = made.load(), made.root / "plan.json"
    done = run(defs, instance, job="crm_plan", config={"write_to": str(file)})
    assert done.success
    assert org.records("Account") == []
    assert instance.get_latest_materialization_event(ACCOUNTS) is None, "a plan makes nothing fresh"
    accounts, contacts = observed(instance, ACCOUNTS), observed(instance, CONTACTS)
    assert (accounts["seqsync/to_create"], contacts["seqsync/to_create"], contacts["seqsync/to_follow"]) == (3, 0, 1)
    assert accounts["seqsync/guard"] == "passes"
    table = next(
        v
        for k, v in instance.fetch_observations(ACCOUNTS, limit=1).records[0].asset_observation.metadata.items()  # type: ignore[union-attr]
        if k == "seqsync/planned_changes"
    )
    assert [r.data["after"] for r in table.records if r.data["key"] == "A0"] == ["name 0", "***"]  # type: ignore[union-attr]
    written = json.loads(file.read_text())
    assert [(s["sync"], s["creates"], s["follow"]) for s in written["syncs"]] == [
        ("accounts", 3, 0),
        ("contacts", 0, 1),
    ]
    plan = written["plan_id"]
    ended = instance.get_run_by_id(done.run_id)
    assert ended is not None
    assert ended.tags["seqsync/plan_id"] == plan == accounts["seqsync/plan_id"]
    told = [e.user_message for e in instance.all_logs(done.run_id)]
    assert any(f'--config-json \'{{"plan_id": "{plan}"}}\'' in line for line in told)

    sql(made.root, "UPDATE crm.accounts SET name = 'too new'")
    assert run(defs, instance, config={"plan_id": plan}).success
    assert {r["Name"] for r in org.records("Account")} == {"name 0", "name 1", "name 2"}
    assert org.by_external_id("Contact")["C1"]["AccountId"] == org.by_external_id("Account")["A1"]["Id"]
    # Sent once, it is no plan any more: one message, and what is newer stays due.
    again = run(defs, instance, config={"plan_id": plan})
    assert not again.success
    failures = [e.step_failure_data for e in again.all_events if e.is_step_failure]
    assert "there is no plan" in str(failures[0].user_failure_data)
    # What somebody asked for in vain stops nobody: the syncs below do not wait for anything.
    assert "wait until" not in str(failures[0].user_failure_data)
    mistyped = run(defs, instance, config={"requeue": {"acounts": ["A1"]}})
    assert "Did you mean 'accounts'?" in str([e.step_failure_data for e in mistyped.all_events if e.is_step_failure])
    assert run(defs, instance, job="__ASSET_JOB", select=[CONTACTS]).success
    assert {r["Name"] for r in org.records("Account")} == {"name 0", "name 1", "name 2"}


def test_what_would_stop_a_run_fails_the_plan_with_everything_at_once(
    made: Location, org: EmulatorProcess, instance: dg.DagsterInstance
) -> None:
    made.write("crm", textwrap.dedent(SEQUENCE).replace("DRIFT", "null").replace("Phone: phone", "Phon: phone"))
    done = run(made.load(), instance, job="crm_plan")
    [failure] = [e.step_failure_data for e in done.all_events if e.is_step_failure]
    text = str(failure.user_failure_data)
    assert "A run would stop at 1 of 2 syncs" in text
    assert "Did you mean 'Phone'?" in text
    assert observed(instance, CONTACTS)["seqsync/would_stay_held"] == 1


def test_a_plan_that_cannot_be_written_down_is_kept_all_the_same(
    made: Location, org: EmulatorProcess, instance: dg.DagsterInstance
) -> None:
    defs = made.load()
    done = run(defs, instance, job="crm_plan", config={"write_to": str(made.root / "nowhere" / "plan.json")})
    [failure] = [e.step_failure_data for e in done.all_events if e.is_step_failure]
    assert "Give write_to a file in a folder that is there." in str(failure.user_failure_data)
    plan = observed(instance, ACCOUNTS)["seqsync/plan_id"]
    assert run(defs, instance, config={"plan_id": plan}).success
    assert len(org.records("Account")) == 3
