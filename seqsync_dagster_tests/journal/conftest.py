from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from seqsync_dagster.journal import Journal, Scope
from seqsync_dagster_tests.postgres_server import PostgresServer, postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def journal_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A journal of the module's own, on each database in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('journal')}/deep/down/journal.db"
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        with server.fresh_database() as url:
            yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def new_journal_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where no journal has been yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/journal.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="module")
def journal(journal_url: str) -> Iterator[Journal]:
    with Journal(journal_url) as journal:
        yield journal


@pytest.fixture
def scope() -> Scope:
    """A sync that no other test knows."""
    return Scope("crm", f"sync_{uuid.uuid4().hex[:8]}")
