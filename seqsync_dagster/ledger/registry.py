"""What is known of a sync as a whole: its row in ``syncs``, and the creation of its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.errors import LeaseLost, StateError
from seqsync_dagster.ledger.fingerprint import Checksum
from seqsync_dagster.ledger.mapping_change import former_slot
from seqsync_dagster.ledger.tables import (
    SCHEMA_VERSION,
    Shape,
    StateTables,
    fixed_ledger,
    key_column,
    parent_column,
    ref_column,
)
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.open import lock_creation, qualified


@dataclass(frozen=True)
class Registered:
    """A sync's row in ``syncs``."""

    org_id: str | None
    org_name: str | None
    object: str | None
    match_field: str | None
    case_sensitive: bool
    mapping_digest: str | None
    policy_digest: str | None
    hash_name: str | None
    checksum: Checksum | None
    last_counts: Mapping[str, int]
    arrivals: int
    parent_arrivals: Mapping[str, int]
    epoch: int
    plan_run_id: str | None
    plan_spec: str | None
    mapping: str | None = None
    """See `mapping_change.remembered_mapping`."""
    settled_at: datetime | None = None
    """When the latest run was settled."""
    since_of: str | None = None
    since_mark: str | None = None
    full_scan_at: datetime | None = None
    """See the columns of ``syncs``."""


def read(connection: sa.Connection, tables: StateTables, sequence: str, sync: str) -> Registered | None:
    """The sync's row; None when this ledger has never been used.

    Raises `StateError` when a newer version of this package wrote it.
    """
    if not sa.inspect(connection).has_table("syncs", schema=tables.syncs.schema):
        return None
    s = tables.syncs
    # Whatever columns there are: a parent's ledger may be older than this version, and is not ours to change.
    everything = sa.select(sa.text("*")).select_from(s).where(s.c.sequence == sequence, s.c.sync == sync)
    row = connection.execute(everything).mappings().one_or_none()
    if row is None:
        return None
    if row["schema_version"] > SCHEMA_VERSION:
        raise StateError(
            f"sync {sync}: its ledger was written by a newer seqsync_dagster (state version {row['schema_version']}, "
            f"this one knows {SCHEMA_VERSION}). Upgrade this installation."
        )
    checksum = None
    if row["model_rows"] is not None:
        checksum = Checksum(int(row["model_rows"]), row["model_sum"])
    return Registered(
        org_id=row["org_id"],
        org_name=row["org_name"],
        object=row["object"],
        match_field=row["match_field"],
        case_sensitive=bool(row["case_sensitive"]),
        mapping_digest=row["mapping_digest"],
        policy_digest=row["policy_digest"],
        hash_name=row["hash_name"],
        checksum=checksum,
        last_counts=json.loads(row["last_counts"] or "{}"),
        arrivals=row["arrivals"] or 0,
        parent_arrivals=json.loads(row["parent_arrivals"] or "{}"),
        epoch=row["epoch"] or 0,
        plan_run_id=row["plan_run_id"],
        plan_spec=row["plan_spec"],
        mapping=row.get("mapping"),
        settled_at=row["settled_at"],
        since_of=row.get("since_of"),
        since_mark=row.get("since_mark"),
        full_scan_at=row.get("full_scan_at"),
    )


def migrate(connection: sa.Connection, tables: StateTables) -> None:
    """Give existing state tables the columns that this version has added; every one may be null. Commits when it does.

    Stands before anything else is read: a transaction that holds a lock on ``syncs`` while it waits for
    another's change of that table would wait for ever.
    """
    # Key and reference columns come and go with the YAML; `create_tables` sees to those.
    fixed = fixed_ledger(tables)
    inspector = sa.inspect(connection)
    state = [s for s in (tables.syncs, fixed) if inspector.has_table(s.name, schema=s.schema)]
    if not any(_lacking(connection, s) for s in state):
        return
    connection.commit()
    lock_creation(connection)
    for table in state:
        # Asked again: another run may have been first, and to alter a table needs a lock that excludes its readers.
        for column in _lacking(connection, table):
            kind = column.type.compile(connection.dialect)
            connection.execute(sa.text(f'ALTER TABLE {qualified(table)} ADD COLUMN "{column.name}" {kind}'))
    connection.commit()


def _lacking(connection: sa.Connection, table: sa.TableClause) -> list[sa.ColumnClause[Any]]:
    present = columns_of(connection, table)
    return [c for c in table.c if c.name not in present]


