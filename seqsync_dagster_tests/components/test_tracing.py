"""What a collector gets of a run, and that a run does not mind what becomes of it. Everything is real."""

from __future__ import annotations

import importlib.abc
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from seqsync_dagster.telemetry import outlets
from seqsync_dagster_tests.emulator_process import EmulatorProcess, module_emulator  # noqa: F401
from seqsync_dagster_tests.telemetry.collector import Collector, collector, plain

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
      drift: {}
      fields: {Name: name, ParentId: {parent: accounts, from: parent_id}}
    - name: contacts
      table: crm.contacts
      key: id
      object: Contact
      match: External_Id__c
      removed: delete
      sensitive: email
      fields: {LastName: name, Email: email, AccountId: {parent: accounts, from: account_id}}
"""
SECRET = "ana.secret@example.com"
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("TRACEPARENT", raising=False)


@pytest.fixture(scope="module")
def made(module_emulator: EmulatorProcess) -> Iterator[Location]:  # noqa: F811
    with pytest.MonkeyPatch.context() as patch, location(salesforce=EMULATED, crm=SEQUENCE) as made:
        patch.setenv("TEST_SALESFORCE_URL", module_emulator.url)
        sql(
            made,
            "CREATE SCHEMA crm",
            "CREATE TABLE crm.accounts AS SELECT 'A' || i id, 'name ' || i AS name, "
            "CASE WHEN i > 0 THEN 'A0' END AS parent_id FROM range(6) r(i)",
            "CREATE TABLE crm.contacts AS SELECT 'C' || i id, CASE WHEN i <> 2 THEN 'x' END AS name, "
            f"'{SECRET}' AS email, CASE i WHEN 1 THEN 'A9' ELSE 'A1' END AS account_id FROM range(4) r(i)",
        )
        yield made


@pytest.fixture(scope="module")
def defs(made: Location) -> dg.Definitions:
    return made.load()


def sql(made: Location, *statements: str) -> None:
    engine = sa.create_engine(f"duckdb:///{made.root}/warehouse.duckdb", poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def warnings(instance: dg.DagsterInstance, done: dg.JobExecutionResult) -> list[str]:
    return [e.user_message or "" for e in instance.all_logs(done.run_id) if e.level == 30]


@pytest.fixture(scope="module")
def first(defs: dg.Definitions) -> Iterator[tuple[Collector, dg.DagsterInstance, dg.JobExecutionResult]]:
    """The first run: everything is new."""
    with pytest.MonkeyPatch.context() as patch, collector() as there, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", there.url)
        patch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=revops")
        patch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        yield there, instance, run(defs, instance)


Run = tuple[Collector, dg.DagsterInstance, dg.JobExecutionResult]


def test_a_run_is_one_tree_of_spans(first: Run) -> None:
    there, instance, done = first
    assert done.success
    root = there.span("sequence crm")
    record = instance.get_run_record_by_id(done.run_id)
    assert record is not None
    assert record.dagster_run.tags["seqsync/trace_id.crm"] == root.trace_id.hex()
    assert root.start_time_unix_nano == pytest.approx((record.start_time or 0) * 1e9, abs=1e6)
    assert {s.trace_id for s in there.spans} == {root.trace_id}
    names = {s.span_id: s.name for s in there.spans}
    assert len(names) == len(there.spans)
    tree = {(names.get(s.parent_span_id, ""), s.name) for s in there.spans}
    steps = {(f"sync {n}", step) for n in ("accounts", "contacts") for step in ("plan", "guard", "apply", "settle")}
    assert tree >= {
        ("", "sequence crm"),
        ("sequence crm", "sync accounts"),
        ("sequence crm", "sync contacts"),
        ("sequence crm", "finish"),
        ("finish", "removals"),
        ("apply", "batch"),
        *steps,
    }
    assert root.end_time_unix_nano >= max(s.end_time_unix_nano for s in there.spans)
    assert there.resources[0].items() >= {"service.name": "seqsync", "deployment.environment.name": "test"}.items()
    assert there.headers[0]["x-team"] == "revops"


def test_spans_say_what_they_are_of(first: Run) -> None:
    there, instance, done = first
    contacts = there.span("sync contacts")
    event = instance.get_latest_materialization_event(dg.AssetKey(["crm", "contacts"]))
    assert event is not None
    assert event.asset_materialization is not None
    shown = event.asset_materialization.metadata
    assert (
        plain(contacts.attributes).items()
        >= {
            "seqsync.sequence": "crm",
            "seqsync.sync": "contacts",
            "seqsync.outcome": "partial",
            "seqsync.plan.id": shown["seqsync/plan_id"].value,
            "seqsync.destination": shown["seqsync/destination"].value,
            "seqsync.created": 2,
            "seqsync.rejected": 1,
            "seqsync.held": 1,
            "dagster.run.id": done.run_id,
            "dagster.job.name": "crm",
        }.items()
    )
    batches = [plain(s.attributes) for s in there.spans if s.name == "batch"]
    accounts = [b for b in batches if b["seqsync.sync"] == "accounts"]
    assert [(b["seqsync.level"], b["seqsync.rows"], b["seqsync.done"]) for b in accounts] == [(0, 1, 1), (1, 5, 6)]
    assert [(b["seqsync.rows"], b["seqsync.rejected"]) for b in batches if b not in accounts] == [(3, 1)]
    assert {b["seqsync.operation"] for b in batches} == {"create"}


def test_metrics_are_the_counts_of_the_reports(first: Run) -> None:
    there, instance, _ = first
    for sync in ("accounts", "contacts"):
        event = instance.get_latest_materialization_event(dg.AssetKey(["crm", sync]))
        assert event is not None
        assert event.asset_materialization is not None
        shown = event.asset_materialization.metadata
        for fate in ("created", "adopted", "updated", "unchanged", "rejected", "held", "invalid"):
            entry = shown.get(f"seqsync/{fate}")
            assert there.total("seqsync.rows", sync=sync, fate=fate) == (entry.value if entry else 0), (sync, fate)
        assert there.total("seqsync.rows", sync=sync) == shown["dagster/row_count"].value
        assert there.total("seqsync.api.calls", sync=sync) == shown["seqsync/api_calls"].value > 0
    metric, counter, _point = next(p for name, p, _ in there.points if name == "seqsync.rows")
    assert (metric.unit, counter.is_monotonic, counter.aggregation_temporality) == ("{row}", True, 1), "1: differences"
    took = {(name, has.get("seqsync.sync"), has.get("seqsync.outcome")) for name, _, has in there.points}
    assert took >= {
        ("seqsync.sequence.duration", None, "partial"),
        ("seqsync.sync.duration", "accounts", "success"),
        ("seqsync.sync.duration", "contacts", "partial"),
        ("seqsync.sync.duration", "finish", "success"),
        ("seqsync.step.duration", "accounts", None),
    }


def test_lines_of_the_log_stand_with_their_spans(first: Run) -> None:
    there, _, _ = first
    contacts, by_id = there.span("sync contacts"), {s.span_id: s.name for s in there.spans}
    lines = [line for line in there.lines if plain(line.attributes)["seqsync.sync"] == "contacts"]
    assert {line.trace_id for line in there.lines} == {contacts.trace_id}
    [summary] = [line for line in lines if line.body.string_value.startswith("contacts: 2 created")]
    assert (summary.severity_text, summary.span_id) == ("INFO", contacts.span_id)
    assert any(by_id[line.span_id] == "apply" for line in lines), "rows on their way"


def test_sensitive_values_are_not_sent(first: Run) -> None:
    assert first[0].raw
    assert not any(SECRET.encode() in body or b"demo-secret" in body for body in first[0].raw)


def test_a_failed_run_has_its_root_and_stands_under_its_caller(
    made: Location, defs: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, first: Run
) -> None:
    monkeypatch.setenv("TRACEPARENT", CALLER)
    sql(made, "ALTER TABLE crm.accounts RENAME TO elsewhere")
    try:
        with collector() as there:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{there.url}/v1/traces")
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", f"{there.url}/v1/logs")
            done = run(defs, instance)
    finally:
        sql(made, "ALTER TABLE crm.elsewhere RENAME TO accounts")
    assert not done.success
    root, failed = there.span("sequence crm"), there.span("sync accounts")
    assert "finish" not in {s.name for s in there.spans}
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (CALLER[3:35], CALLER[36:52])
    assert (failed.trace_id, failed.parent_span_id) == (root.trace_id, root.span_id)
    assert (root.status.code, failed.status.code) == (2, 2), "2: error"
    assert plain(failed.attributes)["error.type"] == "ModelMissing"
    assert plain(there.span("plan").attributes)["error.type"] == "ModelMissing"
    [error] = [line for line in there.lines if line.severity_text == "ERROR"]
    assert "crm.accounts" in error.body.string_value
    assert error.span_id == failed.span_id
    assert len(there.lines) == 1, "Dagster's own events are not ours"
    assert there.points == [], "nobody asked for metrics"


def test_a_sync_run_alone_has_a_root_as_well(
    defs: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, first: Run
) -> None:
    with collector() as there:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", there.url)
        monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
        assert run(defs, instance, select=[dg.AssetKey(["crm", "accounts"])]).success
    assert {s.name for s in there.spans} >= {"sequence crm", "sync accounts"}
    assert (there.lines, there.total("seqsync.rows", fate="unchanged")) == ([], 6)


def test_a_drift_check_is_followed_as_well(
    defs: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, first: Run
) -> None:
    with collector() as there:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", there.url)
        assert run(defs, instance, job="crm_drift").success
    root, drift = there.span("sequence crm"), there.span("drift accounts")
    assert drift.parent_span_id == root.span_id
    assert plain(drift.attributes)["seqsync.checked"] == 6
    assert there.total("seqsync.drift.records", sync="accounts", drift="same") == 6


class Nobody:
    """An address where nobody listens."""

    def __enter__(self) -> Collector:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return Collector(url=f"http://user:pass-word@127.0.0.1:{s.getsockname()[1]}")

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("where", "says"),
    [(Nobody, "no connection"), (lambda: collector(None), "no answer in time"), (lambda: collector(500), "HTTP 500")],
    ids=["down", "hangs", "refuses"],
)
def test_a_run_does_not_mind_a_collector_that_takes_nothing(
    where: Any,
    says: str,
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    first: Run,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(outlets, "PATIENCE_S", 0.5)
    with where() as there:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", there.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.3")
        began = time.monotonic()
        done = run(defs, instance)
        took = time.monotonic() - began
    assert done.success
    assert took < 6, "three steps, one wait"
    [told] = [text for text in warnings(instance, done) if "OpenTelemetry" in text]
    assert f"127.0.0.1:{there.url.rpartition(':')[2]}: {says}" in told
    assert "traces, metrics, logs could not be delivered" in told
    assert "pass-word" not in " ".join(e.message or "" for e in instance.all_logs(done.run_id))
    assert [r.getMessage() for r in caplog.records if r.name.startswith("opentelemetry")] == []


def test_a_collector_that_hangs_is_waited_for_once(
    monkeypatch: pytest.MonkeyPatch,
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    first: Run,
) -> None:
    monkeypatch.setattr(outlets, "PATIENCE_S", 0.2)
    with collector(None) as there:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", there.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
        assert run(defs, instance).success
        asked = len(there.headers)
        assert run(defs, instance).success
        assert len(there.headers) == asked


def test_nothing_happens_unless_it_is_asked_for(
    defs: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, first: Run
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    seen: list[str] = []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda self: (seen.append(self.name), start(self))[1])
    done = run(defs, instance)
    assert done.success
    assert not [name for name in seen if "Otel" in name]
    assert "seqsync/trace_id.crm" not in (instance.get_run_by_id(done.run_id) or done.dagster_run).tags


class _NotInstalled(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, *_: Any) -> None:
        if name.startswith("opentelemetry"):
            raise ModuleNotFoundError(name=name)


def test_without_the_package_it_says_what_to_install_once(
    defs: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, first: Run
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for name in [n for n in sys.modules if n.startswith(("opentelemetry", "seqsync_dagster.telemetry."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_NotInstalled(), *sys.meta_path])
    done = run(defs, instance)
    assert done.success
    [told] = [text for text in warnings(instance, done) if "OpenTelemetry" in text]
    assert "pip install 'seqsync_dagster[telemetry]'" in told
