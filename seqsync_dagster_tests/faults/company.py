"""A company with everything that may befall a row, its history, and the judge of what became of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seqsync_dagster.journal import Scope
from seqsync_dagster_tests.emulator_process import EmulatorProcess
from seqsync_dagster_tests.engine.oracle import SequenceOracle, org_of
from seqsync_dagster_tests.engine.world import ACCOUNTS, CONTACTS, TABLES, WORKSPACES, World, crm
from seqsync_dagster_tests.faults.victim import Victims
from seqsync_dagster_tests.postgres_server import PostgresServer

#: A record whose creating reply was lost is of unknown origin, and only `delete_adopted` lets go of such ones.
SPECS: list[dict[str, Any]] = [
    {**spec, "removed": "delete", "delete_adopted": True} for spec in (ACCOUNTS, WORKSPACES, CONTACTS)
]
NAMES = [s["name"] for s in SPECS]
REFUSES = {
    "accounts": lambda v: v["Name"] is None,
    "workspaces": lambda v: v["Plan__c"] not in (None, "Free", "Team") or v["Account__c"] is None,
    "contacts": lambda v: v["Email"] == "no-mail",
}
COLUMNS = {
    "accounts": ("account_id", "name", "website", "parent_id"),
    "workspaces": ("workspace_id", "name", "plan", "account_id"),
    "contacts": ("contact_id", "last_name", "email", "account_id", "workspace_id"),
}
#: Above it, rows go through Bulk.
APIS = {"collections": 2000, "bulk": 0}


class Company:
    """A world, its model as lists of rows, and the oracle that follows it."""

    def __init__(self, world: World, api: str, victims: Victims) -> None:
        self.world, self.victims = world, victims
        self.world.settings.update(collections_up_to=APIS[api], bulk_part_rows=12)
        self.oracle = SequenceOracle(SPECS, REFUSES)
        self.rows: dict[str, list[list[Any]]] = {name: [] for name in NAMES}
        world.sql(TABLES)

    def found(self) -> None:
        """The first model: 3 levels of accounts, and in each table refused and held rows among the good ones."""
        accounts: list[list[Any]] = [
            [f"A{i:02}", f"name {i}", f"a{i}.example", None if i < 8 else f"A{i - 8:02}"] for i in range(24)
        ]
        accounts[3][1] = accounts[13][1] = None
        accounts[15][3] = "A99"
        accounts += [["a05", "twin", None, None], [None, "no key", None, None]]
        workspaces: list[list[Any]] = [
            [f"W{i:02}", f"space {i}", ("Free", "Team")[i % 2], f"A{i:02}"] for i in range(20)
        ]
        workspaces[4][2] = "Gratis"
        contacts: list[list[Any]] = [
            [f"C{i:02}", f"person {i}", f"p{i}@example.com", f"A{i % 24:02}", None if i % 3 else f"W{i % 20:02}"]
            for i in range(28)
        ]
        contacts[9][2] = "no-mail"
        self.rows = {"accounts": accounts, "workspaces": workspaces, "contacts": contacts}
        self.store()

    def change(self, seed: int) -> None:
        """One period of a company's life, after which all three tables have news."""
        chance = random.Random(seed)
        for name, rows in self.rows.items():
            for row in chance.sample(rows, 6):
                row[1] = f"renamed {seed} {chance.random():.3f}"
            for row in chance.sample(rows, 3):
                rows.remove(row)
            letter = name[0].upper()
            for i in range(3):
                parent = chance.choice(self.rows["accounts"])[0]
                more = {"accounts": ["x.example", parent], "workspaces": ["Free", parent]}
                rows.append([f"{letter}{seed}n{i}", f"new {i}", *more.get(name, [f"n{i}@example.com", parent, None])])
        for row in chance.sample(self.rows["workspaces"], 3):
            row[3] = chance.choice(self.rows["accounts"])[0]
        # Whole families go, so that removals have several levels.
        gone = chance.choice(["A04", "A06", "A07"])
        family = {gone, f"A{int(gone[1:]) + 8:02}", f"A{int(gone[1:]) + 16:02}"}
        for name, rows in self.rows.items():
            at = {"accounts": 0}.get(name, 3)
            rows[:] = [r for r in rows if r[at] not in family]
        self.store()

    def store(self) -> None:
        """Write the model to the warehouse."""
        for name, rows in self.rows.items():
            self.world.sql(f"DELETE FROM crm.{name}")
            self.world.insert(f"crm.{name}", [tuple(r) for r in rows])

    def run(self, **options: Any) -> dict[str, Any]:
        """The sequence in a child process; see `victim._run`."""
        world = self.world
        return self.victims.run(self.job(**options)) | {"folder": str(world.folder)}

    def job(self, **options: Any) -> dict[str, Any]:
        """What a child is told."""
        world = self.world
        return {
            "folder": str(world.folder),
            "warehouse_url": world.warehouse_url,
            "org_url": world.org.url,
            "sequence": world.sequence.model_dump(by_alias=True, mode="json"),
            "settings": world.settings,
            "result": str(world.folder / f"result{options.get('nth', '')}.json"),
            **options,
        }

    def expect(self) -> None:
        """Let the oracle make the run that the world makes."""
        for name in NAMES:
            model = [dict(zip(COLUMNS[name], row, strict=True)) for row in self.rows[name]]
            self.oracle.run(name, model)
        self.oracle.finish()

    def judge(self, *, killed: bool = True) -> None:
        """The org is as the oracle says, the ledgers agree with it, the journal is empty, nothing is left to send."""
        world, org = self.world, self.world.org
        assert org_of(org.records, self.oracle) == self.oracle.org()
        origins: Counter[str] = Counter()
        for name, obj in self.oracle.objects.items():
            ledger = world.ledger(name)
            ids = {k: r["dest_id"] for k, r in ledger.items() if r["dest_id"]}
            assert ids == {str(r["External_Id__c"]).lower(): r["Id"] for r in org.records(obj)}, name
            assert {k: r["state"] for k, r in ledger.items()} == self.oracle.states()[name], name
            origins.update(r["origin"] for r in ledger.values() if r["dest_id"])
        assert set(origins) <= ({"created", "unknown"} if killed else {"created"}), origins
        site = world.site()
        try:
            assert [r for n in NAMES for r in site.journal.open_runs(Scope("crm", n))] == []
            assert [site.journal.holder(Scope("crm", n)) for n in NAMES] == [None] * len(NAMES)
        finally:
            site.journal.close()
        org.reset_calls()
        after = self.run()
        assert after["code"] == 0, after
        assert "error" not in after, after["message"]
        assert org.calls()["row_bearing"] == 0, after["counts"]


@contextmanager
def new_company(
    engine: str, api: str, folder: Path, org: EmulatorProcess, server: PostgresServer, victims: Victims
) -> Iterator[Company]:
    """A company on an engine, before its first day."""
    if engine == "duckdb":
        yield Company(World(folder, f"duckdb:///{folder}/warehouse.duckdb", org, crm(*SPECS)), api, victims)
        return
    with server.fresh_database() as url:
        yield Company(World(folder, url, org, crm(*SPECS)), api, victims)
