from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seqsync_dagster_tests.emulator_process import EmulatorProcess, emulator, module_emulator  # noqa: F401
from seqsync_dagster_tests.engine.world import TABLES, World, crm
from seqsync_dagster_tests.postgres_server import postgres_server  # noqa: F401


@pytest.fixture(params=["duckdb", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path, emulator: EmulatorProcess) -> Iterator[World]:  # noqa: F811
    """A world on each engine: the same tests, the same results."""
    if request.param == "duckdb":
        made = World(tmp_path, f"duckdb:///{tmp_path}/warehouse.duckdb", emulator, crm())
        made.sql(TABLES)
        yield made
        return
    server: Any = request.getfixturevalue("postgres_server")
    with server.fresh_database() as url:
        made = World(tmp_path, url, emulator, crm())
        made.sql(TABLES)
        yield made
