"""What a run of a sync looks like in Dagster: materialisations, checks, colours, tags, and whether children go.

The engine is stood in for by its reports and errors; the runs are real ones of Dagster's executor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from seqsync_dagster import SyncSequence
from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.engine.report import Counts, FinishReport, RowChange, RowProblem, SyncReport
from seqsync_dagster.errors import (
    BudgetSpent,
    DestinationStillBusy,
    DestinationUnreachable,
    GuardTripped,
    LeaseHeld,
    LedgerLost,
)
from seqsync_dagster.journal import Journal

from .location import PAIR, location, run

ACCOUNTS, CONTACTS, FINISH = (dg.AssetKey(["crm", name]) for name in ("accounts", "contacts", "finish"))
PROBLEM = RowProblem("42", "rejected", "REQUIRED_FIELD_MISSING", "Required fields are missing: [Name]", {"Name": ""})
CHANGE = RowChange("1", "created", "001", "https://example.com/001", {"Name": "Ünï"})


def report(sync: str, *, verdict: Any = "success", problems: tuple[RowProblem, ...] = (), **counts: int) -> SyncReport:
    return SyncReport(
        sequence="crm",
        sync=sync,
        plan_id=f"plan-{sync}",
        counts=Counts(**counts),
        verdict=verdict,
        summary=f"{sync}: done.",
        resync_reason=None,
        problems=problems,
        changes=(CHANGE,),
        seconds=1.25,
        rows_per_second=80.0,
        api_calls=4,
        row_bearing_calls=1,
        destination="Acme (00D1)",
    )


CLOSED = FinishReport("crm", {"contacts": 2}, {}, {}, (), "2 contacts removed.", 3, 1, 0.5)


class Engine:
    """Answers per sync, and what each was called with."""

    def __init__(self) -> None:
        self.answers: dict[str, SyncReport | FinishReport | Exception] = {
            "accounts": report("accounts", model=100, created=100, planned=100),
            "contacts": report("contacts", model=5, unchanged=5),
            "finish": CLOSED,
        }
        self.calls: list[str] = []
        self.options: list[RunOptions] = []
        self.remembered: list[bool] = []

    def _answer(self, name: str, options: RunOptions) -> Any:
        self.calls.append(name)
        self.options.append(options)
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run_sync(
        self,
        site: object,
        sync_name: str,
        source: object,
        options: RunOptions,
        *,
        run_id: str,
        holder: str,
        remembered: bool,
        log: Callable[[str], None],
        build: str | None = None,
    ) -> Any:
        assert holder == f"run {run_id[:8]}"
        self.remembered.append(remembered)
        log(f"{sync_name} at work")
        return self._answer(sync_name, options)

    def run_finish(
        self, site: object, options: RunOptions, *, run_id: str, holder: str, log: Callable[[str], None]
    ) -> Any:
        return self._answer("finish", options)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    made = Engine()
    monkeypatch.setattr("seqsync_dagster.engine.run.run_sync", made.run_sync)
    monkeypatch.setitem(sys.modules, "seqsync_dagster.engine.finish", SimpleNamespace(run_finish=made.run_finish))
    url = f"sqlite:///{tmp_path}/journal.sqlite"

    @contextmanager
    def open_site(sequence: SyncSequence, *_: object) -> Iterator[Any]:
        with Journal(url) as journal:
            yield SimpleNamespace(sequence=sequence.spec, journal=journal)

    monkeypatch.setattr(SyncSequence, "open_site", open_site)
    monkeypatch.setattr(SyncSequence, "open_journal", lambda *_: Journal(url))
    return made


@pytest.fixture(scope="module")
def defs() -> Iterator[dg.Definitions]:
    with location(crm=PAIR) as made:
        yield made.load()


def materialised(instance: dg.DagsterInstance, key: dg.AssetKey) -> Any:
    event = instance.get_latest_materialization_event(key)
    return event.asset_materialization if event else None


def check_of(instance: dg.DagsterInstance, key: dg.AssetKey, name: str) -> Any:
    record = instance.get_latest_asset_check_evaluation_record(dg.AssetCheckKey(key, name))
    return record.evaluation if record and record.status.value != "PLANNED" else None


def tags(instance: dg.DagsterInstance, done: dg.JobExecutionResult) -> dict[str, str]:
    found = instance.get_run_by_id(done.run_id)
    assert found
    return {k: v for k, v in found.tags.items() if k.startswith("seqsync/") and k != "seqsync/sequence"}


def failure_of(done: dg.JobExecutionResult, step: str) -> Any:
    return next(e for e in done.all_events if e.is_step_failure and e.step_key == step).step_failure_data


def status(instance: dg.DagsterInstance, done: dg.JobExecutionResult) -> dg.DagsterRunStatus:
    found = instance.get_run_by_id(done.run_id)
    assert found
    return found.status


def test_success(defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine) -> None:
    done = run(defs, instance)
    assert done.success
    assert engine.calls == ["accounts", "contacts", "finish"]
    assert tags(instance, done) == {"seqsync/outcome": "success", "seqsync/removed": "2"}
    found = materialised(instance, ACCOUNTS)
    assert found
    shown: dict[str, Any] = dict(found.metadata)
    assert shown["seqsync/created"] == dg.MetadataValue.int(100)
    assert shown["seqsync/rows_per_second"] == dg.MetadataValue.float(80.0)
    assert shown["dagster/row_count"] == dg.MetadataValue.int(100)
    numeric = {name for name, value in shown.items() if isinstance(value.value, int | float)}
    assert {f"seqsync/{name}" for name in Counts.__dataclass_fields__ if name != "model"} <= numeric
    assert [r.data["record"] for r in shown["seqsync/changes"].records] == ["001"]
    assert shown["seqsync/changes"].records[0].data["values"] == '{"Name": "Ünï"}'
    for name in ("rejected", "held", "invalid", "complete", "guards"):
        assert check_of(instance, ACCOUNTS, name).passed
    assert check_of(instance, FINISH, "removals").passed
    assert materialised(instance, FINISH).metadata["seqsync/removed/contacts"] == dg.MetadataValue.int(2)


def test_options_reach_every_sync_and_the_past_is_remembered(
    defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine
) -> None:
    run(defs, instance, config={"full_resync": True, "only_keys": ["a:b"], "requeue": {"contacts": ["7"]}})
    run(defs, instance)
    assert engine.options[:3] == [RunOptions(full_resync=True, only_keys=("a:b",), requeue={"contacts": ["7"]})] * 3
    assert engine.options[3:] == [RunOptions()] * 3
    assert engine.remembered == [False, False, True, True]


def test_a_materialisation_reported_by_hand_is_no_past(
    defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine
) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(ACCOUNTS))
    run(defs, instance)
    assert engine.remembered[0] is False


def test_partial(defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine) -> None:
    engine.answers["accounts"] = report(
        "accounts", verdict="partial", problems=(PROBLEM,), model=9, created=6, rejected=1, invalid_null=2
    )
    engine.answers["contacts"] = report("contacts", verdict="partial", model=9, created=6, rejected=1, held_pending=3)
    done = run(defs, instance)
    assert done.success
    assert tags(instance, done) == {
        "seqsync/outcome": "partial",
        "seqsync/rejected": "2",
        "seqsync/invalid": "2",
        "seqsync/held": "3",
        "seqsync/removed": "2",
    }
    rejected = check_of(instance, ACCOUNTS, "rejected")
    assert not rejected.passed
    assert rejected.severity == dg.AssetCheckSeverity.WARN
    assert rejected.metadata["problems"].records[0].data["code"] == "REQUIRED_FIELD_MISSING"
    assert rejected.metadata["rejected"] == dg.MetadataValue.int(1)
    assert not check_of(instance, ACCOUNTS, "invalid").passed
    assert check_of(instance, ACCOUNTS, "held").passed
    assert not check_of(instance, CONTACTS, "held").passed


def test_too_many_rejected_is_red_and_children_go_on(
    defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine
) -> None:
    engine.answers["accounts"] = report("accounts", verdict="over_limit", problems=(PROBLEM,), model=9, rejected=9)
    done = run(defs, instance)
    assert not done.success
    assert engine.calls == ["accounts", "contacts", "finish"]
    assert materialised(instance, ACCOUNTS)
    rejected = check_of(instance, ACCOUNTS, "rejected")
    assert (rejected.passed, rejected.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert tags(instance, done)["seqsync/outcome"] == "failed"
    failure = failure_of(done, "crm__accounts").user_failure_data
    assert failure.description.startswith(
        "accounts: done. contacts and finish go on; only rows whose parent is missing are held. Failing since 20"
    )
    assert failure.metadata["seqsync/rejected"] == dg.MetadataValue.int(9)


@pytest.mark.parametrize("error", [DestinationUnreachable("no answer"), LedgerLost("the ledger is new")])
def test_nothing_sent(defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine, error: Exception) -> None:
    engine.answers["accounts"] = error
    done = run(defs, instance)
    assert not done.success
    assert engine.calls == ["accounts"]
    assert materialised(instance, ACCOUNTS) is None
    assert check_of(instance, ACCOUNTS, "rejected") is None
    assert tags(instance, done) == {"seqsync/outcome": "failed", "seqsync/stopped": "accounts"}
    failure = failure_of(done, "crm__accounts")
    assert failure.user_failure_data.description.startswith(
        f"{error}. contacts and finish wait until a run of accounts ends in order. Failing since 20"
    )
    assert failure.user_failure_data.metadata["seqsync/error"] == dg.MetadataValue.text(type(error).__name__)
    assert failure.error.cause is None
    assert type(error).__name__ not in failure.error.to_string()


def test_a_defect_is_no_success_either(defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine) -> None:
    engine.answers["contacts"] = KeyError("a defect")
    done = run(defs, instance)
    assert not done.success
    assert engine.calls == ["accounts", "contacts"]
    assert tags(instance, done) == {"seqsync/outcome": "failed", "seqsync/stopped": "contacts"}
    assert "KeyError: 'a defect'" in failure_of(done, "crm__contacts").error.to_string()


def test_a_guard_says_how_to_approve(defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine) -> None:
    engine.answers["accounts"] = GuardTripped("60 of 100 records would be updated, over max_updated 50%.", "p17")
    done = run(defs, instance)
    assert not done.success
    assert engine.calls == ["accounts"]
    guards = check_of(instance, ACCOUNTS, "guards")
    assert (guards.passed, guards.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert guards.description.endswith("start the run again with the config approve_plan: p17.")
    failure = failure_of(done, "crm__accounts").user_failure_data
    assert failure.description.startswith(f"{guards.description} contacts and finish wait until a run of accounts ends")
    assert failure.metadata["seqsync/plan_id"] == dg.MetadataValue.text("p17")


def test_another_run_at_work_cancels_this_one(
    defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine
) -> None:
    engine.answers["accounts"] = LeaseHeld("crm/accounts is being synced by run 1234abcd.", "run 1234abcd")
    done = run(defs, instance)
    assert status(instance, done) == dg.DagsterRunStatus.CANCELED
    assert engine.calls == ["accounts"]
    assert tags(instance, done) == {"seqsync/refused": "held by run 1234abcd"}
    assert materialised(instance, ACCOUNTS) is None


def test_still_in_progress_is_neither_red_nor_fresh(
    defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine
) -> None:
    engine.answers["accounts"] = DestinationStillBusy("Bulk job 750 has 3 of 10 batches done.")
    done = run(defs, instance)
    assert done.success
    assert engine.calls == ["accounts", "contacts", "finish"]
    assert materialised(instance, ACCOUNTS) is None
    assert materialised(instance, CONTACTS) is not None
    assert tags(instance, done)["seqsync/outcome"] == "partial"
    assert tags(instance, done)["seqsync/in_progress"] == "1"
    observed = instance.fetch_observations(ACCOUNTS, limit=1).records[0].asset_observation
    assert observed
    assert observed.description == (
        "crm/accounts is in progress: Bulk job 750 has 3 of 10 batches done. "
        "The next run takes it up where this one left it."
    )


def test_a_spent_budget_is_neither_red_nor_fresh_and_says_how_many_rows_wait(
    defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine
) -> None:
    engine.answers["accounts"] = BudgetSpent("daily_calls: 100 are made. 600 of 1,000 rows of accounts wait.", 600)
    engine.answers["finish"] = BudgetSpent("daily_calls: 100 are made. 7 of 7 rows of contacts wait.", 7)
    done = run(defs, instance)
    assert done.success
    assert materialised(instance, ACCOUNTS) is None and materialised(instance, FINISH) is None
    assert tags(instance, done)["seqsync/outcome"] == "partial"
    assert tags(instance, done)["seqsync/rows_waiting"] == "607"
    observed = instance.fetch_observations(ACCOUNTS, limit=1).records[0].asset_observation
    assert observed and observed.description
    assert "600 of 1,000 rows of accounts wait" in observed.description
    assert observed.metadata["seqsync/rows_waiting"] == dg.MetadataValue.int(600)


def test_some_removals_rejected(defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine) -> None:
    engine.answers["finish"] = FinishReport("crm", {"contacts": 2}, {"contacts": 1}, {}, (PROBLEM,), "Some.", 3, 1, 0.5)
    done = run(defs, instance)
    assert done.success
    removals = check_of(instance, FINISH, "removals")
    assert (removals.passed, removals.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert tags(instance, done)["seqsync/outcome"] == "partial"


def test_all_removals_rejected(defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine) -> None:
    engine.answers["finish"] = FinishReport("crm", {}, {"contacts": 3}, {}, (PROBLEM,), "None.", 3, 1, 0.5)
    done = run(defs, instance)
    assert not done.success
    assert materialised(instance, FINISH)
    assert check_of(instance, FINISH, "removals").severity == dg.AssetCheckSeverity.ERROR
    assert tags(instance, done)["seqsync/outcome"] == "failed"


def test_references_that_finish_could_not_fill_in(
    defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine
) -> None:
    some = FinishReport(
        "crm", {}, {}, {}, (), "Some.", 3, 1, 0.5, {"accounts": 9}, {"accounts": 1}, {"accounts": 2}, {}, (PROBLEM,)
    )
    engine.answers["finish"] = some
    done = run(defs, instance)
    assert done.success
    check = check_of(instance, FINISH, "references")
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert tags(instance, done) == {
        "seqsync/outcome": "partial",
        "seqsync/references_rejected": "1",
        "seqsync/references_held": "2",
    }
    found = materialised(instance, FINISH)
    assert found and found.metadata["seqsync/referenced/accounts"] == dg.MetadataValue.int(9)
    engine.answers["finish"] = replace(some, references_over_limit=("accounts",))
    done = run(defs, instance)
    assert not done.success
    assert check_of(instance, FINISH, "references").severity == dg.AssetCheckSeverity.ERROR


def test_one_sync_alone(defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine) -> None:
    assert run(defs, instance, select=[CONTACTS]).success
    assert engine.calls == ["contacts"]


def test_materialised_by_hand_outside_the_job(
    defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine
) -> None:
    engine.answers["accounts"] = report("accounts", verdict="over_limit", rejected=9)
    done = run(
        defs,
        instance,
        job="__ASSET_JOB",
        select=[ACCOUNTS, CONTACTS],
        config={"resources": {"seqsync": {"config": {"limit": 2}}}},
    )
    assert not done.success
    assert engine.calls == ["accounts", "contacts"]
    assert engine.options[0].limit == 2


def test_checks_are_not_evaluated_alone(defs: dg.Definitions, instance: dg.DagsterInstance, engine: Engine) -> None:
    job = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(), asset_check_selection={dg.AssetCheckKey(ACCOUNTS, "rejected")}
    )
    done = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not done.success
    assert engine.calls == []
    [failure] = [e for e in done.all_events if e.is_step_failure]
    assert "Materialise crm/accounts." in str(failure.step_failure_data.user_failure_data)
