"""Faults that befall rows and jobs rather than calls: the run ends, says so, and nothing of it is left in the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.engine.report import SyncReport
from seqsync_dagster_tests.emulator_process import Api
from seqsync_dagster_tests.faults.office import Office, office, offices

__all__ = ["office", "offices"]

pytestmark = pytest.mark.parametrize("offices", ["duckdb"], indirect=True)

ALWAYS = 10**6
APIS = {"collections": 2000, "bulk": 0}


@pytest.fixture(params=["collections", "bulk"])
def by(request: pytest.FixtureRequest, office: Office) -> Iterator[str]:
    """The API that all rows go through."""
    office.world.settings["collections_up_to"] = APIS[request.param]
    yield request.param
    del office.world.settings["collections_up_to"]


def told(report: SyncReport) -> dict[str, tuple[str, str]]:
    return {str(p.key): (str(p.code), str(p.message)) for p in report.problems}


def all_well(office: Office, options: RunOptions | None = None) -> None:
    """The next runs bring everything in order, and the ones after them send nothing."""
    office.org.clear_faults()
    reports = [office.world.run(name, options) for name in ("accounts", "contacts")]
    assert [r.verdict for r in reports] == ["success", "success"], [told(r) for r in reports]
    office.judge()
    office.quiet("accounts", "contacts")


def test_rows_that_stay_locked_are_named_hold_their_children_and_go_with_the_next_run(office: Office, by: str) -> None:
    office.news(contacts=2)
    new = f"N{office.number}"
    office.org.fault("lock", "Account", times=ALWAYS)
    report = office.world.run("accounts")
    assert (report.counts.created, report.counts.updated, report.counts.held) == (0, 0, 1)
    assert told(report)[new][0] == "UNABLE_TO_LOCK_ROW"
    assert "exclusive access" in told(report)[new][1]
    assert office.world.run("contacts").counts.held == 2
    all_well(office)


def test_batches_that_lock_each_other_out_by_their_parents_are_sent_again_one_by_one(office: Office) -> None:
    office.news(contacts=204)
    office.world.run("accounts")
    office.world.settings["collections_up_to"] = 0
    office.org.fault("contention", "/jobs/ingest Contact", rows=200)
    assert office.world.run("contacts").counts.created == 204
    del office.world.settings["collections_up_to"]
    assert any("met a lock and are sent again" in line for line in office.world.lines)
    all_well(office)


@pytest.mark.parametrize(
    ("by", "kind", "rule", "code", "words"),
    [
        ("collections", "duplicate_rule", {"block": True}, "DUPLICATES_DETECTED", "Use one of these records?"),
        (
            "bulk",
            "validation_rule",
            {"matches": "^new$", "message": "Not new: ever"},
            "FIELD_CUSTOM_VALIDATION_EXCEPTION",
            "Not new: ever",
        ),
    ],
    indirect=["by"],
)
def test_rules_of_the_org_refuse_rows_in_their_own_words_and_nobody_elses(
    office: Office, by: str, kind: str, rule: dict[str, Any], code: str, words: str
) -> None:
    [somebodys] = office.org.seed("Account", [{"Name": "new", "External_Id__c": "somebody's"}])
    office.news(contacts=2)
    new = f"N{office.number}"
    office.org.fault(kind, object="Account", fields=["Name"], **rule)
    report = office.world.run("accounts")
    assert (report.counts.updated, report.counts.rejected, report.verdict) == (2, 1, "partial")
    assert told(report)[new][0] == code and words in told(report)[new][1]
    assert office.world.run("contacts").counts.held == 2
    office.org.remove("Account", somebodys)
    # Refused for its values, a row waits some hours unless somebody names it or asks for everything.
    all_well(office, RunOptions(full_resync=True))


def test_a_job_that_fails_half_way_is_told_and_the_rest_of_its_rows_goes_with_the_next_run(office: Office) -> None:
    office.news(contacts=5)
    office.world.run("accounts")
    office.world.settings["collections_up_to"] = 0
    office.org.fault("fail_job", "Contact", rows=2)
    said = office.fails(lambda: office.world.run("contacts"))
    assert "failed before it came to 3 of its rows: TooManyLockFailure : Too many lock failure" in said
    assert [r["state"] for k, r in office.world.ledger("contacts").items() if k.startswith("p")].count("held") == 0
    del office.world.settings["collections_up_to"]
    all_well(office)


@pytest.mark.parametrize("meanwhile", ["nothing", "aborted", "deleted"])
def test_a_job_that_outlasts_the_run_is_taken_up_by_the_next_whatever_people_do_to_it(
    office: Office, meanwhile: str
) -> None:
    office.news()
    office.world.settings.update(collections_up_to=0, bulk_wait_s=0.01)
    office.org.settings(bulk_delay_s=3600)
    said = office.fails(lambda: office.world.run("accounts"))
    assert "is still UploadComplete" in said and "the next run takes it up" in said
    again = office.fails(lambda: office.world.run("accounts"))
    assert again == said, "the same job, not another one"
    if meanwhile != "nothing":
        api = Api(office.org.url)
        [job] = [j["id"] for j in api.get("jobs/ingest").json()["records"] if j["state"] == "UploadComplete"]
        assert api.patch(f"jobs/ingest/{job}", json={"state": "Aborted"}).ok
        if meanwhile == "deleted":
            assert api.delete(f"jobs/ingest/{job}").ok
    office.org.settings(bulk_delay_s=0)
    del office.world.settings["collections_up_to"], office.world.settings["bulk_wait_s"]
    all_well(office)


def test_a_spent_day_of_batches_or_calls_ends_the_run_and_the_next_day_goes_on(office: Office) -> None:
    office.news(contacts=2)
    office.world.settings["collections_up_to"] = 0
    office.org.settings(bulk_batches_limit=0)
    said = office.fails(lambda: office.world.run("accounts"))
    assert "ExceededQuota : ApiBatchItems Limit exceeded" in said and "Nothing was written" in said
    del office.world.settings["collections_up_to"]
    office.org.settings(bulk_batches_limit=15_000, api_calls=0, api_limit=6)
    said = office.fails(lambda: office.world.run("accounts"))
    assert "sending rows" in said and "REQUEST_LIMIT_EXCEEDED" in said
    office.org.settings(api_calls=0, api_limit=100_000)
    all_well(office)


@pytest.mark.parametrize("by", ["bulk"], indirect=True)
def test_a_record_that_was_merged_away_is_told_and_comes_back_only_when_asked_for(office: Office, by: str) -> None:
    office.departure()
    office.world.finish()
    gone, kept = office.leaves[-1], office.leaves[0]
    records = office.org.by_external_id("Account")
    office.org.merge("Account", records[kept]["Id"], records[gone]["Id"])
    office.rename(gone)
    report = office.world.run("accounts")
    assert told(report)[gone][0] == "ENTITY_IS_DELETED"
    assert office.world.ledger("accounts")[gone.lower()]["state"] == "gone"
    assert gone not in office.org.by_external_id("Account")
    assert office.world.run("accounts").counts.planned == 0
    assert office.world.run("accounts", RunOptions(only_keys=(gone,))).counts.created == 1
    all_well(office)
