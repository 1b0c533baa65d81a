"""Other accidents than a kill of the run: a crashed org, lost replies, two runs at once, a run that sleeps."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster_tests.emulator_process import EmulatorProcess
from seqsync_dagster_tests.faults.company import Company, new_company
from seqsync_dagster_tests.faults.victim import Victims, stopped, until
from seqsync_dagster_tests.postgres_server import PostgresServer


@pytest.fixture(params=["duckdb", "postgresql"])
def company(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    emulator: EmulatorProcess,
    postgres_server: PostgresServer,
    victims: Victims,
) -> Iterator[Company]:
    with new_company(request.param, "collections", tmp_path, emulator, postgres_server, victims) as made:
        made.found()
        yield made


def to_the_end(company: Company) -> None:
    done = company.run()
    assert done["code"] == 0, done
    assert "error" not in done, done["message"]
    company.expect()
    company.judge()


@pytest.mark.parametrize(
    ("company", "api", "kind"),
    [
        *itertools.product(["duckdb", "postgresql"], ["collections", "bulk"], ["reset_after"]),
        # Nothing was written, so it is between the connection and the org: no engine sees a difference.
        *itertools.product(["duckdb"], ["collections"], ["reset_before", "503"]),
        *itertools.product(["postgresql"], ["bulk"], ["reset_before", "503"]),
    ],
    indirect=["company"],
)
def test_lost_replies_and_refused_calls_in_the_middle_are_overcome(company: Company, api: str, kind: str) -> None:
    company.world.settings["collections_up_to"] = 0 if api == "bulk" else 2000
    paths = ["/jobs/ingest", "/batches", "successfulResults"] if api == "bulk" else ["Account", "Workspace__c", ""]
    for path in paths:
        company.world.org.fault(kind, f"/composite/sobjects/{path}" if api != "bulk" else path, times=1)
    to_the_end(company)


@pytest.mark.parametrize("api", ["collections", "bulk"])
def test_an_org_that_goes_away_in_the_middle_and_comes_back(company: Company, api: str) -> None:
    company.world.settings.update(collections_up_to=0 if api == "bulk" else 2000)
    org = company.world.org
    at = "after PUT" if api == "bulk" else "after PATCH /services/data/v64.0/composite/sobjects/Workspace__c"
    job = company.job(at_name=at, stop=True)
    pid = company.victims.start(job)
    until(lambda: stopped(pid))
    org.kill()
    os.kill(pid, signal.SIGCONT)
    assert company.victims.wait(pid) == 0
    result = Path(job["result"]).read_text()
    assert "DestinationUnreachable" in result
    org.start()
    to_the_end(company)


def test_of_two_runs_at_the_same_moment_one_is_refused_with_the_name_of_the_other(company: Company) -> None:
    first = company.job(nth=1, at_name="after PATCH", stop=True)
    pid = company.victims.start(first)
    until(lambda: stopped(pid))
    try:
        second = company.run(nth=2)
        assert second["error"] == "LeaseHeld"
        assert f"is being synced by test run {pid * 1000 + 1} since" in second["message"]
        assert not any("PATCH" in p for p in second["points"])
    finally:
        os.kill(pid, signal.SIGCONT)
    assert company.victims.wait(pid) == 0
    company.expect()
    company.judge(killed=False)


def test_two_runs_started_together_send_each_row_once(company: Company) -> None:
    jobs = [company.job(nth=n) for n in (1, 2)]
    pids = [company.victims.start(job) for job in jobs]
    assert [company.victims.wait(pid) for pid in pids] == [0, 0]
    to_the_end(company)
    assert {c["operation"] for c in company.world.state("accounts", "changelog")} == {"created", "rejected"}


# A sleeping process keeps its DuckDB file, so there nobody can take over.
@pytest.mark.parametrize("company", ["postgresql"], indirect=True)
@pytest.mark.parametrize("at_name", ["after PATCH", "after commit postgresql UPDATE seqsync.journal_run"])
def test_a_run_that_slept_and_was_taken_over_writes_nothing_when_it_wakes(company: Company, at_name: str) -> None:
    sleeper = company.job(nth=1, at_name=at_name, stop=True, beat_s=0.2, ttl_s=1.0)
    pid = company.victims.start(sleeper)
    until(lambda: stopped(pid))
    until(lambda: "error" not in company.run(nth=2, beat_s=0.2, ttl_s=1.0))
    company.expect()
    company.judge()
    company.change(7)
    assert "error" not in company.run()
    company.expect()
    company.world.org.reset_calls()
    os.kill(pid, signal.SIGCONT)
    assert company.victims.wait(pid) == 0
    assert "LeaseLost" in Path(sleeper["result"]).read_text()
    assert company.world.org.calls()["row_bearing"] == 0
    company.judge()


@pytest.mark.parametrize("company", ["duckdb"], indirect=True)
def test_a_sleeping_run_keeps_its_duckdb_file_and_the_next_one_says_so(company: Company) -> None:
    sleeper = company.job(nth=1, at_name="after PATCH", stop=True, beat_s=0.2, ttl_s=0.5)
    pid = company.victims.start(sleeper)
    until(lambda: stopped(pid))
    try:
        until(lambda: company.run(nth=2, lock_wait_s=0.2).get("error") == "WarehouseLocked")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert company.victims.wait(pid) == 0
    assert "LeaseLost" in Path(sleeper["result"]).read_text()
    to_the_end(company)


def renamed(company: Company, name: str) -> None:
    company.world.sql(f"UPDATE crm.accounts SET name = '{name}' WHERE account_id IN ('A00', 'A01', 'A02')")


def test_a_model_that_returns_to_its_old_self_after_a_kill_is_sent_again(company: Company) -> None:
    world = company.world
    world.sql("UPDATE crm.accounts SET name = 'old' WHERE account_id IN ('A00', 'A01', 'A02')")
    assert "error" not in company.run(syncs=["accounts"])
    renamed(company, "new")
    schema = "main" if world.on_duckdb else "seqsync"
    assert company.run(syncs=["accounts"], at_name=f"UPDATE {schema}.journal_send")["code"] == -9
    renamed(company, "old")
    assert "error" not in company.run(syncs=["accounts"])
    assert world.org.by_external_id("Account")["A00"]["Name"] == "old"


def test_a_model_that_returns_to_its_old_self_after_an_outage_is_sent_again(company: Company) -> None:
    world = company.world
    world.settings["collections_up_to"] = 0
    renamed(company, "old")
    world.run("accounts")
    renamed(company, "new")
    # The reply to the job's results never comes: the update has happened, the run ends with an error.
    world.sql("UPDATE crm.accounts SET website = 'new' WHERE account_id = 'A20'")
    job = company.job(syncs=["accounts"], at_name="successfulResults", stop=True)
    pid = company.victims.start(job)
    until(lambda: stopped(pid))
    world.org.kill()
    os.kill(pid, signal.SIGCONT)
    assert company.victims.wait(pid) == 0
    world.org.start()
    renamed(company, "old")
    world.sql("UPDATE crm.accounts SET website = 'a20.example' WHERE account_id = 'A20'")
    world.run("accounts")
    assert world.org.by_external_id("Account")["A00"]["Name"] == "old"
    assert world.org.by_external_id("Account")["A20"]["Website"] == "a20.example"


@pytest.mark.parametrize("options", [RunOptions(only_keys=("A00",)), RunOptions(limit=1)])
def test_a_model_that_returns_to_its_old_self_after_a_partial_run_is_sent_again(
    company: Company, options: RunOptions
) -> None:
    world = company.world
    renamed(company, "old")
    world.run("accounts")
    renamed(company, "new")
    assert world.run("accounts", options).counts.updated == 1
    renamed(company, "old")
    assert world.run("accounts").counts.updated == 1
    assert {r["Name"] for k, r in world.org.by_external_id("Account").items() if k in ("A00", "A01")} == {"old"}


def test_a_record_whose_row_came_back_only_to_be_held_is_still_removed(company: Company) -> None:
    world = company.world
    world.run_all()
    world.sql("DELETE FROM crm.workspaces WHERE workspace_id = 'W00'")
    world.run("workspaces")
    world.sql("INSERT INTO crm.workspaces VALUES ('W00', 'back', 'Free', 'A98')")
    assert world.run("workspaces").counts.held_missing == 1
    world.sql("DELETE FROM crm.workspaces WHERE workspace_id = 'W00'")
    assert world.run("workspaces").counts.removals_due == 1
    world.sql("DELETE FROM crm.contacts WHERE workspace_id = 'W00'")
    world.run("contacts")
    assert world.finish().removed["workspaces"] == 1
    assert "W00" not in world.org.by_external_id("Workspace__c")
