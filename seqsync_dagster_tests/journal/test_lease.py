from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from seqsync_dagster.errors import LeaseHeld, LeaseLost
from seqsync_dagster.journal import Journal, JournalUnavailable, Lease, Scope, tables
from seqsync_dagster.journal.database import Database
from seqsync_dagster_tests.journal.actor import Actor
from seqsync_dagster_tests.journal.frames import acknowledged


def seqs(journal: Journal, run_id: str) -> list[int]:
    return [seq for table in journal.outcomes(run_id) for seq in table["seq"].to_pylist()]


def lease_row(journal: Journal, scope: Scope) -> sa.Row[tuple[object, ...]]:
    with journal._database.read() as connection:
        return connection.execute(sa.select(tables.lease).where(tables.lease.c.sync == scope.sync)).one()


def change_row(journal: Journal, scope: Scope, **values: object) -> None:
    with journal._database.write() as connection:
        connection.execute(sa.update(tables.lease).where(tables.lease.c.sync == scope.sync).values(**values))


def let_time_pass(journal: Journal, scope: Scope) -> None:
    """As if the holder had not renewed its lease for a minute."""
    change_row(
        journal,
        scope,
        heartbeat_at=tables.lease.c.heartbeat_at - 61,
        expires_at=tables.lease.c.expires_at - 61,
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited for 30 s"
        time.sleep(0.01)


@contextmanager
def actors(url: str, scope: Scope, count: int) -> Iterator[list[Actor]]:
    started = [Actor(url, scope.sequence, scope.sync) for _ in range(count)]
    try:
        for actor in started:
            assert actor.answer() == "ready"
        yield started
    finally:
        for actor in started:
            actor.__exit__(None, None, None)


def test_only_one_of_many_processes_gets_a_new_journals_lease(new_journal_url: str, scope: Scope) -> None:
    with actors(new_journal_url, scope, 6) as racers:
        for number, actor in enumerate(racers):
            actor.tell("acquire", holder=f"racer {number}")
        answers = [actor.answer() for actor in racers]
        winners = [number for number, answer in enumerate(answers) if answer == 1]
        assert len(winners) == 1
        losers = [answer for answer in answers if answer != 1]
        assert {answer["error"] for answer in losers} == {"LeaseHeld"}
        assert all(f"racer {winners[0]} since" in answer["message"] for answer in losers)


def test_only_one_of_many_threads_gets_the_lease(journal: Journal, scope: Scope) -> None:
    barrier = threading.Barrier(4)
    won: list[Lease] = []
    lost: list[LeaseHeld] = []

    def race(number: int) -> None:
        barrier.wait()
        try:
            won.append(journal.acquire(scope, f"thread {number}"))
        except LeaseHeld as error:
            lost.append(error)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 3)
    assert {error.holder for error in lost} == {won[0].holder}
    won[0].release()


def test_the_holder_is_named_and_scopes_do_not_meet(journal: Journal, scope: Scope) -> None:
    assert journal.holder(scope) is None
    with journal.acquire(scope, "run 1234abcd") as lease:
        assert journal.holder(scope) == "run 1234abcd"
        with pytest.raises(LeaseHeld, match=rf"{scope} is being synced by run 1234abcd since \d{{4}}-.* UTC") as held:
            journal.acquire(scope, "run 2")
        assert held.value.holder == "run 1234abcd"
        assert f"process {os.getpid()} on" in str(held.value)
        with journal.acquire(Scope(scope.sequence, scope.sync + "_b"), "run 3"):
            lease.check()
    assert journal.holder(scope) is None


def test_epochs_grow_across_releases_and_a_released_lease_cannot_write(journal: Journal, scope: Scope) -> None:
    epochs = []
    for _ in range(3):
        with journal.acquire(scope, "run") as lease:
            epochs.append(lease.epoch)
        lease.release()
        with pytest.raises(LeaseLost, match="was released"):
            lease.check()
        with pytest.raises(LeaseLost, match="was released"):
            journal.begin(lease, f"late {scope}")
    assert epochs == [1, 2, 3]


