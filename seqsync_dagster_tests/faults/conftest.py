from __future__ import annotations

from collections.abc import Iterator

import pytest

from seqsync_dagster_tests.emulator_process import emulator  # noqa: F401
from seqsync_dagster_tests.faults.victim import Victims
from seqsync_dagster_tests.postgres_server import postgres_server  # noqa: F401


@pytest.fixture(scope="session")
def victims() -> Iterator[Victims]:
    """The template process of this worker."""
    with Victims() as process:
        yield process
