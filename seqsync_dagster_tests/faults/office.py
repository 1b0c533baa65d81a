"""A small sequence that goes through every step of a run, and what must be true whenever one of them failed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from seqsync_dagster.engine.drift import check_drift
from seqsync_dagster.engine.report import DriftReport
from seqsync_dagster.errors import SeqsyncError
from seqsync_dagster.journal import Scope
from seqsync_dagster.warehouse.source import ModelSource
from seqsync_dagster_tests.emulator_process import CLIENT_SECRET, EmulatorProcess, ready
from seqsync_dagster_tests.engine.world import World, crm
from seqsync_dagster_tests.postgres_server import PostgresServer

#: Accounts have 2 levels, an owner that no sync writes, and contacts below them.
ACCOUNTS: dict[str, Any] = {
    "name": "accounts",
    "table": "crm.accounts",
    "key": "account_id",
    "object": "Account",
    "match": "External_Id__c",
    "removed": "delete",
    "delete_adopted": True,
    "drift": {},
    "fields": {
        "Name": "name",
        "OwnerId": {"lookup": "User", "by": "Email", "from": "owner"},
        "ParentId": {"parent": "accounts", "from": "parent_id"},
    },
}
CONTACTS: dict[str, Any] = {
    "name": "contacts",
    "table": "crm.contacts",
    "key": "contact_id",
    "object": "Contact",
    "match": "External_Id__c",
    "removed": "delete",
    "delete_adopted": True,
    "fields": {"LastName": "last_name", "AccountId": {"parent": "accounts", "from": "account_id"}},
}
_TABLES = """
CREATE SCHEMA crm;
CREATE TABLE crm.accounts (account_id text, name text, owner text, parent_id text);
CREATE TABLE crm.contacts (contact_id text, last_name text, account_id text);
"""
_OWNER = "ana.kovac@example.com"
#: Seconds that no run here may take, whatever stands in its way and however busy the machine is.
BOUND_S = 20
#: What people cannot read, or must not: names of classes and modules, objects, pieces of code.
_UNREADABLE = re.compile(r"Traceback|\bat 0x|[a-z]Error\b|Exception|urllib3|requests\.|simple_salesforce|<|\n|Bearer")


class Office:
    """A world whose model is kept here too, so that the org can be compared with it."""

    def __init__(self, folder: Path, warehouse_url: str, org: EmulatorProcess) -> None:
        self.world = World(folder, warehouse_url, org, crm(ACCOUNTS, CONTACTS))
        self.world.settings.update(retry_wait_s=0.001)
        self.org = org
        self.accounts: dict[str, tuple[str, str | None]] = {f"A{i}": (f"a{i}", None) for i in range(2)}
        self.accounts |= {f"B{i}": (f"b{i}", f"A{i % 2}") for i in range(3)}
        # To be removed one by one; nobody stands below them.
        self.leaves = [f"L{i}" for i in range(40)]
        self.accounts |= dict.fromkeys(self.leaves, ("leaf", "A0"))
        self.contacts: dict[str, tuple[str, str]] = {f"C{i}": (f"c{i}", f"B{i % 3}") for i in range(4)}
        self.number = 0
        self.sound = False
        """Whether the last test left everything in order."""
        self.world.sql(_TABLES)
        self.store()
        self.world.run_all()
        self.judge()
        self.quiet("accounts", "contacts")

    def store(self) -> None:
        """Write the model to the warehouse."""
        self.world.sql("DELETE FROM crm.accounts", "DELETE FROM crm.contacts")
        self.world.insert("crm.accounts", [(k, name, _OWNER, parent) for k, (name, parent) in self.accounts.items()])
        self.world.insert("crm.contacts", [(k, name, parent) for k, (name, parent) in self.contacts.items()])

    def news(self, contacts: int = 0) -> None:
        """New and renamed accounts on both levels, and some contacts of the new ones."""
        self.number += 1
        n = self.number
        new = {f"N{n}": ("new", None), f"N{n}x": ("new below", f"N{n}")}
        renamed = {"A0": (f"renamed {n}", None), "B1": (f"renamed {n}", "A1")}
        self.accounts |= {**new, **renamed}
        self.world.insert("crm.accounts", [(k, name, _OWNER, parent) for k, (name, parent) in new.items()])
        if contacts:
            people = {f"P{n}-{i}": ("new", f"N{n}x") for i in range(contacts)}
            self.contacts |= people
            self.world.insert("crm.contacts", [(k, name, above) for k, (name, above) in people.items()])
        self.world.sql(
            *(f"UPDATE crm.accounts SET name = '{v[0]}' WHERE account_id = '{k}'" for k, v in renamed.items())
        )

    def rename(self, account: str) -> None:
        """Another name for one account."""
        self.accounts[account] = (f"renamed {self.number}", self.accounts[account][1])
        self.world.sql(f"UPDATE crm.accounts SET name = 'renamed {self.number}' WHERE account_id = '{account}'")

    def departure(self) -> None:
        """An account leaves the model, and its removal is due."""
        leaf = self.leaves.pop()
        del self.accounts[leaf]
        self.world.sql(f"DELETE FROM crm.accounts WHERE account_id = '{leaf}'")
        assert self.world.run("accounts").counts.removals_due == 1

    def drift(self) -> DriftReport:
        """The drift check of the accounts."""
        site = self.world.site()
        self.world.runs += 1
        run = f"drift{self.world.runs}"
        source = ModelSource.of_table("crm.accounts")
        try:
            return check_drift(
                site, "accounts", source, run_id=run, holder=run, remembered=True, log=self.world.lines.append
            )
        finally:
            site.destination.close()
            site.warehouse.close()
            site.journal.close()

    def fails(self, act: Callable[[], object]) -> str:
        """What a run that must end with an error says; it is for people, and it comes within bounds."""
        began = time.monotonic()
        try:
            act()
        except SeqsyncError as error:
            said = str(error)
        else:
            raise AssertionError("the run ended as if nothing had happened")
        assert time.monotonic() - began < BOUND_S
        assert not (found := _UNREADABLE.search(said)), f"{found[0]!r} in {said}"
        for line in (said, *self.world.lines):
            assert CLIENT_SECRET not in line and "!" not in line, line
        assert len(said) < 700, said
        self.nothing_twice()
        return said

    def nothing_twice(self) -> None:
        """No key has two records."""
        for obj in ("Account", "Contact"):
            keys = [r["External_Id__c"] for r in self.org.records(obj)]
            assert len(keys) == len(set(keys)), keys

    def judge(self) -> None:
        """The org holds each row once, as the model has it and under its parent; nobody holds or waits for anything."""
        accounts, contacts = self.org.by_external_id("Account"), self.org.by_external_id("Contact")
        self.nothing_twice()
        names = {r["Id"]: k for k, r in accounts.items()}
        assert {k: (r["Name"], names.get(r["ParentId"])) for k, r in accounts.items()} == self.accounts
        assert {k: (r["LastName"], names.get(r["AccountId"])) for k, r in contacts.items()} == self.contacts

    def quiet(self, *syncs: str) -> None:
        """Another run sends nothing, and the ledgers know every record under its id."""
        site = self.world.site()
        try:
            assert not any(site.journal.open_runs(Scope("crm", name)) for name in ("accounts", "contacts"))
        finally:
            site.journal.close()
        self.org.reset_calls()
        for name in syncs:
            assert self.world.run(name).counts.planned == 0
            obj = self.world.sequence.sync(name).object
            known = {r["match_key"]: (r["state"], r["dest_id"]) for r in self.world.ledger(name).values()}
            there = {k.lower(): ("acknowledged", r["Id"]) for k, r in self.org.by_external_id(obj).items()}
            assert known == there
        assert self.org.calls()["row_bearing"] == 0
        self.sound = True


class Offices:
    """One office for the tests of a module, and a new one after a test that left a mess."""

    def __init__(self, folder: Path, org: EmulatorProcess, new_url: Callable[[Path], str]) -> None:
        self._folder, self._org, self._new_url = folder, org, new_url
        self._made: list[Office] = []

    def one(self) -> Office:
        """The office, in order."""
        if not (self._made and self._made[-1].sound):
            folder = self._folder / f"office{len(self._made)}"
            folder.mkdir()
            self._made.append(Office(folder, self._new_url(folder), ready(self._org)))
        office = self._made[-1]
        office.sound = False
        office.world.lines.clear()
        return office


@pytest.fixture(scope="module")
def offices(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    worker_emulator: EmulatorProcess,
) -> Iterator[Offices]:
    """On the engine that the test asks for."""
    folder = tmp_path_factory.mktemp("offices")
    if request.param == "duckdb":
        yield Offices(folder, worker_emulator, lambda folder: f"duckdb:///{folder}/warehouse.duckdb")
        return
    postgres_server: PostgresServer = request.getfixturevalue("postgres_server")
    with ExitStack() as databases:
        yield Offices(folder, worker_emulator, lambda _: databases.enter_context(postgres_server.fresh_database()))


@pytest.fixture
def office(offices: Offices) -> Iterator[Office]:
    """An office in which everything is in order; no fault is left behind."""
    made = offices.one()
    yield made
    made.org.clear_faults()
