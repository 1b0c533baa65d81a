"""What becomes of a sequence when a sync fails, and how it goes on: read where the web UI reads it.

Warehouse, state, HTTP and org are real, and the runs are Dagster's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from seqsync_dagster_tests.emulator_process import EmulatorProcess, emulator  # noqa: F401
from seqsync_dagster_tests.postgres_server import postgres_server  # noqa: F401

from .location import EMULATED, WAREHOUSE, Location, location, run

#: Workspaces are below accounts; people stand beside them.
SEQUENCE = """
type: seqsync_dagster.SyncSequence
attributes:
  name: crm
  destination: salesforce
  dbt: null
  executor: in_process
  errors: ERRORS
  syncs:
    - name: accounts
      table: crm.accounts
      key: id
      object: Account
      match: External_Id__c
      fields: {Name: name}
    - name: workspaces
      table: crm.workspaces
      key: id
      object: Workspace__c
      match: External_Id__c
      fields: {Name: name, Account__c: {parent: accounts, from: account_id}}
    - name: people
      table: crm.people
      key: id
      object: Contact
      match: External_Id__c
      fields: {LastName: name}
"""
NAMES = ("accounts", "workspaces", "people", "finish")
KEYS = {name: dg.AssetKey(["crm", name]) for name in NAMES}
ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


@pytest.fixture
def org(emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch) -> EmulatorProcess:  # noqa: F811
    monkeypatch.setenv("TEST_SALESFORCE_URL", emulator.url)
    return emulator


@pytest.fixture(params=["duckdb", "postgresql"])
def made(request: pytest.FixtureRequest) -> Iterator[Location]:
    with ExitStack() as held:
        url = None
        if request.param == "postgresql":
            url = held.enter_context(request.getfixturevalue("postgres_server").fresh_database())
        yield held.enter_context(with_a_schema(url))


@contextmanager
def with_a_schema(postgres_url: str | None = None) -> Iterator[Location]:
    """A location whose warehouse, DuckDB by default, has the empty schema `crm`."""
    with location(salesforce=EMULATED) as made:
        if postgres_url is not None:
            made.warehouse_url = postgres_url
            made.write("warehouse", WAREHOUSE.replace("duckdb:///warehouse.duckdb", postgres_url))
        sql(made, "CREATE SCHEMA crm")
        yield made


def sql(made: Location, *statements: str) -> None:
    engine = sa.create_engine(made.warehouse_url, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def fill(made: Location, *, rows: int, bad: int) -> None:
    """Accounts of which `bad` have no name, so that the org refuses them; a workspace for each, and three people."""
    sql(
        made,
        f"CREATE TABLE crm.accounts AS SELECT 'A' || i AS id, "
        f"CASE WHEN i >= {bad} THEN 'name ' || i END AS name FROM generate_series(0, {rows - 1}) r(i)",
        f"CREATE TABLE crm.workspaces AS SELECT 'W' || i AS id, 'space ' || i AS name, "
        f"'A' || i AS account_id FROM generate_series(0, {rows - 1}) r(i)",
        "CREATE TABLE crm.people AS SELECT 'P' || i AS id, 'person ' || i AS name FROM generate_series(0, 2) r(i)",
    )


def loaded(made: Location, errors: str) -> dg.Definitions:
    made.write("crm", SEQUENCE.replace("ERRORS", errors))
    return made.load()


class Seen:
    """A run as the web UI shows it."""

    def __init__(self, instance: dg.DagsterInstance, done: dg.JobExecutionResult) -> None:
        self.instance, self.done = instance, done
        found = instance.get_run_by_id(done.run_id)
        assert found
        self.status = found.status.value
        self.tags = {k.removeprefix("seqsync/"): v for k, v in found.tags.items() if k.startswith("seqsync/")}
        self.materialised = [
            name
            for name in NAMES
            if (e := instance.get_latest_materialization_event(KEYS[name])) and e.run_id == done.run_id
        ]
        self.failures = {
            e.step_key.removeprefix("crm__"): str(e.step_failure_data.user_failure_data.description)
            for e in done.all_events
            if e.is_step_failure and e.step_key and e.step_failure_data.user_failure_data
        }

    def check(self, sync: str, name: str) -> Any:
        record = self.instance.get_latest_asset_check_evaluation_record(dg.AssetCheckKey(KEYS[sync], name))
        return record.evaluation if record and record.status.value != "PLANNED" else None

    def metadata(self, sync: str, name: str) -> Any:
        event = self.instance.get_latest_materialization_event(KEYS[sync])
        assert event and event.asset_materialization
        return event.asset_materialization.metadata[f"seqsync/{name}"].value


def test_fatal_stop(made: Location, org: EmulatorProcess, instance: dg.DagsterInstance) -> None:
    fill(made, rows=3, bad=0)
    sql(made, "ALTER TABLE crm.accounts RENAME name TO label")
    seen = Seen(instance, run(loaded(made, "{fatal: stop}"), instance))
    assert (seen.status, seen.tags["outcome"], seen.tags["stopped"]) == ("FAILURE", "failed", "accounts")
    assert seen.materialised == ["people"]
    assert list(seen.failures) == ["accounts"]
    assert re.fullmatch(
        r"model crm\.accounts has no column 'name'\..* workspaces and finish wait until a run of accounts ends in "
        rf"order\. Failing since 20\S+ \S+ UTC \(run {seen.done.run_id[:8]}\)\.",
        seen.failures["accounts"],
    )
    complete = seen.check("accounts", "complete")
    assert (complete.passed, complete.severity) == (False, ERROR)
    assert complete.description == seen.failures["accounts"]
    assert seen.check("accounts", "rejected") is None
    waits = seen.check("workspaces", "complete")
    assert (waits.passed, waits.severity) == (False, ERROR)
    assert waits.description == f"crm/workspaces waits for accounts. {seen.failures['accounts']}"
    assert seen.check("people", "complete").passed


def test_fatal_continue(made: Location, org: EmulatorProcess, instance: dg.DagsterInstance) -> None:
    fill(made, rows=3, bad=0)
    defs = loaded(made, "{fatal: continue}")
    assert run(defs, instance).success
    before = instance.get_latest_materialization_event(KEYS["accounts"])
    sql(
        made,
        "ALTER TABLE crm.accounts RENAME name TO label",
        "INSERT INTO crm.workspaces VALUES ('W9', 'x', 'A1')",
    )
    seen = Seen(instance, run(defs, instance))
    assert (seen.status, seen.tags["outcome"]) == ("FAILURE", "failed")
    assert "stopped" not in seen.tags
    assert seen.materialised == ["workspaces", "people", "finish"]
    assert instance.get_latest_materialization_event(KEYS["accounts"]) == before, "not shown as fresh"
    assert list(seen.failures) == ["accounts"]
    assert "workspaces and finish go on all the same (errors: fatal: continue)." in seen.failures["accounts"]
    complete = seen.check("accounts", "complete")
    assert (complete.passed, complete.severity) == (False, ERROR)
    assert seen.check("workspaces", "complete").passed
    assert "W9" in org.by_external_id("Workspace__c")
    # Re-executed from its failure, the sync that failed and those below it run.
    sql(made, "ALTER TABLE crm.accounts RENAME label TO name")
    again = Seen(instance, run(defs, instance, again_from=seen.done.run_id))
    assert (again.status, again.materialised) == ("SUCCESS", ["accounts", "workspaces", "finish"])
    assert again.check("accounts", "complete").passed


@pytest.mark.parametrize(
    ("made", "rows", "bad", "why"),
    [
        ("duckdb", 100, 30, "30 of 100 rows rejected, over max_rejected 5%"),
        ("postgresql", 100, 30, "30 of 100 rows rejected, over max_rejected 5%"),
        ("duckdb", 5, 5, "5 of 5 rows rejected, every row sent was refused"),
    ],
    indirect=["made"],
)
def test_rejected_rows_stop(
    made: Location, org: EmulatorProcess, instance: dg.DagsterInstance, rows: int, bad: int, why: str
) -> None:
    fill(made, rows=rows, bad=bad)
    defs = loaded(made, "{rejected_rows: stop}")
    seen = Seen(instance, run(defs, instance))
    assert (seen.status, seen.tags["outcome"], seen.tags["stopped"]) == ("FAILURE", "failed", "accounts")
    assert seen.tags["rejected"] == str(bad)
    assert seen.materialised == ["accounts", "people"], "the sync itself is settled, and shown"
    assert seen.metadata("accounts", "created") == rows - bad
    assert why in seen.failures["accounts"]
    assert (
        "workspaces and finish wait until the refused rows of accounts are within max_rejected again, or given up on "
        "(quarantined). Failing since" in seen.failures["accounts"]
    )
    assert seen.metadata("accounts", "stopped") == seen.failures["accounts"]
    for name in ("rejected", "complete"):
        found = seen.check("accounts", name)
        assert (found.passed, found.severity) == (False, ERROR)
    assert not seen.check("workspaces", "complete").passed
    assert org.records("Workspace__c") == []

    # Later runs, whose refused rows only wait for their next try, do not pass for mended.
    org.reset_calls()
    later = Seen(instance, run(defs, instance))
    assert (later.status, later.tags["stopped"]) == ("FAILURE", "accounts")
    assert later.materialised == ["accounts", "people"]
    assert f"accounts: {bad} rows are refused still." in later.failures["accounts"]
    assert org.calls()["row_bearing"] == 0
    sql(made, "UPDATE crm.accounts SET name = 'mended' WHERE name IS NULL")
    mended = Seen(instance, run(defs, instance))
    assert (mended.status, mended.tags["outcome"]) == ("SUCCESS", "success")
    assert mended.materialised == list(NAMES)
    assert mended.metadata("accounts", "created") == bad, "what was acknowledged is not sent again"
    assert mended.metadata("accounts", "unchanged") == rows - bad
    assert len(org.records("Workspace__c")) == rows


def test_rejected_rows_hold_children(made: Location, org: EmulatorProcess, instance: dg.DagsterInstance) -> None:
    fill(made, rows=100, bad=30)
    defs = loaded(made, "{rejected_rows: hold_children}")
    seen = Seen(instance, run(defs, instance))
    assert (seen.status, seen.tags["outcome"]) == ("FAILURE", "failed")
    assert "stopped" not in seen.tags
    assert seen.materialised == list(NAMES)
    assert (seen.metadata("workspaces", "created"), seen.metadata("workspaces", "held")) == (70, 30)
    rejected, held = seen.check("accounts", "rejected"), seen.check("workspaces", "held")
    assert (rejected.passed, rejected.severity) == (False, ERROR)
    assert (held.passed, held.severity) == (False, WARN)
    assert seen.check("accounts", "complete").passed
    assert "go on; only rows whose parent is missing are held" in seen.failures["accounts"]
    # A run that refuses nothing anew is no failure.
    later = Seen(instance, run(defs, instance))
    assert (later.status, later.tags["outcome"]) == ("SUCCESS", "partial")


@pytest.mark.parametrize(
    ("made", "policy"),
    [("duckdb", "stop"), ("duckdb", "hold_children"), ("postgresql", "stop")],
    indirect=["made"],
)
def test_within_the_limit_and_quarantined_only(
    made: Location, org: EmulatorProcess, instance: dg.DagsterInstance, policy: str
) -> None:
    fill(made, rows=100, bad=4)
    defs = loaded(made, f"{{rejected_rows: {policy}, quarantine_after: 1}}")
    for rejected in (True, False):
        seen = Seen(instance, run(defs, instance))
        assert (seen.status, seen.tags["outcome"]) == ("SUCCESS", "partial")
        assert seen.tags.get("rejected") == ("4" if rejected else None)
        assert seen.tags["waiting" if not rejected else "rejected"] == "4"
        assert seen.materialised == list(NAMES)
        found = seen.check("accounts", "rejected")
        assert (found.passed, found.severity) == (False, WARN)
        assert seen.check("accounts", "complete").passed
        sql(made, "UPDATE crm.accounts SET name = 'another' WHERE id = 'A50'")
    assert seen.check("accounts", "rejected").metadata["problems"].records[0].data["code"] == "QUARANTINED"


def test_a_stop_ends_when_what_was_refused_is_given_up_on(
    made: Location, org: EmulatorProcess, instance: dg.DagsterInstance
) -> None:
    fill(made, rows=100, bad=30)
    defs = loaded(made, "{rejected_rows: stop, quarantine_after: 1}")
    assert Seen(instance, run(defs, instance)).tags["stopped"] == "accounts"
    seen = Seen(instance, run(defs, instance))
    assert (seen.status, seen.tags["outcome"], seen.materialised) == ("SUCCESS", "partial", list(NAMES))


def test_a_stopped_sequence_is_known_everywhere_and_goes_on_by_itself(
    made: Location, org: EmulatorProcess, instance: dg.DagsterInstance
) -> None:
    fill(made, rows=3, bad=0)
    sql(made, "ALTER TABLE crm.accounts RENAME name TO label")
    defs = loaded(made, "{}")
    first = Seen(instance, run(defs, instance))
    since = re.search(r"since (20\S+ \S+ UTC \(run \w+\))", first.failures["accounts"])
    assert since and first.done.run_id[:8] in since[1]
    # Another Dagster, which remembers nothing, is told the same: since when, why, and who waits.
    with dg.DagsterInstance.ephemeral() as other:
        for name in ("workspaces", "finish"):
            alone = Seen(other, run(defs, other, select=[KEYS[name]]))
            assert (alone.status, alone.tags["stopped"], alone.materialised) == ("FAILURE", "accounts", [])
            assert alone.failures[name].startswith(
                f"crm/{name} waits for accounts. accounts is stopped since {since[1]}: model crm.accounts has no column"
            )
            assert alone.failures[name].endswith(
                "Nothing was sent. It goes on by itself with the first run after a run of accounts ends in order."
            )
        assert alone.check("workspaces", "complete").description.startswith("crm/workspaces waits for accounts.")
        by_hand = Seen(other, run(defs, other, job="__ASSET_JOB", select=[KEYS["workspaces"]]))
        assert by_hand.status == "FAILURE"
    assert org.records("Workspace__c") == []
    # The next tick tries again, and says since when it has been so.
    second = Seen(instance, run(defs, instance))
    assert since[1] in second.failures["accounts"]
    # Mended: re-executed from its failure, what failed and what waited runs, and only that.
    sql(made, "ALTER TABLE crm.accounts RENAME label TO name")
    org.reset_calls()
    again = Seen(instance, run(defs, instance, again_from=second.done.run_id))
    assert (again.status, again.materialised) == ("SUCCESS", ["accounts", "workspaces", "finish"])
    assert again.check("workspaces", "complete").passed
    assert len(org.records("Workspace__c")) == 3
    assert org.calls()["row_bearing"] == 2, "one for accounts, one for workspaces; people are not sent again"
    with dg.DagsterInstance.ephemeral() as other:
        assert run(defs, other, select=[KEYS["workspaces"]]).success


def test_a_sync_has_a_policy_of_its_own(made: Location, org: EmulatorProcess, instance: dg.DagsterInstance) -> None:
    fill(made, rows=30, bad=25)
    text = SEQUENCE.replace("ERRORS", "{rejected_rows: stop, max_rejected: {percent: 50}}").replace(
        "      fields: {Name: name}", "      errors: {rejected_rows: hold_children}\n      fields: {Name: name}"
    )
    made.write("crm", text)
    seen = Seen(instance, run(made.load(), instance))
    assert "over max_rejected 50%" in seen.failures["accounts"], "what the sync does not say, the sequence says"
    assert seen.materialised == list(NAMES)