def create_tables(connection: sa.Connection, tables: StateTables, sync: SyncSpec, mapping: str | None = None) -> None:
    """Create what is missing. `mapping`: what the rows of an existing ledger were sent with.

    Raises `StateError` when an existing ledger has other key columns.
    """
    lock_creation(connection)
    metadata = tables.syncs.metadata
    metadata.create_all(connection)
    shape = Shape.of(sync)
    inspector = sa.inspect(connection)
    if not inspector.has_table(tables.ledger.name, schema=tables.ledger.schema):
        empty = sa.select(*[sa.cast(sa.null(), c.type).label(c.name) for c in tables.ledger.c]).where(sa.false())
        connection.execute(empty.into(tables.ledger.name, schema=tables.ledger.schema))
        if connection.dialect.name == "postgresql":
            # DuckDB's indexes cost more than they save on tables that are scanned whole.
            connection.execute(
                sa.text(f'CREATE UNIQUE INDEX ON "{tables.ledger.schema}"."{tables.ledger.name}" (match_key)')
            )
        return
    present = set(columns_of(connection, tables.ledger))
    old_keys = {c for c in present if c.startswith("key_")}
    if old_keys != {key_column(k) for k in shape.keys}:
        shown = ", ".join(sorted(c.removeprefix("key_") for c in old_keys))
        raise StateError(
            f"sync {sync.name}: its ledger is kept by the key ({shown}), the YAML now says ({', '.join(shape.keys)}). "
            "A key cannot change under a ledger. Give the sync a new name, or launch with rebuild_ledger: true "
            "to match every record again."
        )
    add_reference_columns(connection, tables, sync, mapping)


def add_reference_columns(
    connection: sa.Connection, tables: StateTables, sync: SyncSpec, mapping: str | None = None
) -> None:
    """Make room in an existing ledger for lookups that the YAML has got since.

    What records point to stays known when a field gets a second parent, or is left with one: `mapping`, of the rows in
    the ledger, tells where that stood. Commits when there is something to keep.
    """
    present = set(columns_of(connection, tables.ledger))
    ledger = f'"{tables.ledger.schema}"."{tables.ledger.name}"'
    kept: list[str] = []
    for slot in Shape.of(sync).parents:
        before = former_slot(mapping, sync, slot)
        for named in (parent_column, ref_column):
            column = named(slot)
            if column not in present:
                connection.execute(sa.text(f'ALTER TABLE {ledger} ADD COLUMN "{column}" TEXT'))
                if before is not None and named(before) in present:
                    kept.append(f'"{column}" = "{named(before)}"')
    if kept:
        # DuckDB changes no rows of a table in the transaction that has altered it.
        connection.commit()
        connection.execute(sa.text(f"UPDATE {ledger} SET {', '.join(kept)}"))


def add_plan_columns(connection: sa.Connection, tables: StateTables) -> None:
    """Make room in a plan that an earlier version wrote, and did not carry out, for what this one asks of it."""
    if "lacking" not in columns_of(connection, tables.plan):
        connection.execute(sa.text(f'ALTER TABLE {qualified(tables.plan)} ADD COLUMN "lacking" TEXT'))
        connection.commit()


def columns_of(connection: sa.Connection, table: sa.TableClause) -> list[str]:
    """Names of a table's columns as they are."""
    everything = sa.select(sa.text("*")).select_from(sa.table(table.name, schema=table.schema)).limit(0)
    return list(connection.execute(everything).keys())


def drop_ledger(connection: sa.Connection, tables: StateTables, sequence: str, sync: str) -> None:
    """Forget everything about a sync: the operator asked for a new start."""
    connection.execute(sa.text(f'DROP TABLE IF EXISTS "{tables.ledger.schema}"."{tables.ledger.name}"'))
    connection.execute(sa.text(f'DROP TABLE IF EXISTS "{tables.plan.schema}"."{tables.plan.name}"'))
    if sa.inspect(connection).has_table("syncs", schema=tables.syncs.schema):
        s = tables.syncs
        connection.execute(sa.delete(s).where(s.c.sequence == sequence, s.c.sync == sync))


def claim(connection: sa.Connection, tables: StateTables, sequence: str, sync: str, epoch: int) -> None:
    """Fence: make `epoch` the ledger's, or raise `LeaseLost` when a later run has written here.

    Part of every transaction that writes state, so that a run that was taken for
    dead and wakes up again cannot undo its successor's work.
    """
    s = tables.syncs
    mine = sa.and_(s.c.sequence == sequence, s.c.sync == sync)
    epochs = sa.select(s.c.epoch).where(mine)
    if connection.dialect.name == "postgresql":
        # Held to the end of the transaction: a later run cannot take over between this look and what is written.
        # A DuckDB file has one writing process, and fails the second of two transactions that write one row.
        epochs = epochs.with_for_update()
    current = connection.execute(epochs).scalar_one_or_none()
    if current is None:
        connection.execute(
            sa.insert(s).values(
                sequence=sequence, sync=sync, schema_version=SCHEMA_VERSION, epoch=epoch, arrivals=0, last_counts="{}"
            )
        )
        return
    if current > epoch:
        raise LeaseLost(
            f"sync {sync}: another run took over (epoch {current}, this run has {epoch}); this run writes nothing more."
        )
    if current < epoch:
        connection.execute(sa.update(s).where(mine, s.c.epoch <= epoch).values(epoch=epoch))


def update(connection: sa.Connection, tables: StateTables, sequence: str, sync: str, **values: Any) -> None:
    """Set columns of the sync's row."""
    s = tables.syncs
    connection.execute(sa.update(s).where(s.c.sequence == sequence, s.c.sync == sync).values(**values))
