from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from seqsync_dagster.errors import ConfigurationError, StateError
from seqsync_dagster.journal import Journal, JournalUnavailable, Scope, tables
from seqsync_dagster.journal.database import Database


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("duckdb:///x", "cannot live in duckdb"),
        ("postgresql+psycopg2://u:secret@h/d", "cannot live in postgresql.psycopg2"),
        ("secret", "cannot be read"),
    ],
)
def test_a_useless_url_is_a_setting_to_change(url: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as refused:
        Journal(url)
    assert "secret" not in str(refused.value)
    assert "sqlite:///path/to/journal.db" in str(refused.value)


def test_a_folder_that_cannot_be_made_is_a_setting_to_change(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"folder .* cannot be created"):
        Journal(f"sqlite:///{tmp_path}/file/journal.db")


def test_a_file_that_is_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_text("This is a letter to my grandmother. " * 200)
    with pytest.raises(JournalUnavailable, match=r"journal\.db does not answer: file is not a database"):
        Journal(f"sqlite:///{tmp_path}/journal.db")


def test_a_server_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(JournalUnavailable, match="does not answer") as away:
        Journal("postgresql+psycopg://user:secret@127.0.0.1:1/db")
    assert "secret" not in str(away.value)
    assert "user:***@127.0.0.1" in str(away.value)


def test_heartbeats_come_before_the_lease_runs_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="beat_s"):
        Journal(f"sqlite:///{tmp_path}/journal.db", beat_s=60, ttl_s=60)


def test_sqlite_is_durable_and_lets_readers_pass(tmp_path: Path) -> None:
    with Journal(f"sqlite:///{tmp_path}/journal.db") as journal:
        with journal._database.read() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000
        # Opening and reading while another process is in the middle of a write.
        with journal._database.write(), Journal(f"sqlite:///{tmp_path}/journal.db") as second:
            assert second.holder(Scope("a", "b")) is None


def test_postgresql_tables_live_in_their_schema(postgres_url: str) -> None:
    Journal(postgres_url).close()
    engine = sa.create_engine(postgres_url)
    inspector = sa.inspect(engine)
    assert sorted(inspector.get_table_names("seqsync")) == sorted(
        table.name for table in tables.metadata.tables.values()
    )
    assert inspector.get_table_names("public") == []
    engine.dispose()


def test_threads_may_create_the_tables_at_once(new_journal_url: str) -> None:
    barrier = threading.Barrier(6)
    failures: list[BaseException] = []

    def create() -> None:
        barrier.wait()
        try:
            Journal(new_journal_url).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_older_journal_is_migrated_and_a_newer_one_refused(
    new_journal_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Journal(new_journal_url).close()
    version = tables.SCHEMA_VERSION

    def migrate(connection: sa.Connection) -> None:
        connection.execute(tables.run.insert().values(run_id="r", sequence="s", sync="t", epoch=1, started_at=0))

    with monkeypatch.context() as newer:
        newer.setattr(tables, "SCHEMA_VERSION", version + 1)
        newer.setattr(tables, "MIGRATIONS", {version: migrate})
        for _ in range(2):
            with Journal(new_journal_url) as journal:
                assert [run.run_id for run in journal.open_runs(Scope("s", "t"))] == ["r"]
    with pytest.raises(StateError, match=f"version {version + 1}; this seqsync_dagster knows up to {version}"):
        Journal(new_journal_url)


def test_errors_never_show_parameters(journal_url: str) -> None:
    database = Database(journal_url)
    with pytest.raises(sa.exc.IntegrityError) as refused, database.write() as connection:
        connection.execute(tables.send.insert().values(run_id="a person's name", number=1))
    assert "a person's name" not in str(refused.value).split("DETAIL")[0]
    database.close()
