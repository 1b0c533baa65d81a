"""References that no longer lead where they should: a parent got its destination id, or another one, since."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.tables import Shape, StateTables, parent_column, ref_column
from seqsync_dagster.sequence.sync import SyncSpec


def make_stale_due(
    connection: sa.Connection, tables: StateTables, sync: SyncSpec, parents: Mapping[str, sa.TableClause | None]
) -> int:
    """Make the acknowledged rows due whose parent has another id than the one they were sent with; how many.

    Fingerprints stand for the parents' keys, so these rows do not differ from
    the model. They lose their fingerprint, which says: what the destination
    holds is not what the model means any more.
    """
    ledger = tables.ledger
    stale: list[sa.ColumnElement[bool]] = []
    waited_for = {f: m for f, m in Shape.of(sync).parents.items() if not m.deferred}
    for number, (field, mapping) in enumerate(waited_for.items()):
        table = ledger if mapping.parent == sync.name else parents.get(mapping.parent)
        if table is not None:
            parent = table.alias(f"parent{number}")
            stale.append(
                sa.exists().where(
                    parent.c.match_key == ledger.c[parent_column(field)],
                    parent.c.dest_id.is_not(None),
                    parent.c.dest_id.is_distinct_from(ledger.c[ref_column(field)]),
                )
            )
    if not stale:
        return 0
    concerned = sa.and_(ledger.c.state == t.ACKNOWLEDGED, sa.or_(*stale))
    count = connection.execute(sa.select(sa.func.count()).select_from(ledger).where(concerned)).scalar_one()
    if count:
        connection.execute(sa.update(ledger).where(concerned).values(fingerprint=None))
    return count
