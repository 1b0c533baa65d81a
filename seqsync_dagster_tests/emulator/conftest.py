from __future__ import annotations

import pytest

from seqsync_dagster_tests.emulator_process import Api, EmulatorProcess, emulator, module_emulator

__all__ = ["emulator", "module_emulator"]


@pytest.fixture(scope="module")
def api(module_emulator: EmulatorProcess) -> Api:
    return module_emulator.login()
