"""Bulk jobs: parts, values that cannot be sent, and taking up what an earlier run left."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from seqsync_dagster.destinations.protocol import Event, InFlight, Outcomes, Progress, Request
from seqsync_dagster.destinations.salesforce.destination import SalesforceDestination
from seqsync_dagster.errors import DestinationError, DestinationRefused, DestinationStillBusy
from seqsync_dagster_tests.destinations.salesforce.conftest import Connect
from seqsync_dagster_tests.destinations.salesforce.sending import Sent, accounts, drain, frame, upsert
from seqsync_dagster_tests.emulator_process import EmulatorProcess
from seqsync_dagster_tests.faults.victim import until


def killed_after(events: Iterator[Event], kind: type) -> Any:
    """Run a send until it has yielded an event of a kind, and drop it there as a kill would."""
    for event in events:
        if isinstance(event, kind):
            events.close()  # type: ignore[attr-defined]
            return event
    raise AssertionError(f"no {kind.__name__}")


def test_parts_end_at_rows_and_bytes(connect: Connect) -> None:
    by_rows = connect(collections_up_to=0, bulk_part_rows=400)
    sent = drain(by_rows.send(upsert(1000), [accounts(1000)[a : a + 130] for a in range(0, 1000, 130)]))
    assert [f.last_seq for f in sent.in_flight] == [399, 799, 999]
    assert [f.token["rows"] for f in sent.in_flight] == [400, 400, 200]
    assert sent.acknowledged() == set(range(1000))
    assert by_rows.calls.by_kind["bulk upload"] == by_rows.calls.row_bearing == 3
    by_bytes = connect(collections_up_to=0, bulk_part_mb=1)
    sent = drain(by_bytes.send(upsert(90), [accounts(90, Description=["x" * 30_000] * 90)]))
    assert len(sent.in_flight) == 3 and sent.acknowledged() == set(range(90))


def test_the_text_for_null_is_refused_here_and_blocks_nobody(connect: Connect, emulator: EmulatorProcess) -> None:
    rows = accounts(4, Phone=["1", "#N/A", "3", "4"])
    rows.loc[3, "External_Id__c"] = " "
    sent = drain(connect(collections_up_to=0).send(upsert(4), [rows]))
    assert sent.rejected() == {1: ("SEQSYNC_UNSENDABLE_VALUE", "fix_row"), 3: ("SEQSYNC_UNSENDABLE_VALUE", "fix_row")}
    assert "Phone is the text #N/A" in sent.rows[1]["message"]
    assert "External_Id__c is empty" in sent.rows[3]["message"]
    assert sent.acknowledged() == {0, 2} and len(emulator.records("Account")) == 2


def test_nothing_to_send_makes_no_call(connect: Connect) -> None:
    destination = connect(collections_up_to=0)
    assert drain(destination.send(upsert(0), iter([accounts(0)]))).in_flight == []
    assert destination.calls.total == 0


def test_a_job_killed_before_its_upload_is_sent_anew(connect: Connect, emulator: EmulatorProcess) -> None:
    destination = connect(collections_up_to=0)
    token = killed_after(destination.send(upsert(300), [accounts(300)]), InFlight).token
    resumed = drain(destination.resume(token, upsert(300), [accounts(300)]))
    assert resumed.rows == {}
    assert emulator.login().get(f"jobs/ingest/{token['job']}").json()["state"] == "Aborted"
    assert emulator.records("Account") == []


def begun(destination: SalesforceDestination, emulator: EmulatorProcess, rows: int) -> dict[str, object]:
    """A job that was uploaded, closed, and then left alone."""
    from seqsync_dagster.destinations.protocol import Progress

    token: dict[str, object] = {}

    def note(events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            if isinstance(event, InFlight):
                token.update(event.token)
            yield event

    killed_after(note(destination.send(upsert(rows), [accounts(rows)])), Progress)
    return token


def test_an_ended_job_is_read_without_sending_again(connect: Connect, emulator: EmulatorProcess) -> None:
    destination = connect(collections_up_to=0)
    emulator.settings(bulk_delay_s=0.5)
    rows = accounts(500)
    token = begun(destination, emulator, 500)
    emulator.login().wait_for(str(token["job"]))
    another = connect()
    resumed = drain(another.resume(token, upsert(500), [rows]))
    assert resumed.acknowledged() == set(range(500))
    assert another.calls.row_bearing == 0
    assert {r["created"] for r in resumed.rows.values()} == {True}


@pytest.mark.parametrize("settings", [{"bulk_delay_s": 0.6}, {"bulk_rows_per_s": 2000}])
def test_a_waiting_or_running_job_is_waited_for(
    connect: Connect, emulator: EmulatorProcess, settings: dict[str, float]
) -> None:
    emulator.settings(**settings)
    destination = connect(collections_up_to=0)
    token = begun(destination, emulator, 1500)
    with pytest.raises(DestinationStillBusy, match=r"still (UploadComplete|InProgress).*the next run takes it up"):
        drain(connect(bulk_wait_s=0.01).resume(token, upsert(1500), [accounts(1500)]))
    resumed = drain(connect().resume(token, upsert(1500), [accounts(1500)]))
    assert resumed.acknowledged() == set(range(1500))
    assert len(emulator.records("Account")) == 1500


def test_a_send_that_takes_too_long_is_left_to_the_next_run(connect: Connect, emulator: EmulatorProcess) -> None:
    emulator.settings(bulk_delay_s=0.6)
    sent = Sent()
    with pytest.raises(DestinationStillBusy, match="bulk_wait_s"):
        drain(connect(collections_up_to=0, bulk_wait_s=0.1).send(upsert(10), [accounts(10)]), sent)
    assert sent.progress and sent.progress[0].total == 10
    resumed = drain(connect().resume(sent.in_flight[-1].token, upsert(10), [accounts(10)]))
    assert resumed.acknowledged() == set(range(10))


def test_the_org_restarting_under_a_job_is_waited_out(connect: Connect, emulator: EmulatorProcess) -> None:
    emulator.settings(bulk_rows_per_s=3000)
    destination = connect(collections_up_to=0, retry_wait_s=0.3)
    sent = Sent()
    for event in destination.send(upsert(3000), [accounts(3000)]):
        sent.take(event)
        if len(sent.progress) == 1 and not sent.rows:
            emulator.restart(kill=True)
    assert sent.acknowledged() == set(range(3000))
    assert len(emulator.records("Account")) == 3000


def test_an_aborted_job_tells_what_it_did(connect: Connect, emulator: EmulatorProcess) -> None:
    emulator.settings(bulk_rows_per_s=1000)
    destination = connect(collections_up_to=0)
    token = begun(destination, emulator, 4000)
    org = emulator.login()
    while not org.get(f"jobs/ingest/{token['job']}").json().get("numberRecordsProcessed"):
        pass
    assert org.patch(f"jobs/ingest/{token['job']}", json={"state": "Aborted"}).ok
    resumed = drain(connect().resume(token, upsert(4000), [accounts(4000)]))
    written = {int(key[1:]) for key in emulator.by_external_id("Account")}
    assert resumed.acknowledged() == written
    assert 0 < len(written) < 4000


def test_a_job_aborted_by_a_person_stops_the_send(connect: Connect, emulator: EmulatorProcess) -> None:
    emulator.settings(bulk_rows_per_s=1000)
    sent, org = Sent(), emulator.login()
    with pytest.raises(DestinationRefused, match="someone aborted Bulk job"):
        for event in connect(collections_up_to=0).send(upsert(4000), [accounts(4000)]):
            sent.take(event)
            if len(sent.progress) == 1:
                org.patch(f"jobs/ingest/{sent.in_flight[0].token['job']}", json={"state": "Aborted"})
    assert sent.acknowledged() == {int(key[1:]) for key in emulator.by_external_id("Account")}


def test_deleted_jobs_and_collections_calls_leave_nothing_to_resume(
    connect: Connect, emulator: EmulatorProcess
) -> None:
    destination = connect(collections_up_to=0)
    sent = drain(destination.send(upsert(10), [accounts(10)]))
    token = sent.in_flight[0].token
    emulator.login().delete(f"jobs/ingest/{token['job']}")
    assert drain(destination.resume(token, upsert(10), [accounts(10)])).rows == {}
    calls = destination.calls.total
    assert drain(destination.resume({"api": "collections"}, upsert(10), [accounts(10)])).rows == {}
    assert destination.calls.total == calls


def test_results_of_rows_nobody_sent_are_an_error(connect: Connect, emulator: EmulatorProcess) -> None:
    destination = connect(collections_up_to=0)
    token = drain(destination.send(upsert(10), [accounts(10)])).in_flight[0].token
    sent = Sent()
    with pytest.raises(DestinationError, match=r"10 rows sent; results name 10 successful.*4 of which were not sent"):
        drain(destination.resume(token, upsert(6), [accounts(6)]), sent)
    assert sent.acknowledged() == set(range(6))


def test_resumed_rows_that_met_a_lock_are_sent_again(connect: Connect, emulator: EmulatorProcess) -> None:
    emulator.settings(bulk_delay_s=0.3)
    emulator.fault("lock", "/jobs/ingest Account", times=5)
    token = begun(connect(collections_up_to=0), emulator, 400)
    another = connect()
    resumed = drain(another.resume(token, upsert(400), [accounts(400)]))
    assert resumed.acknowledged() == set(range(400)) and another.calls.by_kind["collections"] == 1
    assert len(emulator.records("Account")) == 400
    # A resume that is itself killed leaves no word on what it sent, so nobody can say who created the five.
    once_more = drain(connect().resume(token, upsert(400), [accounts(400)]))
    assert Counter(row["created"] for row in once_more.rows.values()) == {True: 395, None: 5}


def test_inserts_that_met_a_lock_and_are_asked_about_again_are_not_called_anothers(
    connect: Connect, emulator: EmulatorProcess
) -> None:
    emulator.seed("Account", [{"Name": "another's", "External_Id__c": "A000399"}])
    emulator.fault("lock", "/jobs/ingest Account", times=5)
    request = Request("Account", "insert", "External_Id__c", 400)
    sent = drain(connect(collections_up_to=0).send(request, [accounts(400)]))
    assert Counter(row["created"] for row in sent.rows.values()) == {True: 399, False: 1}
    again = drain(connect().resume(sent.in_flight[0].token, request, [accounts(400)]))
    assert again.acknowledged() == set(range(400)) and len(emulator.records("Account")) == 400
    assert Counter(row["created"] for row in again.rows.values()) == {True: 394, None: 5, False: 1}


@pytest.mark.parametrize("at", [InFlight, Progress, Outcomes])
def test_a_job_that_somebody_deletes_is_named(connect: Connect, emulator: EmulatorProcess, at: type) -> None:
    emulator.settings(bulk_delay_s=0.3)
    org, sent, path = emulator.login(), Sent(), ""
    rows = accounts(10)
    # So that there is a second file of results.
    rows.loc[3, "Name"] = None

    def ended() -> bool:
        return bool(org.get(path).json()["state"] == "JobComplete")

    with pytest.raises(DestinationError) as raised:
        for event in connect(collections_up_to=0).send(upsert(10), [rows]):
            sent.take(event)
            path = f"jobs/ingest/{sent.in_flight[0].token['job']}"
            if isinstance(event, at):
                if at is InFlight:
                    org.patch(path, json={"state": "Aborted"}).raise_for_status()
                else:
                    until(ended)
                org.delete(path).raise_for_status()
    assert f"Bulk job {path.rpartition('/')[2]} was deleted in the org" in str(raised.value)
    assert drain(connect().resume(sent.in_flight[0].token, upsert(10), [rows])).rows == {}


def test_updates_are_resumed_by_id(connect: Connect, emulator: EmulatorProcess) -> None:
    ids = emulator.seed("Account", [{"Name": f"n{n}"} for n in range(20)])
    rows = frame({"dest_id": ids, "Name": [f"new {n}" for n in range(20)]}, seqs=range(100, 120))
    request = Request("Account", "update", None, 20)
    token = drain(connect(collections_up_to=0).send(request, [rows])).in_flight[0].token
    resumed = drain(connect().resume(token, request, [rows]))
    assert {seq: row["dest_id"] for seq, row in resumed.rows.items()} == dict(zip(itertools.count(100), ids))
