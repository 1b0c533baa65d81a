"""What is kept of what was told, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from seqsync_dagster.journal import Journal, Scope, alerts, tables
from seqsync_dagster.journal.alerts import Alerts, Kind, Told
from seqsync_dagster.journal.database import Database

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Say:
    raised: Mapping[str, int] = field(default_factory=dict)
    cleared: Collection[str] = ()
    watched: Collection[str] = ()


def turn(told: Alerts, say: Say, now: datetime = NOON, channel: str = "ops") -> list[str]:
    """The messages that this change makes."""

    def compose(kind: Kind, conditions: tuple[Told, ...]) -> str:
        return f"{kind} " + ", ".join(f"{c.condition} since {c.since:%H:%M}" for c in conditions)

    return [kept.text for kept in told.turn("accounts", channel, now, lambda known: say, compose)]


@pytest.fixture
def sequence() -> str:
    """A sequence that no other test knows."""
    return f"crm_{uuid.uuid4().hex[:8]}"


def test_a_change_makes_one_message_and_what_stays_makes_none(journal_url: str, sequence: str) -> None:
    with Journal(journal_url) as journal:
        told = journal.alerts_of(sequence)
        assert turn(told, Say({"failed": 0, "rejected": 40})) == ["raised failed since 12:00, rejected since 12:00"]
        assert turn(told, Say({"failed": 0}), NOON + timedelta(hours=1)) == []
        assert turn(told, Say({"failed": 0}), channel="other") == ["raised failed since 12:00"], "another channel"
    # Another process, later.
    with Journal(journal_url) as journal:
        told = journal.alerts_of(sequence)
        known: dict[str, Told] = {}
        told.turn("accounts", "ops", NOON, lambda k: known.update(k) or Say(), lambda *_: None)
        assert {name: (each.raised, each.judged) for name, each in known.items()} == {
            "failed": (True, 0),
            "rejected": (True, 40),
        }
        assert turn(told, Say(cleared=["failed", "drift"]), NOON + timedelta(hours=2)) == [
            "recovered failed since 12:00"
        ]
        assert turn(told, Say(cleared=["failed"])) == []
        assert turn(told, Say({"failed": 0}), NOON + timedelta(hours=3)) == ["raised failed since 15:00"]


def test_what_has_begun_is_told_when_it_has_lasted_and_its_end_only_then(journal_url: str, sequence: str) -> None:
    with Journal(journal_url) as journal:
        told = journal.alerts_of(sequence)
        assert turn(told, Say(watched=["held_longer_than"])) == []
        assert turn(told, Say(cleared=["held_longer_than"])) == [], "it passed by itself"
        turn(told, Say(watched=["held_longer_than"]))
        turn(told, Say(watched=["held_longer_than"]), NOON + timedelta(hours=1))
        later = NOON + timedelta(hours=2)
        assert turn(told, Say({"held_longer_than": 0}), later) == ["raised held_longer_than since 12:00"]
        assert turn(told, Say({"held_longer_than": 0}), later) == []
        assert turn(told, Say(cleared=["held_longer_than"]), later) == ["recovered held_longer_than since 12:00"]


def test_of_many_who_notice_the_same_one_makes_the_message(journal_url: str, sequence: str) -> None:
    barrier, made = threading.Barrier(5), []

    def notice() -> None:
        with Journal(journal_url) as journal:
            barrier.wait()
            made.extend(turn(journal.alerts_of(sequence), Say({"failed": 0})))

    threads = [threading.Thread(target=notice) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_message_is_kept_until_it_has_arrived(
    journal_url: str, sequence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(journal_url) as journal:
        told = journal.alerts_of(sequence)
        turn(told, Say({"failed": 0, "drift": 0}))
        assert told.take_up(["ops"]) == [], "whoever made it is sending it"
        turn(told, Say(cleared=["drift"]))
        with journal._database.write() as connection:
            # As if those who were sending had died a minute ago.
            connection.execute(tables.letter.update().values(claimed_until=0))
        first, second = told.take_up(["ops"])
        assert (first.text[:6], second.text[:9]) == ("raised", "recovered")
        told.failed(first.id, "nobody \x00 listens", still_trying=True)
        assert told.take_up(["ops"]) == []
        told.failed(first.id, "nobody listens", still_trying=False)
        assert [each.id for each in told.take_up(["ops", "other"])] == [first.id]
        told.delivered(first.id)
        told.failed(second.id, "nobody listens", still_trying=False)
        assert [each.id for each in told.take_up(["ops"])] == [second.id]
        told.failed(second.id, "nobody listens", still_trying=False)
        monkeypatch.setattr(alerts, "KEPT", timedelta(seconds=-1))
        assert told.take_up(["ops"]) == [], "nobody wants to read it any more"


def test_a_step_without_a_last_word_is_known(journal_url: str, sequence: str) -> None:
    with Journal(journal_url, beat_s=0.1, ttl_s=0.2) as journal:
        told = journal.alerts_of(sequence)
        told.began("accounts", "0123456789", NOON)
        told.began("accounts.drift", "0123456789", NOON + timedelta(seconds=1))
        told.began("workspaces", "0123456789", NOON + timedelta(seconds=1))
        told.began("contacts", "abcdef", NOON + timedelta(seconds=1))
        told.began("contacts", "abcdef", NOON + timedelta(seconds=2))
        assert [(s.sync, s.run_id, s.silent) for s in told.under_way()] == [
            ("accounts", "0123456789", False),
            ("accounts.drift", "0123456789", False),
            ("workspaces", "0123456789", False),
            ("contacts", "abcdef", False),
        ]
        lease = journal.acquire(Scope(sequence, "accounts"), "run 01234567 by jo")
        lease._ended.set()
        lease._heart.join()
        with journal._database.write() as connection:
            connection.execute(tables.lease.update().values(expires_at=0))
        told.began("finish", "0123456789", NOON + timedelta(seconds=3))
        assert [s.sync for s in told.under_way() if s.silent] == ["accounts", "accounts.drift", "finish"], (
            "steps beside it in processes of their own go on, and finish takes the leases of all syncs"
        )
        told.ended("accounts", "0123456789")
        assert [s.sync for s in told.under_way()] == ["accounts.drift", "workspaces", "contacts", "finish"]


def test_what_is_not_there_any_more_is_forgotten(journal_url: str, sequence: str) -> None:
    with Journal(journal_url) as journal:
        told = journal.alerts_of(sequence)
        for channel in ("ops", "left"):
            turn(told, Say({"failed": 0}), channel=channel)
        turn(told, Say(watched=["held_longer_than"]))
        told.forget_others({"accounts": ["ops"], "contacts": ["left"]})
        assert [channel for _, channel, _ in told.begun()] == ["ops"]
        assert turn(told, Say({"failed": 0})) == [], "it is failing still"
        assert turn(told, Say({"failed": 0}), channel="left") == ["raised failed since 12:00"], "it hears of it anew"
        # Under another name, or taken out.
        told.forget_others({"customers": ["ops", "left"]})
        assert told.begun() == []
        assert turn(told, Say({"failed": 0})) == ["raised failed since 12:00"]


def test_a_journal_from_before_there_were_alerts_gets_their_tables(new_journal_url: str) -> None:
    Journal(new_journal_url).close()
    database = Database(new_journal_url)
    with database.write() as connection:
        for table in (tables.alert, tables.letter, tables.step):
            table.drop(connection)
        connection.execute(tables.schema_version.update().values(version=4))
    database.close()
    with Journal(new_journal_url) as journal:
        assert turn(journal.alerts_of("crm"), Say({"failed": 0})) == ["raised failed since 12:00"]
        assert journal.alerts_of("crm").under_way() == []
