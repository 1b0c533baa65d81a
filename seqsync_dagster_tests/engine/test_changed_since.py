"""`changed_since`: runs read what changed lately and what waits, and from time to time everything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.errors import ConfigurationError, GuardTripped, SeqsyncError
from seqsync_dagster.ledger.tables import StateTables
from seqsync_dagster_tests.engine.test_review import review
from seqsync_dagster_tests.engine.world import ACCOUNTS, CONTACTS, World, crm

#: Not once a year is it due, so that only what is told to is a full scan.
NEVER = {"changed_since": "updated_at", "full_scan": {"cron": "0 0 29 2 *"}}
SINCE = {**ACCOUNTS, "removed": "delete", **NEVER}
PEOPLE = {
    **CONTACTS,
    "sensitive": [],
    "fields": {"LastName": "last_name", "AccountId": {"parent": "accounts", "from": "account_id"}},
    **NEVER,
}

TABLES = """
DROP TABLE crm.accounts;
DROP TABLE crm.contacts;
CREATE TABLE crm.accounts (account_id text, name text, website text, parent_id text, updated_at timestamp);
CREATE TABLE crm.contacts
  (contact_id text, last_name text, email text, account_id text, workspace_id text, updated_at timestamp)
"""
NOON = datetime(2026, 3, 1, 12)


@pytest.fixture
def world(world: World) -> World:
    world.sql(TABLES)
    world.sequence = crm(SINCE)
    return world


def account(number: int, minutes: int | None = 0, name: str | None = "", key: str = "") -> tuple[Any, ...]:
    """A row changed so many minutes after noon."""
    stamp = None if minutes is None else NOON + timedelta(minutes=minutes)
    return (key or f"A{number}", f"name {number}" if name == "" else name, None, None, stamp)


def change(world: World, key: str, name: str, minutes: int | None) -> None:
    stamp = "updated_at" if minutes is None else f"TIMESTAMP '{NOON + timedelta(minutes=minutes)}'"
    world.sql(f"UPDATE crm.accounts SET name = '{name}', updated_at = {stamp} WHERE account_id = '{key}'")


def scan_is_due(world: World) -> None:
    """As if the last full scan were of long ago."""
    site = world.site()
    for sync in world.sequence.syncs:
        with site.warehouse.open("crm", sync.name) as room:
            syncs = StateTables.of(world.sequence, sync, room.schema).syncs
            room.connection.execute(sa.update(syncs).values(full_scan_at=datetime(2020, 1, 1, tzinfo=UTC)))
            room.connection.commit()
    site.warehouse.close()


@contextmanager
def reads(table: str = "accounts") -> Iterator[list[str]]:
    """Statements that read rows of the model."""
    seen: list[str] = []

    def note(_: Any, __: Any, statement: str, *more: Any) -> None:
        text = " ".join(statement.split())
        looks = re.search(r"LIMIT (0|\$1|%)|^DESCRIBE", text)
        if re.search(rf"crm\W+{table}\b", text) and not looks:
            seen.append(text)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def names(world: World) -> dict[str, Any]:
    return {r["External_Id__c"]: r["Name"] for r in world.org.records("Account")}


def mark(world: World) -> Any:
    return world.state("accounts", "syncs")[0]["since_mark"]


def test_a_run_reads_what_changed_and_a_full_scan_sees_the_rest(world: World) -> None:
    world.insert("crm.accounts", [account(n, n) for n in range(200)])
    first = world.run("accounts")
    assert first.counts.created == 200
    assert "Full scan of 200 rows: nothing is acknowledged so far." in first.summary
    change(world, "A199", "newer", 300)
    change(world, "A5", "unnoticed", None)
    world.insert("crm.accounts", [account(900, 301), account(901, None)])
    world.sql("DELETE FROM crm.accounts WHERE account_id = 'A7'")
    with reads() as statements:
        second = world.run("accounts")
    # The hour before the latest change, 15:19, is read again: A139 to A198 are as they were.
    counts = second.counts
    assert (counts.model, counts.updated, counts.created, counts.unchanged) == (63, 1, 2, 60)
    assert (counts.removals_due, counts.removals_kept) == (0, 0)
    assert re.search(
        r"Read 63 rows changed since 2026-03-01T14:19:00; last full scan 20..-..-.. ..:.. UTC", second.summary
    )
    assert second.scan and (second.scan.rows, second.scan.full) == (63, False)
    # One statement reads a range of changes, another the rows of the keys that it found.
    assert len(statements) == 2
    assert "updated_at >= CAST('2026-03-01T14:19:00'" in statements[0].replace('"', "")
    assert "JOIN seqsync_wanted ON" in statements[1].replace('"', "")
    assert (names(world)["A199"], names(world)["A5"], names(world)["A900"]) == ("newer", "name 5", "name 900")
    scan_is_due(world)
    third = world.run("accounts")
    assert "Full scan of 201 rows: it is due by 0 0 29 2 * (UTC)." in third.summary
    counts = third.counts
    assert (counts.model, counts.updated, counts.unchanged, counts.removals_due) == (201, 1, 200, 1)
    assert names(world)["A5"] == "unnoticed"
    world.finish()
    assert "A7" not in names(world)


def test_with_nothing_changed_and_nothing_due_one_small_query_is_all(world: World) -> None:
    world.insert("crm.accounts", [account(n, n) for n in range(100)])
    # Refused, and not due before an hour has passed.
    world.insert("crm.accounts", [account(300, 99, None)])
    world.run("accounts")
    world.org.reset_calls()
    for expected in ((62, 61, 1), (62, 61, 1)):
        with reads() as statements:
            report = world.run("accounts")
        assert (report.counts.model, report.counts.unchanged, report.counts.waiting) == expected
        assert report.verdict == "partial"
        assert len(statements) == 1 and "updated_at >=" in statements[0].replace('"', "")
    assert world.org.calls()["total"] == 0
    # A full scan that finds nothing is one, too.
    scan_is_due(world)
    assert "Full scan of 101 rows" in world.run("accounts").summary
    assert "Read 62 rows changed since" in world.run("accounts").summary


def test_neither_statement_reads_rows_that_it_does_not_need(world: World) -> None:
    world.sql(
        "INSERT INTO crm.accounts SELECT 'A' || i, 'name ' || i, NULL, NULL, "
        f"TIMESTAMP '{NOON}' + i * INTERVAL '1 minute' FROM generate_series(1, 3000) AS r(i)"
    )
    world.sequence = crm({**SINCE, "fields": {"Name": "name"}})
    world.run("accounts")
    if not world.on_duckdb:
        world.sql(
            "CREATE INDEX changes ON crm.accounts (updated_at); CREATE INDEX keys ON crm.accounts (account_id)",
            "ANALYZE crm.accounts",
        )
    change(world, "A1", "newer", 4000)
    plans: list[str] = []

    def explain(connection: sa.Connection, _: Any, statement: str, parameters: Any, *more: Any) -> None:
        text = " ".join(statement.split())
        if re.match(r"CREATE TEMPORARY TABLE \S+ AS .*crm\W+accounts\b", text):
            cursor = connection.connection.dbapi_connection.cursor()  # type: ignore[union-attr]
            cursor.execute(f"EXPLAIN {statement}", *filter(None, [parameters]))
            found = cursor.fetchall()
            plans.append("\n".join(str(r[-1]) for r in found))

    sa.event.listen(sa.Engine, "before_cursor_execute", explain)
    try:
        assert world.run("accounts").counts.updated == 1
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", explain)
    ranged, by_key = plans
    if world.on_duckdb:
        assert re.search(r"Filters:\s*[^a-z]*\(?updated_at\s*>=", ranged), ranged
    else:
        assert "on changes" in ranged and "Seq Scan on accounts" not in ranged, ranged
        assert "using keys on accounts" in by_key and "Seq Scan on accounts" not in by_key, by_key


def test_rows_that_wait_are_found_whatever_their_time(world: World) -> None:
    world.sequence = crm(SINCE, PEOPLE)
    world.insert("crm.accounts", [account(1), account(2, 0, None), account(3)])
    world.insert(
        "crm.contacts",
        [
            ("C1", "of the first", None, "A1", None, NOON),
            ("C2", "of a refused one", None, "A2", None, NOON),
            ("C3", "of the third", None, "A3", None, NOON),
            ("C4", None, None, "A3", None, NOON),
        ],
    )
    world.insert("crm.contacts", [(f"later {n}", "x", None, None, None, NOON + timedelta(days=n)) for n in (1, 2)])
    first = world.run_all()
    assert (first["accounts"].counts.rejected, first["contacts"].counts.held, first["contacts"].counts.rejected) == (
        1,
        1,
        1,
    )
    # Held and refused rows are counted at every run, though none of them was read.
    again = world.run("contacts")
    assert (again.counts.held, again.counts.waiting, again.scan and again.scan.rows) == (1, 1, 1)
    # The parent is mended: its child goes, whose own time is days old.
    change(world, "A2", "mended", 10)
    world.run("accounts")
    children = world.run("contacts")
    assert (children.counts.created, children.counts.held) == (1, 0)
    records = world.org.by_external_id("Contact")
    assert records["C2"]["AccountId"] == world.org.by_external_id("Account")["A2"]["Id"]
    # An operator asks for a refused row.
    change_contact = "UPDATE crm.contacts SET last_name = 'mended, by stealth' WHERE contact_id = 'C4'"
    world.sql(change_contact)
    asked = world.run("contacts", RunOptions(requeue={"contacts": ["C4"]}))
    assert (asked.counts.created, asked.counts.model) == (1, 2)
    # A parent gets another id: it is made anew by its key, and its child follows.
    old = world.org.by_external_id("Account")["A3"]["Id"]
    world.org.remove("Account", old)
    new = world.org.seed("Account", [{"Name": "made anew", "External_Id__c": "A3"}])[0]
    change(world, "A3", "newest", 20)
    world.run("accounts")
    assert world.run("accounts").counts.updated == 1
    assert world.run("contacts").counts.updated == 2
    assert world.org.by_external_id("Contact")["C3"]["AccountId"] == new


def test_late_commits_equal_times_nulls_and_the_future(world: World) -> None:
    world.sequence = crm({**SINCE, "changed_since": {"column": "updated_at", "overlap_minutes": 10}})
    world.insert("crm.accounts", [account(1, 0), account(2, 60), account(3, None)])
    world.run("accounts")
    assert mark(world) == "2026-03-01T13:00:00.000000"
    # Visible only now: as late as the latest, earlier within the overlap; and too early to be looked for.
    world.insert("crm.accounts", [account(10, 60), account(11, 50), account(12, 49), account(13, None)])
    assert world.run("accounts").counts.created == 3
    assert sorted(names(world)) == ["A1", "A10", "A11", "A13", "A2", "A3"]
    # A clock that is ahead, or a date for ever: read at every run, and nothing to go on from.
    ahead = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)
    world.insert(
        "crm.accounts", [("F1", "ahead", None, None, ahead), ("F2", "end", None, None, datetime(9999, 12, 31))]
    )
    assert world.run("accounts").counts.created == 2
    assert mark(world) == "2026-03-01T13:00:00.000000"
    world.insert("crm.accounts", [account(14, 61)])
    later = world.run("accounts").counts
    assert (later.created, later.model) == (1, 8)
    assert mark(world) == "2026-03-01T13:01:00.000000"
    # The latest row goes; nothing that was seen is forgotten.
    world.sql("DELETE FROM crm.accounts WHERE account_id = 'A14'")
    world.run("accounts")
    assert mark(world) == "2026-03-01T13:01:00.000000"


def test_the_mark_moves_when_a_run_is_settled_and_not_before(world: World) -> None:
    world.settings["collections_up_to"] = 5000
    world.insert("crm.accounts", [account(n) for n in range(300)])
    world.run("accounts")
    before = mark(world)
    world.sql(f"UPDATE crm.accounts SET name = name || '!', updated_at = TIMESTAMP '{NOON + timedelta(days=1)}'")
    with pytest.raises(GuardTripped):
        world.run("accounts")
    assert mark(world) == before
    world.insert("crm.accounts", [account(1000, 6000)])
    world.org.fault("503", "composite/sobjects", 50, skip=1)
    with pytest.raises(SeqsyncError):
        world.run("accounts", RunOptions(approve_plan=approvable(world)))
    world.org.clear_faults()
    assert mark(world) == before
    # Some rows, or a plan that was read, say nothing about the others.
    world.run("accounts", RunOptions(only_keys=("A7",)))
    world.run("accounts", RunOptions(limit=2))
    assert mark(world) == before
    plan = review(world)["accounts"]
    world.insert("crm.accounts", [account(1001, 7000)])
    world.run("accounts", RunOptions(plan_id=plan.review_id))
    assert mark(world) == before
    after = world.run("accounts")
    assert (after.counts.created, after.counts.model) == (1, 302)
    assert mark(world) > before
    assert names(world) == {f"A{n}": f"name {n}!" for n in range(300)} | {"A1000": "name 1000", "A1001": "name 1001"}


def approvable(world: World) -> str:
    with pytest.raises(GuardTripped) as tripped:
        world.run("accounts")
    return str(tripped.value.plan_id)


def test_a_key_that_an_old_row_has_too_is_seen(world: World) -> None:
    world.insert("crm.accounts", [account(n, -600) for n in range(3)] + [account(9)])
    world.run("accounts")
    # Of the latest rows one has the key of an old one, and one writes such a key in another way.
    world.insert("crm.accounts", [account(1, 100, "twin"), account(2, 100, "twin", key="a2 ")])
    world.org.reset_calls()
    report = world.run("accounts")
    assert (report.counts.invalid_duplicate, report.counts.unchanged) == (4, 1)
    assert world.org.calls()["row_bearing"] == 0
    assert sorted({p.key.strip().lower() for p in report.problems}) == ["a1", "a2"]
    # Two new rows that share a key: when one of them takes another, the other one goes too, without a change.
    world.insert("crm.accounts", [account(5, 200, "one"), account(5, 200, "two"), account(9, 500, key="A99")])
    assert world.run("accounts").counts.invalid_duplicate == 6
    world.sql(
        f"UPDATE crm.accounts SET account_id = 'A6', updated_at = TIMESTAMP '{NOON + timedelta(minutes=900)}' "
        "WHERE name = 'two'"
    )
    assert world.run("accounts").counts.created == 2
    assert (names(world)["A5"], names(world)["A6"]) == ("one", "two")


@pytest.mark.parametrize("type_", ["date", "timestamp with time zone"])
def test_dates_zones_and_keys_of_several_columns(world: World, type_: str) -> None:
    world.sql(
        "DROP TABLE crm.accounts",
        f"CREATE TABLE crm.accounts (region text, number integer, name text, changed {type_})",
        "INSERT INTO crm.accounts VALUES ('eu', 1, 'one', '2026-03-01'), ('eu', 2, 'two', '2026-03-02'), "
        "('us', 1, 'three', '2026-03-03'), (NULL, 1, 'no key', '2026-03-03')",
    )
    spec = {k: v for k, v in SINCE.items() if k != "fields"}
    world.sequence = crm({**spec, "key": ["region", "number"], "fields": {"Name": "name"}, "changed_since": "changed"})
    assert world.run("accounts").counts.created == 3
    world.sql("UPDATE crm.accounts SET name = 'newer', changed = '2026-03-03' WHERE region = 'eu' AND number = 1")
    report = world.run("accounts")
    assert (report.counts.updated, report.counts.invalid_null) == (1, 1)
    # A date begins before the overlap does, at midnight.
    assert (report.counts.model, report.counts.unchanged) == ((4, 2) if type_ == "date" else (3, 1))
    assert names(world) == {"eu:1": "newer", "eu:2": "two", "us:1": "three"}


def test_what_changes_the_meaning_of_the_mark_is_compared_whole(world: World) -> None:
    world.insert("crm.accounts", [account(1, -600), account(2)])
    world.run("accounts")
    assert "Read 1 rows" in world.run("accounts").summary
    world.sql("CREATE TABLE crm.other AS SELECT * FROM crm.accounts")
    world.sql("INSERT INTO crm.other SELECT 'A3', 'old', NULL, NULL, TIMESTAMP '2020-01-01 00:00:00'")
    other = {"fields": {"Name": "name", "Phone": "website"}}
    for options, sync, why in (
        (RunOptions(full_resync=True), SINCE, "the run asked for a full resync"),
        (None, {**SINCE, **other}, "Phone was added"),
        (None, {**SINCE, **other, "removed": "keep"}, "what becomes of rows"),
        (
            None,
            {**SINCE, **other, "removed": "keep", "table": "crm.other"},
            "the model, or the column of changed_since, is another one",
        ),
        (RunOptions(rebuild_ledger=True), SINCE, "nothing is acknowledged so far"),
    ):
        world.sequence = crm(sync)
        report = world.run("accounts", options)
        assert report.scan and report.scan.full and why in report.scan.why, report.scan
        assert world.run("accounts").scan.full is False  # type: ignore[union-attr]
    assert names(world)["A3"] == "old"
    world.sequence = crm({**SINCE, "changed_since": "name"})
    with pytest.raises(ConfigurationError, match=r"'name', which is of type .*must be a date or a timestamp"):
        world.run("accounts")


def test_a_model_that_was_not_built_again_is_asked_for_nothing_until_a_full_scan_is_due(world: World) -> None:
    world.insert("crm.accounts", [account(1, -600), account(2)])
    world.sequence = crm({**SINCE, "full_scan": {"cron": "* * * * *"}})
    world.run("accounts", build="one")
    world.sequence = crm({**SINCE, "fields": {"Name": "name"}})
    world.run("accounts", build="one")
    change(world, "A2", "newer", 5)
    assert world.run("accounts", build="two").counts.updated == 1
    with reads() as statements:
        assert "not built again" in world.run("accounts", build="two").summary
    assert statements == []
    rest = world.site().journal.rests_of("crm").all()["accounts"]
    assert rest.due_at == datetime(2028, 2, 29, tzinfo=UTC)
