"""The database behind a journal: one file or one server, transactions, and its clock."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from seqsync_dagster.errors import ConfigurationError, JournalUnavailable, StateError
from seqsync_dagster.journal import tables
from seqsync_dagster.warehouse.settings import SCHEMA_PARAMETER

BUSY_TIMEOUT_S = 30
"""How long a transaction waits for another one before it gives up."""

# Any number, as long as every version of this package uses the same one.
_SETUP_LOCK = 0x5E95_0001

_INSUFFICIENT_PRIVILEGE = "42501"  # SQLSTATE


class database_now(FunctionElement[float]):  # noqa: N801 - reads as the SQL function it is
    """Seconds since 1970, UTC, by the database's clock.

    Leases compare times that several processes wrote. On PostgreSQL those run on several hosts
    whose clocks differ, and the server's is the one they share. An SQLite file belongs to one
    host, and its clock is that host's: one rule serves both. It is the time of the call, not of
    the transaction's begin, since a transaction may have waited long for a lock.
    """

    type = sa.Double()
    inherit_cache = True
    name = "database_now"


@compiles(database_now, "sqlite")
def _now_sqlite(element: database_now, compiler: SQLCompiler, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "postgresql")
def _now_postgresql(element: database_now, compiler: SQLCompiler, **kw: Any) -> str:
    return "CAST(EXTRACT(epoch FROM clock_timestamp()) AS double precision)"


class Database:
    """A journal's database, with its tables in place.

    Raises `ConfigurationError` when the URL is of no use, `JournalUnavailable` when the database
    does not answer, `StateError` when a newer version of this package has changed the tables.
    """

    def __init__(self, url: str) -> None:
        parsed = _checked(url)
        schema = parsed.query.get(SCHEMA_PARAMETER, tables.SCHEMA)
        parsed = parsed.difference_update_query([SCHEMA_PARAMETER])
        self.name = parsed.render_as_string(hide_password=True)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.schema = None if self.is_sqlite else str(schema)
        engine = _sqlite_engine(parsed) if self.is_sqlite else _postgresql_engine(parsed)
        engine = engine.execution_options(schema_translate_map={tables.SCHEMA: self.schema})
        self._readers = engine
        self._writers = engine.execution_options(journal_writes=True)
        try:
            self._set_up()
        except BaseException:
            engine.dispose()
            raise

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A short reading transaction. Raises `JournalUnavailable`."""
        with self._unavailable_when_it_fails(), self._readers.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A short writing transaction, durable once this returns. Raises `JournalUnavailable`.

        On SQLite it holds the file's one write lock from its first moment, so that what it
        reads cannot be outdated by the time it writes.
        """
        with self._unavailable_when_it_fails(), self._writers.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self._readers.dispose()

    @contextmanager
    def _unavailable_when_it_fails(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.IntegrityError, sa.exc.DataError, sa.exc.NotSupportedError):
            raise
        # What fails while a connection is made comes as the driver's own error.
        except (sa.exc.DBAPIError, sa.exc.TimeoutError, sqlite3.Error) as error:
            cause = getattr(error, "orig", None) or error
            refused = getattr(cause, "sqlstate", None) == _INSUFFICIENT_PRIVILEGE
            if isinstance(error, sa.exc.ProgrammingError) and not refused:
                raise
            if refused:
                advice = f"Its user must own schema {self.schema}, or be allowed to create it."
            elif self.is_sqlite:
                advice = (
                    "Check that the file is on a local disk, writable and not full, "
                    "and that no other program keeps it locked."
                )
            else:
                advice = "Check that the server runs, and the URL, user and password of the journal."
            # Only the first line: PostgreSQL goes on to quote the statement.
            reason = str(cause).strip().partition("\n")[0]
            raise JournalUnavailable(f"The journal {self.name} does not answer: {reason}. {advice}") from error

    def _set_up(self) -> None:
        if self.is_sqlite:
            with self._unavailable_when_it_fails():
                _switch_to_wal(self._readers)
        # A current journal must open while another process is in the middle of a long write.
        with self.read() as connection:
            if self._version(connection) == tables.SCHEMA_VERSION:
                return
        with self.write() as connection:
            if self.schema is not None:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SETUP_LOCK)))
                # IF NOT EXISTS asks for the right to create schemas even when there is one.
                if not sa.inspect(connection).has_schema(self.schema):
                    connection.execute(sa.schema.CreateSchema(self.schema))
            self._migrate(connection)

    def _migrate(self, connection: sa.Connection) -> None:
        version = self._version(connection)
        if version is not None and version > tables.SCHEMA_VERSION:
            raise StateError(
                f"The journal {self.name} has tables of version {version}; this seqsync_dagster knows "
                f"up to {tables.SCHEMA_VERSION}. Install the newer seqsync_dagster that wrote them."
            )
        if version is None:
            tables.metadata.create_all(connection)
            version = tables.SCHEMA_VERSION
            connection.execute(_version_row(version))
        while version < tables.SCHEMA_VERSION:
            tables.MIGRATIONS[version](connection)
            version += 1
            connection.execute(_version_row(version))

    def _version(self, connection: sa.Connection) -> int | None:
        if not sa.inspect(connection).has_table(tables.schema_version.name, schema=self.schema):
            return None
        version: int | None = connection.scalar(sa.select(sa.func.max(tables.schema_version.c.version)))
        return version


def _version_row(version: int) -> sa.Insert:
    return tables.schema_version.insert().values(version=version, applied_at=database_now())


def _checked(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        # The text itself stays out of the message: it may carry a password.
        raise ConfigurationError(
            "The journal's URL cannot be read. "
            "Use sqlite:///path/to/journal.db or postgresql+psycopg://user@host/database."
        ) from error
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        if parsed.database in (None, "", ":memory:"):
            raise ConfigurationError(
                "The journal must outlive its process, and an SQLite database in memory does not. "
                "Use sqlite:///path/to/journal.db."
            )
        return parsed
    if parsed.drivername in ("postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigurationError(
        f"A journal cannot live in {parsed.drivername}. "
        "Use sqlite:///path/to/journal.db or postgresql+psycopg://user@host/database."
    )


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    folder = Path(url.database or "").parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"The journal's folder {folder} cannot be created: {error.strerror}. "
            "Choose another path for the journal, or create the folder."
        ) from error
    # Outcomes may quote rows' values: errors show statements without their parameters.
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        connect_args={"timeout": BUSY_TIMEOUT_S},
    )

    @sa.event.listens_for(engine, "connect")
    def connected(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        # The driver would begin transactions by itself, and only at the first write: too late
        # for what was read before it. `began` says BEGIN instead.
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous = FULL")
        # Settling half a million outcomes leaves a log as large as they are; give it back.
        connection.execute("PRAGMA journal_size_limit = 16777216")

    @sa.event.listens_for(engine, "begin")
    def began(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("journal_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _switch_to_wal(engine: sa.Engine) -> None:
    """Readers must not wait for writers. The switch stays in the file.

    SQLite does not wait for its busy timeout when two processes switch at once, or when one
    switches while another writes: it fails at once, and asking again is all there is to do.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            with closing(engine.raw_connection()) as connection:
                cursor = connection.cursor()
                cursor.execute("PRAGMA journal_mode = WAL")
                (mode,) = cursor.fetchone() or ("",)
                cursor.close()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
            continue
        if mode != "wal":
            raise ConfigurationError(
                f"SQLite cannot keep a write-ahead log beside {engine.url.database} (it stays in mode {mode}). "
                "Put the journal on a local disk."
            )
        return


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    try:
        engine = sa.create_engine(
            url,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={
                "connect_timeout": 10,
                "application_name": "seqsync journal",
                # A server that vanished is noticed well within a lease's time to live.
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
        )
    except ImportError as error:
        raise ConfigurationError(
            "A journal on PostgreSQL needs the driver psycopg 3: pip install 'seqsync_dagster[postgres]'."
        ) from error

    @sa.event.listens_for(engine, "begin")
    def began(connection: sa.Connection) -> None:
        if not connection.get_execution_options().get("journal_writes", False):
            return
        # A process that is stopped in the middle of a transaction must not keep its locks for
        # ever. Per transaction, because a connection pooler shares sessions among strangers.
        connection.exec_driver_sql(
            f"SELECT set_config('lock_timeout', '{BUSY_TIMEOUT_S}s', true), "
            f"set_config('idle_in_transaction_session_timeout', '{BUSY_TIMEOUT_S}s', true)"
        )

    return engine
