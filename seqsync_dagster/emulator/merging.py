"""What a merge leaves behind (SOAP API guide, "merge()"): losers in the recycle bin, their children at the master."""

from __future__ import annotations

import json

from seqsync_dagster.emulator.pointing import lookups_to
from seqsync_dagster.emulator.schema import SObject
from seqsync_dagster.emulator.store import Store, now


def merge(store: Store, obj: SObject, master: str, losers: list[str]) -> None:
    """Merge one or two records into another of the same object; ValueError if that cannot be."""
    if "MasterRecordId" not in obj.fields:
        raise ValueError(f"{obj.name} records are not merged")
    kept = store.ids.decode(master, obj.prefix)
    gone = [store.ids.decode(loser, obj.prefix) for loser in losers]
    if not 1 <= len(gone) <= 2 or kept in gone:
        raise ValueError("a master and one or two losers are merged")
    listed, stamp = json.dumps(gone), now()
    with store.write() as db:
        alive = f'SELECT count(*) FROM "{obj.name}" WHERE "IsDeleted" = 0 AND "Id" IN (SELECT value FROM json_each(?))'
        if db.execute(alive, (json.dumps([kept, *gone]),)).fetchone() != (1 + len(gone),):
            raise ValueError("not all of them are living records")
        for child, lookup, first in lookups_to(obj.name):
            if lookup.name != "MasterRecordId":
                db.execute(
                    f'UPDATE "{child.name}" SET "{lookup.name}" = ?, "LastModifiedDate" = ? WHERE "IsDeleted" = 0 '
                    f'AND "{lookup.name}" IN (SELECT value + {first} FROM json_each(?)) AND "Id" != ?',
                    (first + kept, stamp, listed, kept if child is obj else -1),
                )
            if child is obj and lookup.name != "MasterRecordId":
                db.execute(f'UPDATE "{obj.name}" SET "{lookup.name}" = NULL WHERE "Id" = ? AND "{lookup.name}" IN '
                           '(SELECT value FROM json_each(?))', (kept, listed))  # fmt: skip
        db.execute(
            f'UPDATE "{obj.name}" SET "IsDeleted" = 1, "MasterRecordId" = ?, "LastModifiedDate" = ? '
            'WHERE "Id" IN (SELECT value FROM json_each(?))',
            (kept, stamp, listed),
        )
