"""How the syncs of a sequence are run: one after the other, or branches beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.reconstruct import ReconstructableRepository
from sqlalchemy.pool import NullPool

from seqsync_dagster.components.executors import LOOSE_IN_PROCESS, executor_of
from seqsync_dagster.sequence.spec import SequenceSpec
from seqsync_dagster_tests.emulator_process import EmulatorProcess, emulator  # noqa: F401
from seqsync_dagster_tests.postgres_server import postgres_server  # noqa: F401
from seqsync_dagster_tests.telemetry.collector import Collector, collector

from .location import location

ROWS = 2_500
SALESFORCE = """
type: seqsync_dagster.SalesforceConnection
attributes:
  url: {env: TEST_SALESFORCE_URL}
  client_id: demo
  client_secret: demo-secret
"""
WAREHOUSE = """
type: seqsync_dagster.Warehouse
attributes:
  url: {env: TEST_WAREHOUSE_URL}
"""
#: Two beside each other.
FORK = """
type: seqsync_dagster.SyncSequence
attributes:
  name: crm
  destination: salesforce
  dbt: null
  executor: multiprocess
  max_concurrent: 2
  syncs:
    - name: people
      table: crm.people
      key: id
      object: Contact
      match: External_Id__c
      fields: {LastName: name}
    - name: firms
      table: crm.firms
      key: id
      object: Account
      match: External_Id__c
      fields: {Name: name}
"""


def spec(*after: tuple[str, str], **more: Any) -> SequenceSpec:
    syncs = [
        {"name": name, "table": "a.b", "key": "id", "match": "External_Id__c", "object": name, "fields": {"Name": "n"}}
        | ({"after": above} if above else {})
        for name, above in after
    ]
    return SequenceSpec.model_validate({"name": "crm", "destination": "salesforce", "syncs": syncs, **more})


def test_the_executor_follows_the_shape_unless_it_is_named() -> None:
    chain = [("a", ""), ("b", "a"), ("c", "b"), ("d", "c")]
    wide = [("a", ""), ("b", "a"), ("c", "a"), ("d", "a"), ("e", "a")]
    assert executor_of(spec(*chain)) is LOOSE_IN_PROCESS
    assert executor_of(spec(*wide[:4])) is LOOSE_IN_PROCESS
    assert executor_of(spec(*wide)).name == "multiprocess"
    assert executor_of(spec(*wide, executor="in_process")) is LOOSE_IN_PROCESS
    assert executor_of(spec(*chain, executor="multiprocess")).name == "multiprocess"
    assert executor_of(spec(*wide, order="listed")) is LOOSE_IN_PROCESS, "a chain in fact"


@pytest.fixture(params=["duckdb", "postgresql"])
def warehouse_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "duckdb":
        yield f"duckdb:///{tmp_path}/warehouse.duckdb"
        return
    server: Any = request.getfixturevalue("postgres_server")
    with server.fresh_database() as url:
        yield url


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collector() as there:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{there.url}/v1/traces")
        yield there


def test_branches_run_beside_each_other(
    traced: Collector,
    warehouse_url: str,
    tmp_path: Path,
    emulator: EmulatorProcess,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEST_SALESFORCE_URL", emulator.url)
    monkeypatch.setenv("TEST_WAREHOUSE_URL", warehouse_url)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    emulator.settings(bulk_rows_per_s=ROWS)
    engine = sa.create_engine(warehouse_url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA crm")
        for table in ("people", "firms"):
            connection.exec_driver_sql(
                f"CREATE TABLE crm.{table} AS SELECT 'K' || i AS id, CASE WHEN i > 1 THEN 'name ' || i END AS name "
                f"FROM generate_series(0, {ROWS - 1}) r(i)"
            )
    engine.dispose()
    with (
        location(salesforce=SALESFORCE, warehouse=WAREHOUSE, crm=FORK) as made,
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
    ):
        module, folder = made.module()
        again = ReconstructableRepository.for_module(module, "defs", working_directory=str(folder))
        done = dg.execute_job(
            again.get_reconstructable_job("crm"),
            instance=instance,
            asset_selection=[dg.AssetKey(["crm", name]) for name in ("people", "firms")],
        )
        step = {
            (e.step_key, e.dagster_event.event_type_value): e.timestamp
            for e in instance.all_logs(done.run_id)
            if e.dagster_event
        }
        run = instance.get_run_by_id(done.run_id)
    assert done.success
    # Each started before the other had ended.
    began = [step[f"crm__{name}", "STEP_START"] for name in ("people", "firms")]
    ended = [step[f"crm__{name}", "STEP_SUCCESS"] for name in ("people", "firms")]
    assert max(began) < min(ended)
    # Two processes changed the run's tags, and neither has lost what the other wrote.
    assert run and (run.tags["seqsync/outcome"], run.tags["seqsync/rejected"]) == ("partial", "4")
    assert len(emulator.records("Contact")) == len(emulator.records("Account")) == ROWS - 2
    # Their processes tell of one trace, and one of them of the sequence.
    root = traced.span("sequence crm")
    below = [s for s in traced.spans if s.name.startswith("sync ")]
    assert {s.name for s in below} == {"sync people", "sync firms"}
    assert {(s.trace_id, s.parent_span_id) for s in below} == {(root.trace_id, root.span_id)}
