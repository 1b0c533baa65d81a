"""A connection that keeps to its share of the org's API calls."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from seqsync_dagster.destinations.protocol import CallCount
from seqsync_dagster.destinations.salesforce.budget import BULK_JOB_CALLS, Budget
from seqsync_dagster.destinations.salesforce.destination import SalesforceDestination
from seqsync_dagster.destinations.salesforce.settings import ApiBudget, SalesforceSettings
from seqsync_dagster.errors import BudgetSpent
from seqsync_dagster_tests.destinations.salesforce.conftest import Connect
from seqsync_dagster_tests.destinations.salesforce.sending import Sent, accounts, drain, upsert
from seqsync_dagster_tests.emulator_process import CLIENT_ID, CLIENT_SECRET, EmulatorProcess


class Shared:
    """A count that several destinations share."""

    def __init__(self, made: int = 0) -> None:
        self.made = made

    def add(self, calls: int) -> None:
        self.made += calls

    def take(self, calls: int, most: int) -> int:
        before = self.made
        self.made += calls if before + calls <= most else 0
        return before


def sharing(destination: SalesforceDestination, shared: Shared) -> SalesforceDestination:
    destination.calls.ledger = shared
    return destination


@pytest.mark.parametrize(
    "budget",
    [{}, {"daily_calls": 19}, {"reserve": 0}, {"reserve": {"percent": 100}}, {"reserve": "20%"}, {"daily": 100}],
)
def test_a_budget_limits_something_and_leaves_room_for_a_bulk_job(budget: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SalesforceSettings.model_validate({"url": "https://a.example", "session_id": "x", "api_budget": budget})


def test_sending_stops_between_two_calls_and_what_was_sent_is_answered(
    connect: Connect, emulator: EmulatorProcess
) -> None:
    shared = Shared(made=17)
    destination = sharing(connect(api_budget={"daily_calls": 20}), shared)
    sent = Sent()
    with pytest.raises(BudgetSpent, match=r"made or took 20 API calls in the last 24 hours.*daily_calls: 20") as spent:
        drain(destination.send(upsert(1000), [accounts(1000)]), sent)
    assert "salesforce connection 'crm' at 127.0.0.1" in str(spent.value)
    assert sent.acknowledged() == set(range(600)) == {int(k[1:]) for k in emulator.by_external_id("Account")}
    assert sent.in_flight[-1].last_seq == 599
    assert shared.made == 20


def test_every_call_but_a_login_is_counted(connect: Connect) -> None:
    shared = Shared()
    destination = sharing(connect(api_budget={"daily_calls": 100}, collections_up_to=0), shared)
    destination.account()
    destination.describe("Account")
    drain(destination.send(upsert(50), [accounts(50)]))
    destination.close()
    # What was taken for the job and not used has been given back.
    assert shared.made == destination.calls.total - destination.calls.by_kind["login"]


def test_a_bulk_job_is_begun_only_when_its_calls_are_there_and_then_read_to_its_end(
    connect: Connect, emulator: EmulatorProcess
) -> None:
    settings = {"collections_up_to": 0, "bulk_part_rows": 100, "api_budget": {"daily_calls": 30}}
    shared = Shared(made=30 - BULK_JOB_CALLS)
    destination = sharing(connect(**settings), shared)
    sent = Sent()
    with pytest.raises(BudgetSpent, match=f"the next send takes {BULK_JOB_CALLS}"):
        # While the first job is waited for, others spend what is left and more.
        for event in destination.send(upsert(200), [accounts(200)]):
            sent.take(event)
            shared.made = 1000
    assert sent.acknowledged() == set(range(100))
    assert emulator.calls()["calls"]["POST /services/data/vN/jobs/ingest"] == 1


def test_a_job_that_is_taken_up_is_read_whatever_the_budget_says(connect: Connect) -> None:
    first = connect(collections_up_to=0)
    events = first.send(upsert(100), [accounts(100)])
    token = next(events).token  # type: ignore[union-attr]
    job = str(token["job"])
    bulk = first._connection
    bulk.call("PUT", f"jobs/ingest/{job}/batches", body=_csv(100))
    bulk.call("PATCH", f"jobs/ingest/{job}", json={"state": "UploadComplete"})
    later = sharing(connect(api_budget={"daily_calls": 20, "reserve": {"percent": 99.99}}), Shared(made=10**6))
    assert drain(later.resume(token, upsert(100), [accounts(100)])).acknowledged() == set(range(100))


def _csv(rows: int) -> Any:
    import io

    lines = ["External_Id__c,Name", *(f"A{n:06},Name {n}" for n in range(rows))]
    return io.BytesIO(("\n".join(lines) + "\n").encode())


def test_a_reserve_is_left_to_others(emulator: EmulatorProcess) -> None:
    def connected(reserve: object) -> SalesforceDestination:
        given = {"url": emulator.url, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "retry_wait_s": 0}
        return SalesforceDestination(
            SalesforceSettings.model_validate({**given, "api_budget": {"reserve": reserve}}), "crm"
        )

    emulator.restart()  # what was used is what the store knows
    used = emulator.login().get("limits").json()["DailyApiRequests"]
    left = used["Remaining"]
    assert drain(connected(left - 10).send(upsert(200), [accounts(200)])).acknowledged()
    for reserve in (left, {"percent": 99.9999}):
        with pytest.raises(BudgetSpent, match=r"of the org's 100,000 API calls of 24 hours are used.* reserve of "):
            drain(connected(reserve).send(upsert(200), [accounts(200)]))


def test_the_orgs_usage_is_asked_for_when_no_reply_tells_it(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "heard", lambda self, info: None)
    destination = connect(api_budget={"reserve": 100_000})
    with pytest.raises(BudgetSpent, match=r"1 of the org's 100,000"):
        drain(destination.send(upsert(1), [accounts(1)]))
    assert destination.calls.by_kind["other"] == 1


@pytest.mark.parametrize(
    ("header", "left"),
    [
        ("api-usage=18/5000", 4982),
        ("api-usage=25/5000; per-app-api-usage=17/250(appName=sample-app)", 4975),
        ("per-app-api-usage=17/250(appName=api-usage); api-usage=4000/5000", 1000),
    ],
)
def test_the_header_tells_the_orgs_usage_and_not_the_apps(header: str, left: int) -> None:
    for calls in (left, left + 1):
        budget = Budget(ApiBudget(reserve=1), CallCount())
        budget.heard(None)
        assert budget.must_ask
        budget.heard(header)
        if calls < left:
            budget.afford(calls, "x")
        else:
            with pytest.raises(BudgetSpent, match="5,000"):
                budget.afford(calls, "x")
    budget.afford(left - 1, "x")
