"""A destination per test, against an emulated org of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from seqsync_dagster.destinations.salesforce.destination import SalesforceDestination
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings
from seqsync_dagster_tests.emulator_process import (  # noqa: F401
    CLIENT_ID,
    CLIENT_SECRET,
    EmulatorProcess,
    emulator,
)

Connect = Callable[..., SalesforceDestination]


@pytest.fixture
def connect(emulator: EmulatorProcess) -> Iterator[Connect]:  # noqa: F811
    """Connections to the test's org; settings may be given."""
    opened: list[SalesforceDestination] = []

    def open_one(**settings: object) -> SalesforceDestination:
        given = {
            "url": emulator.url,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "retry_wait_s": 0.01,
            **settings,
        }
        opened.append(SalesforceDestination(SalesforceSettings.model_validate(given), "crm"))
        return opened[-1]

    yield open_one
    for destination in opened:
        destination.close()
