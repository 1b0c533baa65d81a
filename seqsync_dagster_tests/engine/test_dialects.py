"""Queries, key types, column types, long names and parallel first runs: the same on each engine."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from seqsync_dagster.errors import ConfigurationError, LeaseLost, SeqsyncError
from seqsync_dagster.journal import Journal, Scope
from seqsync_dagster.ledger import registry
from seqsync_dagster.ledger.tables import (
    StateTables,
    blocked_column,
    key_column,
    lookup_column,
    parent_column,
    ref_column,
    shown_column,
    value_column,
)
from seqsync_dagster.warehouse.open import open_warehouse
from seqsync_dagster.warehouse.settings import WarehouseSettings
from seqsync_dagster_tests.engine.world import ACCOUNTS, WORKSPACES, World, crm

PLAIN = {**ACCOUNTS, "fields": {"Name": "name"}}


def reading(query: str, **fields: Any) -> dict[str, Any]:
    """Accounts from a query."""
    return {**{k: v for k, v in PLAIN.items() if k != "table"}, "query": query, "deps": [], "fields": fields}


def test_a_query_reads_the_warehouse_whatever_text_is_in_it(world: World) -> None:
    world.insert("crm.accounts", [("A1", "Acme", "a:b", None), ("A2", "Beta", None, None)])
    world.sequence = crm(
        reading(
            "SELECT account_id, name || ' :name 10%' AS name, CAST(website AS text)::text AS website "
            "FROM crm.accounts WHERE name NOT LIKE 'x%' -- every account: all",
            Name="name",
            Website="website",
        )
    )
    assert world.run("accounts").counts.created == 2
    record = world.org.by_external_id("Account")["A1"]
    assert (record["Name"], record["Website"]) == ("Acme :name 10%", "a:b")
    assert world.run("accounts").counts.planned == 0
    world.sql("UPDATE crm.accounts SET name = 'Acme2' WHERE account_id = 'A1'")
    assert world.run("accounts").counts.updated == 1


def test_a_query_that_cannot_be_read_says_why(world: World) -> None:
    world.sequence = crm(reading("SELECT nme AS name, account_id FROM crm.accounts", Name="name"))
    with pytest.raises(SeqsyncError, match="nme"):
        world.run("accounts")


def test_a_key_may_change_its_type_without_a_new_start(world: World) -> None:
    world.sequence = crm(PLAIN)
    kind = "ALTER TABLE crm.accounts ALTER COLUMN account_id TYPE {}"
    world.sql("DROP TABLE crm.accounts", "CREATE TABLE crm.accounts (account_id varchar(4), name text)")
    world.insert("crm.accounts", [("1", "Acme")])
    assert world.run("accounts").counts.created == 1
    world.sql(kind.format("varchar(40)"))
    world.insert("crm.accounts", [("123456", "Long")])
    assert world.run("accounts").counts.created == 1
    for other in ("integer", "numeric(12,2)", "double precision", "integer", "text"):
        world.sql(kind.format(other) + ("" if world.on_duckdb else f" USING account_id::{other}"))
        report = world.run("accounts")
        assert (report.counts.created, report.counts.rejected) == (0, 0), other
    world.insert("crm.accounts", [("x", "Text")])
    assert world.run("accounts").counts.created == 1
    assert {r["key_account_id"] for r in world.state("accounts", "ledger")} >= {"x", "123456"}


@pytest.mark.parametrize("parent", ["integer", "numeric(10,2)", "double precision"])
def test_a_number_is_one_key_whatever_its_type(world: World, parent: str) -> None:
    world.sequence = crm(
        PLAIN, {**WORKSPACES, "fields": {"Name": "name", "Account__c": {"parent": "accounts", "from": "account_id"}}}
    )
    world.sql(
        "DROP TABLE crm.accounts",
        "DROP TABLE crm.workspaces",
        f"CREATE TABLE crm.accounts (account_id {parent}, name text)",
        "CREATE TABLE crm.workspaces (workspace_id text, name text, account_id double precision)",
        "INSERT INTO crm.accounts VALUES (1, 'one'), (100, 'hundred'), (-20, 'minus')",
        "INSERT INTO crm.workspaces VALUES ('W1', 'a', 1.0), ('W2', 'b', 100), ('W3', 'c', -20)",
    )
    reports = world.run_all()
    assert set(world.org.by_external_id("Account")) == {"1", "100", "-20"}
    assert reports["workspaces"].counts.created == 3


def test_fractions_have_no_trailing_zeros(world: World) -> None:
    world.sequence = crm(PLAIN)
    world.sql(
        "DROP TABLE crm.accounts",
        "CREATE TABLE crm.accounts (account_id numeric(10,3), name text)",
        "INSERT INTO crm.accounts VALUES (1.500, 'a'), (10.010, 'b'), (0, 'c'), (-0.250, 'd')",
    )
    world.run("accounts")
    assert set(world.org.by_external_id("Account")) == {"1.5", "10.01", "0", "-0.25"}


def test_json_is_sent_as_json_and_a_uuid_as_text(world: World) -> None:
    other = "json" if world.on_duckdb else "jsonb"
    world.sequence = crm({**PLAIN, "fields": {"Name": "name", "Website": "site", "Description": "doc"}})
    world.sql(
        "DROP TABLE crm.accounts",
        f"CREATE TABLE crm.accounts (account_id uuid, name json, site uuid, doc {other})",
        "INSERT INTO crm.accounts VALUES ('0b3a2f60-0000-4000-8000-0000000000aa', '{\"a\": [true, null]}', "
        "'0b3a2f60-0000-4000-8000-0000000000ab', '{\"b\": 1}')",
    )
    world.run("accounts")
    record = world.org.by_external_id("Account")["0b3a2f60-0000-4000-8000-0000000000aa"]
    assert (record["Name"], record["Description"]) == ('{"a": [true, null]}', '{"b": 1}')
    assert record["Website"] == "0b3a2f60-0000-4000-8000-0000000000ab"


def test_types_that_no_field_takes_are_named_before_anything_is_sent(world: World) -> None:
    world.sequence = crm({**PLAIN, "fields": {"Name": "name", "Website": "tags", "Description": "raw", "Phone": "age"}})
    raw = "blob" if world.on_duckdb else "bytea"
    world.sql(
        "DROP TABLE crm.accounts",
        f"CREATE TABLE crm.accounts (account_id text, name text, tags varchar(10)[], raw {raw}, age interval)",
        "INSERT INTO crm.accounts (account_id, name) VALUES ('A1', 'Acme')",
    )
    with pytest.raises(ConfigurationError) as refused:
        world.run("accounts")
    for column in ("tags", "raw", "age"):
        assert f"column '{column}' is of type" in str(refused.value)
    assert "cast it in the model" in str(refused.value)
    assert world.org.by_external_id("Account") == {}


def test_an_error_of_the_warehouse_repeats_no_value(world: World) -> None:
    world.insert("crm.accounts", [("alice@example.com", 'it\'s "secret"', None, None)])
    for column in ("account_id", "name"):
        world.sequence = crm(
            reading(f"SELECT account_id, CAST({column} AS integer) AS name FROM crm.accounts", Name="name")
        )
        with pytest.raises(SeqsyncError) as refused:
            world.run("accounts")
        assert "alice" not in str(refused.value)
        assert "secret" not in str(refused.value)
        assert "***" in str(refused.value)


def test_names_that_postgresql_would_cut_are_shortened_and_stay_apart() -> None:
    one, two = "ns" + "x" * 57 + "1__c", "ns" + "x" * 57 + "2__c"
    for named in (key_column, value_column, parent_column, lookup_column, ref_column, blocked_column, shown_column):
        assert len(named(one)) <= 63
        assert named(one) != named(two)
        assert named("Name").endswith("_Name")
    assert key_column(one).startswith("key_")


def test_long_names_go_all_the_way(world: World) -> None:
    long = "c" * 61
    world.sequence = crm({**ACCOUNTS, "key": f"{long}1", "fields": {"Name": f"{long}2"}})
    world.sql(
        "DROP TABLE crm.accounts",
        f"CREATE TABLE crm.accounts ({long}1 text, {long}2 text)",
        "INSERT INTO crm.accounts VALUES ('A1', 'Acme')",
    )
    assert world.run("accounts").counts.created == 1
    assert world.run("accounts").counts.planned == 0


def test_first_runs_at_once_create_the_shared_tables_once(world: World) -> None:
    if world.on_duckdb:
        pytest.skip("each DuckDB ledger has a file of its own")
    warehouse, _ = open_warehouse(WarehouseSettings.model_validate({"url": world.warehouse_url}), world.folder)
    errors: list[BaseException] = []
    barrier = threading.Barrier(6)

    def first(number: int) -> None:
        spec = crm({**PLAIN, "name": f"accounts{number}"})
        sync = spec.syncs[0]
        try:
            barrier.wait()
            with warehouse.open("crm", sync.name) as room:
                tables = StateTables.of(spec, sync, room.schema)
                registry.create_tables(room.connection, tables, sync)
                registry.claim(room.connection, tables, "crm", sync.name, 1)
                room.connection.commit()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=first, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    warehouse.close()
    assert errors == []


def test_an_older_run_cannot_write_after_a_newer_one(world: World) -> None:
    world.run("accounts")
    site = world.site()
    sync = world.sequence.sync("accounts")
    if world.on_duckdb:
        with site.warehouse.open("crm", "accounts") as room:
            tables = StateTables.of(world.sequence, sync, room.schema)
            registry.claim(room.connection, tables, "crm", "accounts", 9)
            room.connection.commit()
            with pytest.raises(LeaseLost):
                registry.claim(room.connection, tables, "crm", "accounts", 8)
        return
    late: list[BaseException] = []
    with site.warehouse.open("crm", "accounts") as newer:
        tables = StateTables.of(world.sequence, sync, newer.schema)
        registry.claim(newer.connection, tables, "crm", "accounts", 9)

        def older() -> None:
            with site.warehouse.open("crm", "accounts") as room:
                try:
                    registry.claim(room.connection, tables, "crm", "accounts", 8)
                except LeaseLost as error:
                    late.append(error)

        thread = threading.Thread(target=older)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()  # it waits for the newer run's transaction, instead of looking past it
        newer.connection.commit()
        thread.join(20)
    site.warehouse.close()
    site.journal.close()
    assert len(late) == 1


def test_states_of_two_schemas_share_no_journal(world: World, tmp_path: Path) -> None:
    if world.on_duckdb:
        pytest.skip("with DuckDB the journal is a file beside the state")
    made = [
        WarehouseSettings.model_validate({"url": world.warehouse_url, "state": {"schema": schema}})
        for schema in ("seqsync", "staging_state")
    ]
    urls = [m.resolve(tmp_path)[2] for m in made]
    scope = Scope("crm", "accounts")
    with (
        Journal(urls[0]) as one,
        Journal(urls[1]) as two,
        one.acquire(scope, "one") as lease,
        two.acquire(scope, "two") as other,
    ):
        one.begin(lease, "run1")
        two.begin(other, "run1")
        assert (one.holder(scope), two.holder(scope)) == ("one", "two")
    engine = sa.create_engine(world.warehouse_url)
    assert "journal_run" in sa.inspect(engine).get_table_names(schema="staging_state")
    engine.dispose()


def test_a_pod_is_refused_whichever_way_the_url_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.delenv("WAREHOUSE_URL_FOR_TEST", raising=False)
    given = {"env": "WAREHOUSE_URL_FOR_TEST", "default": "duckdb:///wh.duckdb"}
    with pytest.raises(ConfigurationError, match="in a pod"):
        WarehouseSettings.model_validate({"url": given}).refuse_ephemeral()
    unknown = WarehouseSettings.model_validate({"url": {"env": "WAREHOUSE_URL_FOR_TEST"}})
    unknown.refuse_ephemeral()
    monkeypatch.setenv("WAREHOUSE_URL_FOR_TEST", "duckdb:///wh.duckdb")
    with pytest.raises(ConfigurationError, match="in a pod"):
        unknown.resolve(tmp_path)
    monkeypatch.setenv("WAREHOUSE_URL_FOR_TEST", "postgresql://u@h/d")
    WarehouseSettings.model_validate({"url": given}).refuse_ephemeral()
    assert unknown.resolve(tmp_path)[1] is None
