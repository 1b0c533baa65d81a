"""Every fault at every step: the run ends and says what happened where, and the next one makes everything good.

By default each step meets some of the faults, and each fault some of the steps; ``SEQSYNC_FAULTS=all`` tries every
pair there is, which takes some minutes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from seqsync_dagster_tests.emulator_process import EmulatorProcess
from seqsync_dagster_tests.faults.office import Office

ALL = os.environ.get("SEQSYNC_FAULTS") == "all"
ALWAYS = 10**6

#: What lasts, and the words that it is told with.
FAULTS = {
    "503": "HTTP 503",
    "503_after": "HTTP 503",
    "reset_before": "the connection was cut",
    "reset_after": "the connection was cut",
    "cut": "the reply broke off",
    "silent": "no reply in time",
    "page": "that Salesforce does not give",
    "401": "the org refused a token it had just issued",
    "expire": "the org refused a token it had just issued",
    "limit": "REQUEST_LIMIT_EXCEEDED",
}
_BULK = {"collections_up_to": 0}


@dataclass(frozen=True)
class Step:
    """Where a fault strikes, and what people call that."""

    words: str
    where: dict[str, Any]
    act: str = "accounts"
    """The sync that is run, or `finish`, or `drift`."""
    settings: dict[str, Any] = field(default_factory=dict)


STEPS = {
    "login": Step("login", {"path_contains": "/oauth2/token"}),
    "who": Step("asking who the org is", {"path_contains": "/query"}),
    "describe": Step("reading what objects and fields there are", {"path_contains": "/describe"}),
    "lookup": Step("looking up User by Email", {"path_contains": "/query", "skip": 1}),
    "create": Step("sending rows", {"path_contains": "/composite/sobjects/Account"}),
    "create_below": Step("sending rows", {"path_contains": "/composite/sobjects/Account", "skip": 1}),
    "update": Step("sending rows", {"path_contains": "/composite/sobjects", "skip": 2}),
    "delete": Step("deleting records", {"path_contains": "/composite/sobjects", "method": "DELETE"}, "finish"),
    "open_job": Step("opening a Bulk job", {"path_contains": "/jobs/ingest", "method": "POST"}, settings=_BULK),
    "upload": Step("uploading to a Bulk job", {"path_contains": "/batches"}, settings=_BULK),
    "close_job": Step("closing a Bulk job", {"path_contains": "/jobs/ingest", "method": "PATCH"}, settings=_BULK),
    "poll": Step("waiting for a Bulk job", {"path_contains": "/jobs/ingest", "method": "GET"}, settings=_BULK),
    "results": Step("reading the results of a Bulk job", {"path_contains": "successfulResults"}, settings=_BULK),
    "results_below": Step(
        "reading the results of a Bulk job", {"path_contains": "successfulResults", "skip": 1}, settings=_BULK
    ),
    "take_up": Step("waiting for a Bulk job", {"path_contains": "/jobs/ingest", "method": "GET"}, settings=_BULK),
    "bulk_delete": Step(
        "reading the results of a Bulk job", {"path_contains": "successfulResults"}, "finish", settings=_BULK
    ),
    "read_back": Step("reading Account back", {"path_contains": "/query", "skip": 1}, "drift"),
}
#: A login is not charged and needs no token, and the reply to an upload has no body.
_UNHEARD_OF = {("login", "limit"), ("login", "401"), ("login", "expire"), ("upload", "cut")}
PAIRS = [(step, fault) for step in STEPS for fault in FAULTS if (step, fault) not in _UNHEARD_OF]
#: What matters most is whether the call was carried out; between faults that are alike in that, the steps take turns.
_ALIKE = [("503", "reset_before"), ("reset_after", "cut", "503_after", "silent"), ("page", "401", "expire", "limit")]


def chosen() -> list[tuple[str, str]]:
    if ALL:
        return PAIRS
    turns = [
        (step, alike[n % len(alike)]) for n, step in enumerate(STEPS) for k, alike in enumerate(_ALIKE) if n % 3 != k
    ]
    return [pair for pair in turns if pair in PAIRS]


class _Offices:
    """One office for all tests of an engine, and a new one after a test that failed and may have left a mess."""

    def __init__(self, folder: Path, org: EmulatorProcess, warehouse_url: str | None) -> None:
        self._folder, self._org, self._warehouse_url = folder, org, warehouse_url
        self._numbers = iter(range(1000))
        self._made: Office | None = None

    def one(self) -> Office:
        office, self._made = self._made, None
        if office is None:
            folder = self._folder / f"office{next(self._numbers)}"
            folder.mkdir()
            self._org.reset()
            office = Office(folder, self._warehouse_url or f"duckdb:///{folder}/warehouse.duckdb", self._org)
        return office

    def back(self, office: Office) -> None:
        self._made = office


@pytest.fixture(scope="module")
def org(worker_emulator: EmulatorProcess) -> EmulatorProcess:
    if worker_emulator.options:
        worker_emulator.kill()
        worker_emulator.options = ()
    if worker_emulator.process.poll() is not None:
        worker_emulator.start()
    return worker_emulator


@pytest.fixture(scope="module")
def duckdb_offices(tmp_path_factory: pytest.TempPathFactory, org: EmulatorProcess) -> _Offices:
    return _Offices(tmp_path_factory.mktemp("offices"), org, None)


@pytest.fixture
def office(duckdb_offices: _Offices) -> Iterator[Office]:
    made = duckdb_offices.one()
    made.world.lines.clear()
    yield made
    made.org.clear_faults()


def meets(office: Office, step: Step, fault: str) -> str:
    """Let a fault strike for as long as a run lasts; what the run says."""
    world = office.world
    act = {"finish": world.finish, "drift": office.drift}.get(step.act, lambda: world.run(step.act))
    before = dict(world.settings)
    world.settings.update(step.settings)
    if fault == "silent":
        world.settings["timeout_s"] = 0.25
    office.org.fault(fault, times=ALWAYS, **step.where)
    try:
        return office.fails(act)
    finally:
        office.org.clear_faults()
        world.settings.clear()
        world.settings.update(before)


def prepare(office: Office, name: str, step: Step) -> None:
    if step.act == "finish":
        office.departure()
    elif step.act != "drift":
        office.news()
    if name == "take_up":
        meets(office, STEPS["poll"], "503")


@pytest.mark.parametrize(("name", "fault"), chosen())
def test_a_fault_that_lasts_ends_the_run_with_its_name_and_the_next_run_completes(
    office: Office, duckdb_offices: _Offices, name: str, fault: str
) -> None:
    step = STEPS[name]
    prepare(office, name, step)
    said = meets(office, step, fault)
    assert "salesforce connection 'salesforce' at 127.0.0.1" in said
    assert step.words in said
    assert FAULTS[fault] in said
    world = office.world
    if step.act == "drift":
        assert office.drift().drifted == 0
    elif step.act == "finish":
        world.finish()
    else:
        world.run("accounts")
    office.judge()
    office.quiet("accounts")
    duckdb_offices.back(office)
