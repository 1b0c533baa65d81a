from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest

from seqsync_dagster_tests.emulator_process import worker_emulator

__all__ = ["worker_emulator"]

# A test opens DuckDB and SQLite files dozens of times and waits for the disk at each commit: a fifth of the suite's
# time. A killed process loses as little in memory as on disk, and that is all that is killed here.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_finish() -> None:
    """Look for rubbish less often, and not in what stays: it was a tenth of the suite's time, and is half of that."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this test run see, for what is costly to make twice."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
