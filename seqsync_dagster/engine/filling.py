"""Fields that are sent only where the destination's record holds nothing: `write: if_empty`."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from seqsync_dagster.destinations.protocol import DEST_ID, Destination
from seqsync_dagster.ledger.tables import ADOPT, CREATE, LINK, UPDATE
from seqsync_dagster.sequence.sync import SyncSpec

#: Operations on records whose ids the plan knows.
_BY_ID = (UPDATE, ADOPT, LINK)


def only_where_empty(destination: Destination, sync: SyncSpec, operation: str, rows: pa.Table) -> pa.Table:
    """One page of a plan's rows, null where the record holds something in a field that is only to be filled.

    Such a null leaves the field alone. The records are read now: what they held when the plan was made
    may be hours old. A new row's record is looked for by its match field, since it may have been there before us.
    """
    fields = [f for f in sync.filled_if_empty() if f in rows.column_names]
    looked_at = operation in _BY_ID or (operation == CREATE and sync.mode == "upsert")
    if not fields or not looked_at:
        return rows
    filling = pc.is_valid(rows[fields[0]])
    for field in fields[1:]:
        filling = pc.or_(filling, pc.is_valid(rows[field]))
    if not pc.any(filling).as_py():
        return rows
    ids = rows[DEST_ID].combine_chunks() if operation in _BY_ID else _found(destination, sync, rows, filling)
    ids = pc.if_else(filling.combine_chunks(), ids, pa.scalar(None, pa.string()))
    wanted = ids.drop_null()
    if not len(wanted):
        return rows
    names = [DEST_ID, *fields]
    empty = pa.schema([(name, pa.string()) for name in names]).empty_table()
    read = destination.read_back(sync.object, fields, wanted)
    held = pa.concat_tables([empty, *[t.select(names) for t in read]]).combine_chunks()
    where = pc.index_in(ids, value_set=held[DEST_ID].combine_chunks(), skip_nulls=True)
    for field in fields:
        column = rows[field]
        holds = pc.is_valid(held[field].combine_chunks().take(where))
        rows = rows.set_column(
            rows.column_names.index(field), field, pc.if_else(holds, pa.scalar(None, column.type), column)
        )
    return rows


def _found(destination: Destination, sync: SyncSpec, rows: pa.Table, filling: pa.ChunkedArray) -> pa.Array:
    keys = rows[str(sync.match)].combine_chunks().cast(pa.string())
    asked = keys.filter(filling.combine_chunks())
    empty = pa.schema([("value", pa.string()), (DEST_ID, pa.string())]).empty_table()
    records = destination.find(sync.object, str(sync.match), asked)
    found = pa.concat_tables([empty, *[t.select(empty.column_names) for t in records]]).combine_chunks()
    where = pc.index_in(keys, value_set=found["value"].combine_chunks(), skip_nulls=True)
    return found[DEST_ID].combine_chunks().take(where)
