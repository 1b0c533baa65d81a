"""What is known of a sync as a whole: its row in ``syncs``, and the creation of its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.errors import LeaseLost, StateError
from seqsync_dagster.ledger.fingerprint import Checksum, Model
from seqsync_dagster.ledger.tables import LEDGER_COLUMNS, SCHEMA_VERSION, Shape, StateTables, key_column, parent_column
from seqsync_dagster.sequence.spec import SyncSpec


@dataclass(frozen=True)
class Registered:
    """A sync's row in ``syncs``."""

    org_id: str | None
    org_name: str | None
    case_sensitive: bool
    mapping_digest: str | None
    hash_name: str | None
    checksum: Checksum | None
    last_counts: Mapping[str, int]
    arrivals: int
    parent_arrivals: Mapping[str, int]
    plan_run_id: str | None
    settled_run_id: str | None


def read(connection: sa.Connection, tables: StateTables, sequence: str, sync: str) -> Registered | None:
    """The sync's row; None when this ledger has never been used.

    Raises `StateError` when a newer version of this package wrote it.
    """
    if not sa.inspect(connection).has_table("syncs", schema=tables.syncs.schema):
        return None
    s = tables.syncs
    row = connection.execute(sa.select(s).where(s.c.sequence == sequence, s.c.sync == sync)).mappings().one_or_none()
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
        case_sensitive=bool(row["case_sensitive"]),
        mapping_digest=row["mapping_digest"],
        hash_name=row["hash_name"],
        checksum=checksum,
        last_counts=json.loads(row["last_counts"] or "{}"),
        arrivals=row["arrivals"] or 0,
        parent_arrivals=json.loads(row["parent_arrivals"] or "{}"),
        plan_run_id=row["plan_run_id"],
        settled_run_id=row["settled_run_id"],
    )


def create_tables(connection: sa.Connection, tables: StateTables, model: Model, sync: SyncSpec) -> None:
    """Create what is missing. The ledger's key columns take the model's types.

    Raises `StateError` when an existing ledger has other key columns.
    """
    metadata = tables.syncs.metadata
    metadata.create_all(connection)
    shape = Shape.of(sync)
    columns = [sa.cast(sa.null(), c.type).label(c.name) for c in tables.ledger.c if c.name in LEDGER_COLUMNS]
    keys = [model.column(k).label(key_column(k)) for k in shape.keys]
    parents = [sa.cast(sa.null(), sa.Text).label(parent_column(f)) for f in shape.parents]
    inspector = sa.inspect(connection)
    if not inspector.has_table(tables.ledger.name, schema=tables.ledger.schema):
        empty = sa.select(*columns, *keys, *parents).select_from(model.relation).where(sa.false())
        connection.execute(empty.into(tables.ledger.name, schema=tables.ledger.schema))
        if connection.dialect.name == "postgresql":
            # DuckDB's indexes cost more than they save on tables that are scanned whole.
            connection.execute(
                sa.text(f'CREATE UNIQUE INDEX ON "{tables.ledger.schema}"."{tables.ledger.name}" (match_key)')
            )
        return
    present = set(_columns(connection, tables.ledger))
    old_keys = {c for c in present if c.startswith("key_")}
    if old_keys != {key_column(k) for k in shape.keys}:
        shown = ", ".join(sorted(c.removeprefix("key_") for c in old_keys))
        raise StateError(
            f"sync {sync.name}: its ledger is kept by the key ({shown}), the YAML now says ({', '.join(shape.keys)}). "
            "A key cannot change under a ledger. Give the sync a new name, or launch with rebuild_ledger: true "
            "to match every record again."
        )
    for field in shape.parents:
        if parent_column(field) not in present:
            connection.execute(
                sa.text(
                    f'ALTER TABLE "{tables.ledger.schema}"."{tables.ledger.name}" '
                    f'ADD COLUMN "{parent_column(field)}" TEXT'
                )
            )


def _columns(connection: sa.Connection, table: sa.TableClause) -> list[str]:
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
    current = connection.execute(sa.select(s.c.epoch).where(mine)).scalar_one_or_none()
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
