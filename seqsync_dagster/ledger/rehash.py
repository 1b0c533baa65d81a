"""Fingerprints of another mapping, for rows that stand in the model as they were acknowledged."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from seqsync_dagster.ledger.delta import temporary
from seqsync_dagster.ledger.fingerprint import Model, fingerprint, fingerprint_over
from seqsync_dagster.ledger.tables import StateTables
from seqsync_dagster.sequence.sync import SyncSpec

_REHASHED = "seqsync_rehashed"


def rehash(
    connection: sa.Connection, model: Model, sync: SyncSpec, tables: StateTables, old_columns: Collection[str]
) -> int:
    """Give the ledger's rows the fingerprints of the mapping as it is now; how many rows.

    The old ones were made over `old_columns`, all of which `model` has. A row that has changed since keeps its old
    fingerprint, which no row of the model has, and so differs as it should.
    """
    old, ledger = fingerprint_over(model, sync.key, old_columns), tables.ledger
    both = sa.select(old.label("old"), fingerprint(model, sync).label("new")).select_from(model.relation).distinct()
    temporary(connection, _REHASHED, both)
    rehashed = sa.table(_REHASHED, sa.column("old", sa.BigInteger), sa.column("new", sa.BigInteger))
    same = ledger.c.fingerprint == rehashed.c.old
    count = connection.execute(sa.select(sa.func.count()).select_from(ledger.join(rehashed, same))).scalar_one()
    connection.execute(sa.update(ledger).where(same).values(fingerprint=rehashed.c.new))
    connection.execute(sa.text(f'DROP TABLE "{_REHASHED}"'))
    return count
