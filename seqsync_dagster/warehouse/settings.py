"""Where the models are, and where state lives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from seqsync_dagster.environment import Setting, read_setting
from seqsync_dagster.errors import ConfigurationError
from seqsync_dagster.sequence.strict import Strict

#: Query parameter of the journal's URL that names its schema on PostgreSQL.
SCHEMA_PARAMETER = "seqsync_schema"
_SCHEMA = "seqsync"


class StateSettings(Strict):
    """Where ledgers and the journal live. Losing them means matching every record again."""

    schema_: Annotated[
        str,
        Field(
            alias="schema",
            pattern=r"^[a-z_][a-z0-9_]*$",
            description="Schema for ledger, plan and change log, in the warehouse; on PostgreSQL for the journal too.",
        ),
    ] = _SCHEMA
    directory: Annotated[
        Setting | None,
        Field(
            description="With DuckDB: folder for one ledger file per sync, and for the journal. "
            "Default: `seqsync_state` beside the warehouse file."
        ),
    ] = None
    memory_mb: Annotated[
        int,
        Field(
            ge=128,
            description="With DuckDB: megabytes that comparing a model with its ledger may take before it spills to "
            "disk; some 50 bytes a row of the ledger are fast. Everything else makes do with 64 where it can.",
        ),
    ] = 1024
    journal: Annotated[
        Setting | None,
        Field(
            description="SQLAlchemy URL of the journal: `sqlite:///PATH` or `postgresql+psycopg://...`. "
            "Default: SQLite in `directory` with DuckDB, the warehouse itself with PostgreSQL."
        ),
    ] = None


class WarehouseSettings(Strict):
    """A warehouse that holds models, and the place of the state that belongs to it."""

    url: Annotated[
        Setting,
        Field(description="SQLAlchemy URL, e.g. `duckdb:///warehouse.duckdb`, `postgresql+psycopg://...`."),
    ]
    state: Annotated[StateSettings, Field(description="Where ledgers and the journal live.")] = StateSettings()

    def refuse_ephemeral(self) -> None:
        """Raise `ConfigurationError` where state would die with a pod: Kubernetes, DuckDB, no `state.directory`.

        For the load: a URL that only a run's environment knows is looked at when it is resolved.
        """
        url = self.url
        self._refuse_ephemeral(url if isinstance(url, str) else os.environ.get(url.env) or url.default or "")

    def _refuse_ephemeral(self, url: str) -> None:
        in_pod = os.environ.get("KUBERNETES_SERVICE_HOST")
        if in_pod and url.startswith("duckdb") and self.state.directory is None:
            raise ConfigurationError(
                "warehouse: in a pod the ledgers beside a DuckDB file are lost with the pod's disk. "
                "Set state: {directory: ...} to a mounted volume."
            )

    def resolve(self, base: Path) -> tuple[URL, Path | None, str]:
        """Warehouse URL, state folder (DuckDB only) and journal URL; relative paths are taken from `base`."""
        text = read_setting(self.url, "warehouse: url")
        self._refuse_ephemeral(text)
        url = _url(text, "warehouse: url")
        backend = url.get_backend_name()
        if backend not in ("duckdb", "postgresql"):
            raise ConfigurationError(
                f"warehouse: url names {backend!r}; supported are duckdb and postgresql (postgresql+psycopg://...)."
            )
        directory: Path | None = None
        if backend == "duckdb":
            if not url.database or url.database == ":memory:":
                raise ConfigurationError("warehouse: url needs a DuckDB file: duckdb:///PATH.")
            file = base / url.database
            url = url.set(database=str(file))
            directory = file.parent / "seqsync_state"
            if self.state.directory is not None:
                directory = base / read_setting(self.state.directory, "warehouse: state.directory")
        elif url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        if self.state.journal is not None:
            journal = _url(read_setting(self.state.journal, "warehouse: state.journal"), "warehouse: state.journal")
            if journal.get_backend_name() == "sqlite" and journal.database:
                journal = journal.set(database=str(base / journal.database))
        elif directory is not None:
            journal = URL.create("sqlite", database=str(directory / "journal.sqlite"))
        else:
            journal = url
        if journal.get_backend_name() == "postgresql" and self.state.schema_ != _SCHEMA:
            # Two states in one database must not share a journal: it knows syncs by name only.
            journal = journal.update_query_dict({SCHEMA_PARAMETER: self.state.schema_})
        return url, directory, journal.render_as_string(hide_password=False)


def _url(text: str, what: str) -> URL:
    try:
        return make_url(text)
    except ArgumentError:
        # The text may carry a password, so the message must not repeat it.
        raise ConfigurationError(f"{what} is not a SQLAlchemy URL (dialect://user:password@host/database).") from None