def test_a_killed_holder_is_followed_at_once(journal: Journal, journal_url: str, scope: Scope) -> None:
    with actors(journal_url, scope, 1) as [actor]:
        assert actor.ask("acquire", holder="run killed") == 1
        with pytest.raises(LeaseHeld):
            journal.acquire(scope, "run next")
        actor.kill()
        # Nobody has waited for the process: it is a zombie now, and counts as gone.
        os.waitid(os.P_PID, actor.process.pid, os.WEXITED | os.WNOWAIT)
        assert journal.holder(scope) is None
        with journal.acquire(scope, "run next") as lease:
            assert lease.epoch == 2


def test_another_process_with_the_same_pid_is_not_the_holder(journal: Journal, scope: Scope) -> None:
    lease = journal.acquire(scope, "run before")
    change_row(journal, scope, process_start=tables.lease.c.process_start - 1)
    with journal.acquire(scope, "run after") as successor:
        assert successor.epoch == 2
        with pytest.raises(LeaseLost, match="taken over by run after"):
            lease.check()


@pytest.mark.parametrize("elsewhere", [{"host": "other"}, {"machine": "other container, same host name"}])
def test_a_pid_says_nothing_about_processes_elsewhere(
    journal: Journal, scope: Scope, elsewhere: dict[str, str]
) -> None:
    with journal.acquire(scope, "run elsewhere"):
        change_row(journal, scope, process_start=1, **elsewhere)
        with pytest.raises(LeaseHeld):
            journal.acquire(scope, "run here")


def test_an_epoch_of_a_journal_made_anew_is_not_this_one(journal: Journal, scope: Scope) -> None:
    lease = journal.acquire(scope, "run before")
    change_row(journal, scope, token="of the first run in the new file")
    with pytest.raises(LeaseLost):
        journal.begin(lease, f"late {scope}")
    assert journal.open_runs(scope) == []


def test_a_stopped_holder_is_followed_after_its_time_and_cannot_write_late(
    journal: Journal, journal_url: str, scope: Scope
) -> None:
    run_id = f"stopped {scope}"
    with actors(journal_url, scope, 1) as [actor]:
        actor.ask("acquire", holder="run stopped")
        actor.ask("begin", run_id=run_id)
        actor.ask("record", run_id=run_id, seqs=[1, 2], word="in time")
        actor.stop()
        with pytest.raises(LeaseHeld):
            journal.acquire(scope, "run next")
        let_time_pass(journal, scope)
        with journal.acquire(scope, "run next") as lease:
            assert lease.epoch == 2
            actor.go_on()
            for late in (
                {"command": "record", "run_id": run_id, "seqs": [2, 3], "word": "late"},
                {"command": "close run", "run_id": run_id},
                {"command": "begin", "run_id": f"late {scope}"},
                {"command": "check"},
            ):
                answer = actor.ask(**late)
                assert answer["error"] == "LeaseLost"
                assert "taken over by run next" in answer["message"]
            assert [run.run_id for run in journal.open_runs(scope)] == [run_id]
            assert [table.column("dest_id").to_pylist() for table in journal.outcomes(run_id)] == [["in time"] * 2]
            journal.record(lease, run_id, acknowledged([3], "of the successor"))
            assert seqs(journal, run_id) == [1, 2, 3]


def test_every_writing_method_is_fenced(journal: Journal, scope: Scope) -> None:
    run_id = f"fenced {scope}"
    old = journal.acquire(scope, "old")
    journal.begin(old, run_id)
    journal.in_flight(old, run_id, 1, 0, 9, {"object": "Account"}, {"job": "750"})
    before = journal.open_runs(scope)
    let_time_pass(journal, scope)
    writes: list[Callable[[Lease], None]] = [
        lambda lease: journal.begin(lease, run_id + " second"),
        lambda lease: journal.planned(lease, run_id, "plan"),
        lambda lease: journal.in_flight(lease, run_id, 1, 0, 5, {}, {}),
        lambda lease: journal.record(lease, run_id, acknowledged([0])),
        lambda lease: journal.finish_send(lease, run_id, 1),
        lambda lease: journal.close_run(lease, run_id),
    ]
    with journal.acquire(scope, "new"):
        for write in writes:
            old._lost = None  # so that it is the journal that refuses, not the lease's memory
            with pytest.raises(LeaseLost, match="taken over by new"):
                write(old)
        assert journal.open_runs(scope) == before
        assert seqs(journal, run_id) == []
        old.release()
        assert journal.holder(scope) == "new"


