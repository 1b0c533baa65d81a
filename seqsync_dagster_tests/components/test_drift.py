"""The drift check in Dagster: when it runs, and what it shows. Warehouse, state, HTTP and org are real."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from seqsync_dagster.journal import Journal, Scope
from seqsync_dagster_tests.emulator_process import Api, EmulatorProcess, emulator  # noqa: F401

from .location import EMULATED, Location, location, run

SEQUENCE = """
type: seqsync_dagster.SyncSequence
attributes:
  name: crm
  destination: salesforce
  dbt: null
  syncs:
    - name: accounts
      table: crm.accounts
      key: id
      object: Account
      match: External_Id__c
      sensitive: phone
      drift: DRIFT
      fields: {Name: name, Phone: phone}
    - name: contacts
      table: crm.contacts
      key: id
      object: Contact
      match: External_Id__c
      fields: {LastName: name, AccountId: {parent: accounts, from: account_id}}
"""
ACCOUNTS, CONTACTS, FINISH = (dg.AssetKey(["crm", name]) for name in ("accounts", "contacts", "finish"))
DRIFT = dg.AssetCheckKey(ACCOUNTS, "drift")


@pytest.fixture
def org(emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch) -> EmulatorProcess:  # noqa: F811
    monkeypatch.setenv("TEST_SALESFORCE_URL", emulator.url)
    return emulator


@pytest.fixture
def made() -> Iterator[Location]:
    with location(salesforce=EMULATED) as made:
        sql(
            made.root,
            "CREATE SCHEMA crm",
            "CREATE TABLE crm.accounts AS SELECT 'A' || i id, 'name ' || i AS name, '555' phone FROM range(3) r(i)",
            "CREATE TABLE crm.contacts AS SELECT 'C1' AS id, 'x' AS name, 'A1' AS account_id",
        )
        yield made


def sql(root: Path, *statements: str) -> None:
    engine = sa.create_engine(f"duckdb:///{root}/warehouse.duckdb", poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def loaded(made: Location, drift: str = "{}") -> dg.Definitions:
    made.write("crm", textwrap.dedent(SEQUENCE).replace("DRIFT", drift))
    return made.load()


def edit(org: EmulatorProcess, key: str, **values: Any) -> None:
    record = org.by_external_id("Account")[key]["Id"]
    body = {"records": [{"attributes": {"type": "Account"}, "id": record, **values}]}
    [reply] = Api(org.url).patch("composite/sobjects", json=body).json()
    assert reply["success"], reply


def evaluation(instance: dg.DagsterInstance) -> Any:
    record = instance.get_latest_asset_check_evaluation_record(DRIFT)
    return record.evaluation if record else None


def test_a_sequence_run_reads_nothing_back_and_the_drift_job_does(
    made: Location, org: EmulatorProcess, instance: dg.DagsterInstance
) -> None:
    defs = loaded(made)
    done = run(defs, instance)
    assert done.success
    assert evaluation(instance) is None
    assert run(defs, instance, job="crm_drift").success
    found = evaluation(instance)
    assert found.passed
    assert found.description == "accounts: 3 records looked for, 3 of them compared: nothing drifted."
    assert {n: found.metadata[n].value for n in ("checked", "changed", "deleted")} == {
        "checked": 3,
        "changed": 0,
        "deleted": 0,
    }
    edit(org, "A1", Name="renamed", Phone="666")
    org.remove("Account", org.by_external_id("Account")["A2"]["Id"])
    done = run(defs, instance, job="crm_drift")
    assert done.success, "drift is a warning"
    found = evaluation(instance)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert [r.data for r in found.metadata["by_field"].records] == [
        {"field": "Name", "changed": 1},
        {"field": "Phone", "changed": 1},
    ]
    shown = [{k: v for k, v in r.data.items() if k != "url"} for r in found.metadata["samples"].records]
    assert shown[:2] == [
        {"key": "A1", "field": "Name", "expected": "name 1", "found": "renamed"},
        {"key": "A1", "field": "Phone", "expected": "***", "found": "***"},
    ]
    assert (shown[2]["key"], shown[2]["field"], shown[2]["found"]) == ("A2", "(the record)", "not there")
    tags = instance.get_run_by_id(done.run_id).tags  # type: ignore[union-attr]
    assert (tags["seqsync/outcome"], tags["seqsync/changed"], tags["seqsync/deleted"]) == ("partial", "1", "1")


def test_it_is_executed_by_itself(made: Location, org: EmulatorProcess, instance: dg.DagsterInstance) -> None:
    defs = loaded(made, "{heal: true}")
    run(defs, instance)
    edit(org, "A1", Name="renamed")
    job = defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection=set(), asset_check_selection={DRIFT})
    before = instance.get_latest_materialization_event(ACCOUNTS)
    assert job.execute_in_process(instance=instance).success
    assert instance.get_latest_materialization_event(ACCOUNTS) == before, "the check alone materialises nothing"
    found = evaluation(instance)
    assert (found.passed, found.metadata["made_due"].value) == (False, 1)
    run(defs, instance)
    assert org.by_external_id("Account")["A1"]["Name"] == "name 1"
    updated = instance.get_latest_materialization_event(ACCOUNTS).asset_materialization  # type: ignore[union-attr]
    assert updated and updated.metadata["seqsync/updated"].value == 1


def test_in_job_it_follows_the_sync(made: Location, org: EmulatorProcess, instance: dg.DagsterInstance) -> None:
    defs = loaded(made, "{in_job: true}")
    done = run(defs, instance)
    assert done.success
    assert evaluation(instance).passed
    ended = [e.step_key for e in done.all_events if e.is_step_success]
    assert ended.index("crm__accounts") < ended.index("crm__accounts__drift")


def test_an_asset_materialised_by_hand_brings_its_checks_along(
    made: Location, org: EmulatorProcess, instance: dg.DagsterInstance
) -> None:
    assert run(loaded(made), instance, job="__ASSET_JOB", select=[ACCOUNTS]).success
    assert evaluation(instance).passed


def test_what_stops_it_is_said_and_a_run_at_work_cancels_it(
    made: Location, org: EmulatorProcess, instance: dg.DagsterInstance
) -> None:
    defs = loaded(made)
    run(defs, instance)
    sql(made.root, "ALTER TABLE crm.accounts ALTER phone TYPE INTEGER")
    done = run(defs, instance, job="crm_drift")
    assert not done.success
    [failure] = [e.step_failure_data for e in done.all_events if e.is_step_failure]
    assert "Run the sync, then check again." in str(failure.user_failure_data)
    assert failure.error is not None
    assert "StateError" not in failure.error.to_string()
    [state] = (made.root / "seqsync_state").glob("*journal*.sqlite*")
    with Journal(f"sqlite:///{state}") as journal, journal.acquire(Scope("crm", "accounts"), "run 1234abcd"):
        done = run(defs, instance, job="crm_drift")
    ended = instance.get_run_by_id(done.run_id)
    assert ended
    assert ended.status == dg.DagsterRunStatus.CANCELED
    assert ended.tags["seqsync/refused"] == "held by run 1234abcd"


def test_a_sequence_without_drift_has_neither_check_nor_job(made: Location) -> None:
    defs = loaded(made, "null")
    assert DRIFT not in defs.resolve_asset_graph().asset_check_keys
    assert "crm_drift" not in {job.name for job in defs.resolve_all_job_defs()}
