"""A small company: a warehouse with tables, an org, a sequence between them. Nothing in it is pretended."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from seqsync_dagster.destinations.salesforce.destination import SalesforceDestination
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings
from seqsync_dagster.engine.finish import run_finish
from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.engine.report import FinishReport, SyncReport
from seqsync_dagster.engine.run import run_sync
from seqsync_dagster.engine.site import Site
from seqsync_dagster.engine.telling import Told
from seqsync_dagster.journal import Journal
from seqsync_dagster.ledger.tables import StateTables
from seqsync_dagster.sequence.spec import SequenceSpec
from seqsync_dagster.warehouse.open import open_warehouse
from seqsync_dagster.warehouse.settings import WarehouseSettings
from seqsync_dagster.warehouse.source import ModelSource
from seqsync_dagster_tests.emulator_process import EmulatorProcess

ACCOUNTS = {
    "name": "accounts",
    "table": "crm.accounts",
    "key": "account_id",
    "object": "Account",
    "match": "External_Id__c",
    "fields": {"Name": "name", "Website": "website", "ParentId": {"parent": "accounts", "from": "parent_id"}},
}
WORKSPACES = {
    "name": "workspaces",
    "table": "crm.workspaces",
    "key": "workspace_id",
    "object": "Workspace__c",
    "match": "External_Id__c",
    "removed": "delete",
    "fields": {"Name": "name", "Plan__c": "plan", "Account__c": {"parent": "accounts", "from": "account_id"}},
}
CONTACTS = {
    "name": "contacts",
    "table": "crm.contacts",
    "key": "contact_id",
    "object": "Contact",
    "match": "External_Id__c",
    "sensitive": ["email"],
    "fields": {
        "LastName": "last_name",
        "Email": "email",
        "LeadSource": {"constant": "Product"},
        "AccountId": {"parent": "accounts", "from": "account_id"},
        "Workspace__c": {"parent": "workspaces", "from": "workspace_id"},
    },
}

TABLES = """
CREATE SCHEMA IF NOT EXISTS crm;
CREATE TABLE crm.accounts (account_id text, name text, website text, parent_id text);
CREATE TABLE crm.workspaces (workspace_id text, name text, plan text, account_id text);
CREATE TABLE crm.contacts (contact_id text, last_name text, email text, account_id text, workspace_id text);
"""


def crm(*syncs: dict[str, Any], **more: Any) -> SequenceSpec:
    """The crm sequence, or one of other syncs."""
    chosen = list(syncs) or [ACCOUNTS, WORKSPACES, CONTACTS]
    return SequenceSpec.model_validate({"name": "crm", "destination": "salesforce", "syncs": chosen, **more})


class World:
    """One warehouse, one state, one org."""

    def __init__(self, folder: Path, warehouse_url: str, org: EmulatorProcess, sequence: SequenceSpec) -> None:
        self.folder, self.warehouse_url, self.org, self.sequence = folder, warehouse_url, org, sequence
        self.settings: dict[str, Any] = {"retry_wait_s": 0.01}
        self.lines: list[str] = []
        self.told: list[Told] = []
        self.runs = 0

    @property
    def on_duckdb(self) -> bool:
        return self.warehouse_url.startswith("duckdb")

    def sql(self, *statements: str) -> None:
        """Change the warehouse, as dbt would: from outside, holding nothing afterwards."""
        engine = sa.create_engine(self.warehouse_url, poolclass=NullPool)
        with engine.begin() as connection:
            for text in statements:
                for statement in filter(None, (s.strip() for s in text.split(";\n"))):
                    connection.exec_driver_sql(statement.rstrip(";").replace("%", "%%"))
        engine.dispose()

    def insert(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Insert literal rows."""
        listed = list(rows)
        engine = sa.create_engine(self.warehouse_url, poolclass=NullPool)
        with engine.begin() as connection:
            marks = ", ".join(f":v{i}" for i in range(len(listed[0])))
            connection.execute(
                sa.text(f"INSERT INTO {table} VALUES ({marks})"),
                [{f"v{i}": v for i, v in enumerate(row)} for row in listed],
            )
        engine.dispose()

    def site(self) -> Site:
        """Everything opened anew, as a new process would."""
        settings = WarehouseSettings.model_validate({"url": self.warehouse_url})
        warehouse, journal = open_warehouse(settings, self.folder)
        connection = SalesforceSettings.model_validate(
            {"url": self.org.url, "client_id": "demo", "client_secret": "demo-secret", **self.settings}
        )
        return Site(
            self.sequence,
            warehouse,
            Journal(journal),
            SalesforceDestination(connection, "salesforce"),
            self.told.append,
        )

    def run(
        self, sync: str, options: RunOptions | None = None, *, remembered: bool = False, build: str | None = None
    ) -> SyncReport:
        """One run of one sync. `build`: the materialisation of its model, as Dagster would name it."""
        site = self.site()
        self.runs += 1
        spec = self.sequence.sync(sync)
        source = ModelSource(label="query", query=spec.query) if spec.query else ModelSource.of_table(spec.table or "")
        try:
            return run_sync(
                site,
                sync,
                source,
                options or RunOptions(),
                run_id=f"test{self.runs}",
                holder=f"test run {self.runs}",
                remembered=remembered,
                log=self.lines.append,
                build=build,
            )
        finally:
            _close(site)

    def finish(self) -> FinishReport:
        """The closing step."""
        site = self.site()
        self.runs += 1
        try:
            return run_finish(
                site, RunOptions(), run_id=f"finish{self.runs}", holder="test finish", log=self.lines.append
            )
        finally:
            _close(site)

    def run_all(self, options: RunOptions | None = None) -> dict[str, SyncReport]:
        """Every sync in order, then finish."""
        from seqsync_dagster.sequence.graph import order

        reports = {name: self.run(name, options) for name in order(self.sequence)}
        self.finish()
        return reports

    def ledger(self, sync: str) -> dict[str, dict[str, Any]]:
        """The ledger's rows by match key."""
        return {r["match_key"]: r for r in self.state(sync, "ledger")}

    def state(self, sync: str, table: str) -> list[dict[str, Any]]:
        """Rows of a state table, as a person would query them."""
        site = self.site()
        try:
            with site.warehouse.open("crm", sync) as room:
                tables = StateTables.of(self.sequence, self.sequence.sync(sync), room.schema)
                selected = sa.select(sa.text("*")).select_from(getattr(tables, table))
                return [dict(r) for r in room.connection.execute(selected).mappings()]
        finally:
            _close(site)


def _close(site: Site) -> None:
    site.destination.close()
    site.warehouse.close()
    site.journal.close()
