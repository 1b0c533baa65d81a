"""While the org works at one Bulk job, the next is uploaded; never do two of a send work side by side."""

from __future__ import annotations

import pytest

from seqsync_dagster.destinations.protocol import Answered, InFlight, Outcomes
from seqsync_dagster.errors import BudgetSpent, DestinationError, DestinationRefused, DestinationStillBusy
from seqsync_dagster_tests.destinations.salesforce.conftest import Connect
from seqsync_dagster_tests.destinations.salesforce.sending import Sent, accounts, drain, upsert
from seqsync_dagster_tests.emulator_process import EmulatorProcess

WORKING = ("UploadComplete", "InProgress")


def states(emulator: EmulatorProcess, sent: Sent) -> list[str]:
    org = emulator.login()
    return [org.get(f"jobs/ingest/{f.token['job']}").json()["state"] for f in sent.in_flight]


def test_the_next_job_is_announced_while_one_is_at_work_and_begins_after_it(
    connect: Connect, emulator: EmulatorProcess
) -> None:
    emulator.settings(bulk_delay_s=0.2)
    sent, order, seen = Sent(), [], []
    for event in connect(collections_up_to=0, bulk_part_rows=400).send(upsert(1200), [accounts(1200)]):
        sent.take(event)
        if isinstance(event, InFlight):
            order.append(f"announced {event.last_seq}")
            seen.append(states(emulator, sent))
        elif isinstance(event, Answered):
            order.append(f"answered {event.last_seq}")
        elif isinstance(event, Outcomes):
            seen.append(states(emulator, sent))
    assert order == [
        "announced 399",
        "announced 799",
        "announced 1199",
        "answered 399",
        "answered 799",
        "answered 1199",
    ] or order == [
        "announced 399",
        "announced 799",
        "answered 399",
        "announced 1199",
        "answered 799",
        "answered 1199",
    ]
    assert sent.acknowledged() == set(range(1200)) and sent.repeated == 0
    assert max(sum(state in WORKING for state in at_once) for at_once in seen) == 1
    # The second was uploaded while the first was at work, and at work while the results of the first were read.
    assert [s for s in seen if s[0] in WORKING and s[1:] == ["Open"]]
    assert [s for s in seen if s[0] == "JobComplete" and s[1] in WORKING]


def test_rows_that_met_a_lock_go_again_before_the_next_job_begins(connect: Connect, emulator: EmulatorProcess) -> None:
    emulator.fault("lock", times=1)
    sent, at_first_outcome = Sent(), []
    for event in connect(collections_up_to=0, bulk_part_rows=400).send(upsert(800), [accounts(800)]):
        sent.take(event)
        if isinstance(event, Outcomes) and sent.answered == []:
            at_first_outcome.append(states(emulator, sent)[1])
    assert sent.acknowledged() == set(range(800))
    assert set(at_first_outcome) == {"Open"}


def test_a_job_that_cannot_be_begun_takes_nothing_from_the_one_at_work(
    connect: Connect, emulator: EmulatorProcess
) -> None:
    sent = Sent()
    twins = accounts(800)
    twins.loc[500, "External_Id__c"] = "A000600"
    with pytest.raises(DestinationError, match="another row of the same send"):
        drain(connect(collections_up_to=0, bulk_part_rows=400).send(upsert(800), [twins]), sent)
    assert sent.acknowledged() == set(range(400)) and sent.answered == [399]
    assert len(emulator.records("Account")) == 400


def test_a_spent_budget_is_told_when_the_job_at_work_has_been_read(connect: Connect, emulator: EmulatorProcess) -> None:
    sent = Sent()
    budget = {"daily_calls": 24}
    with pytest.raises(BudgetSpent):
        drain(
            connect(collections_up_to=0, bulk_part_rows=400, api_budget=budget).send(upsert(4000), [accounts(4000)]),
            sent,
        )
    assert sent.answered == [f.last_seq for f in sent.in_flight]
    assert sent.acknowledged() == set(range(sent.answered[-1] + 1))


def test_after_a_refused_job_nothing_of_the_next_is_written(connect: Connect, emulator: EmulatorProcess) -> None:
    sent = Sent()
    rows = accounts(800, No_Such_Field__c=["x"] * 800)
    with pytest.raises(DestinationRefused, match="Field name not found"):
        drain(connect(collections_up_to=0, bulk_part_rows=400).send(upsert(800), [rows]), sent)
    assert len(sent.in_flight) == 2 and states(emulator, sent) == ["Failed", "Aborted"]
    assert emulator.records("Account") == []


def test_both_jobs_of_a_killed_send_are_taken_up(connect: Connect, emulator: EmulatorProcess) -> None:
    emulator.settings(bulk_delay_s=0.2)
    sent, rows = Sent(), accounts(800)
    events = connect(collections_up_to=0, bulk_part_rows=400).send(upsert(800), [rows])
    for event in events:
        if isinstance(event, Outcomes):
            break
        sent.take(event)
    events.close()  # type: ignore[attr-defined]
    assert len(sent.in_flight) == 2 and not sent.rows
    again = connect(bulk_wait_s=5)
    for token, own in zip((f.token for f in sent.in_flight), (rows[:400], rows[400:]), strict=True):
        try:
            drain(again.resume(token, upsert(400), [own]), sent)
        except DestinationStillBusy:
            pytest.fail("the second job was never told to begin")
    assert sent.acknowledged() == set(range(800)) and sent.repeated == 0
    assert again.calls.row_bearing == 0 and len(emulator.records("Account")) == 800