def test_taking_over_waits_for_a_write_that_has_begun(journal: Journal, scope: Scope) -> None:
    run_id = f"slow {scope}"
    old = journal.acquire(scope, "slow")
    journal.begin(old, run_id)
    let_time_pass(journal, scope)
    taken: list[Lease] = []
    taker = threading.Thread(target=lambda: taken.append(journal.acquire(scope, "next")))
    with journal._fenced(old, run_id) as connection:
        taker.start()
        taker.join(0.3)
        assert not taken
        connection.execute(sa.update(tables.run).where(tables.run.c.run_id == run_id).values(plan_id="in time"))
    taker.join()
    assert taken[0].epoch == 2
    assert journal.open_runs(scope)[0].plan_id == "in time"
    taken[0].release()


def test_a_long_write_does_not_keep_the_heart_from_beating_on_postgresql(postgres_url: str, scope: Scope) -> None:
    with (
        Journal(postgres_url, beat_s=0.02, ttl_s=60) as journal,
        journal.acquire(scope, "run") as lease,
        journal._fenced(lease),
    ):
        first = lease._renewed_at
        wait_until(lambda: lease._renewed_at > first)


def test_the_heart_beats(journal_url: str, scope: Scope) -> None:
    with Journal(journal_url, beat_s=0.02, ttl_s=60) as journal, journal.acquire(scope, "run"):
        first = lease_row(journal, scope)
        wait_until(lambda: lease_row(journal, scope).heartbeat_at > first.heartbeat_at)
        later = lease_row(journal, scope)
        assert later.expires_at == pytest.approx(later.heartbeat_at + 60, abs=0.01)
        assert later.acquired_at == first.acquired_at


def test_a_beat_notices_that_the_lease_was_taken_over(journal_url: str, scope: Scope) -> None:
    with Journal(journal_url, beat_s=0.02, ttl_s=60) as journal:
        lease = journal.acquire(scope, "run")
        change_row(journal, scope, token="another", epoch=2, holder="thief")
        lease._heart.join(30)
        with pytest.raises(LeaseLost, match="taken over by thief"):
            lease.check()


def test_failing_beats_are_borne_until_the_lease_has_run_out(
    journal_url: str, scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(_: Database) -> None:
        raise JournalUnavailable("the file is locked")

    with Journal(journal_url, beat_s=0.01, ttl_s=60) as journal:
        lease = journal.acquire(scope, "run")
        with monkeypatch.context() as patch:
            patch.setattr(Database, "write", unavailable)
            patch.setattr(Database, "read", unavailable)
            lease.check()
            lease._ttl_s = 0.05
            lease._heart.join(30)
            with pytest.raises(LeaseLost, match=r"could not be renewed.*the file is locked"):
                lease.check()
        with pytest.raises(LeaseLost, match="could not be renewed"):
            journal.begin(lease, f"after {scope}")
        assert journal.open_runs(scope) == []


def test_release_does_not_hide_the_error_of_the_run(
    journal: Journal, scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(_: Database) -> None:
        raise JournalUnavailable("the server is gone")

    with pytest.raises(RuntimeError, match="the run's own"), journal.acquire(scope, "run"):
        monkeypatch.setattr(Database, "write", unavailable)
        raise RuntimeError("the run's own")


def test_closing_a_journal_releases_its_leases(journal: Journal, journal_url: str, scope: Scope) -> None:
    with Journal(journal_url) as other:
        other.acquire(scope, "run")
        assert journal.holder(scope) == "run"
    assert journal.holder(scope) is None
