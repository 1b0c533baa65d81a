"""Calls of the last 24 hours, counted together by everybody who uses a connection."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from seqsync_dagster.journal import Journal, tables
from seqsync_dagster.journal.calls import SLOT_S, WINDOW_S
from seqsync_dagster.journal.database import Database


@pytest.fixture
def connection() -> str:
    return f"salesforce_{uuid.uuid4().hex[:8]}"


def age(journal_url: str, connection: str, seconds: int) -> None:
    """Let time pass for the calls counted so far."""
    database = Database(journal_url)
    with database.write() as db:
        older = sa.update(tables.call).where(tables.call.c.connection == connection)
        db.execute(older.values(slot=tables.call.c.slot - seconds))
    database.close()


def test_calls_are_shared_between_processes_and_not_between_connections(journal_url: str, connection: str) -> None:
    with Journal(journal_url) as one, Journal(journal_url) as other:
        one.calls_of(connection).add(3)
        other.calls_of(connection).add(2)
        other.calls_of(f"{connection}_2").add(40)
        assert one.calls_of(connection).take(1, 10) == 5
        assert other.calls_of(connection).take(1, 10) == 6


def test_taking_more_than_there_is_takes_nothing(journal: Journal, connection: str) -> None:
    calls = journal.calls_of(connection)
    assert calls.take(7, 10) == 0
    assert [calls.take(4, 10) for _ in range(2)] == [7, 7]
    calls.add(-5)
    assert calls.take(4, 10) == 2
    assert calls.take(4, 10) == 6


def test_calls_come_back_after_a_day(journal: Journal, journal_url: str, connection: str) -> None:
    calls = journal.calls_of(connection)
    calls.add(9)
    # The quarter of an hour they were made in counts to its end.
    age(journal_url, connection, WINDOW_S - SLOT_S)
    assert calls.take(2, 10) == 9
    age(journal_url, connection, 2 * SLOT_S)
    assert calls.take(2, 10) == 0


def test_of_many_who_want_the_last_calls_as_many_get_them_as_there_are(journal_url: str, connection: str) -> None:
    def taken(_: int) -> int:
        with Journal(journal_url) as journal:
            return sum(journal.calls_of(connection).take(1, 25) < 25 for _ in range(10))

    with ThreadPoolExecutor(5) as pool:
        assert sum(pool.map(taken, range(5))) == 25


def test_a_journal_from_before_there_were_budgets_gets_its_table(new_journal_url: str) -> None:
    Journal(new_journal_url).close()
    database = Database(new_journal_url)
    with database.write() as db:
        tables.call.drop(db)
        db.execute(tables.schema_version.update().values(version=1))
    database.close()
    with Journal(new_journal_url) as journal:
        assert journal.calls_of("salesforce").take(1, 10) == 0
        assert journal.calls_of("salesforce").take(1, 10) == 1
