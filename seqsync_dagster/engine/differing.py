"""Where records do not hold what their rows say."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from seqsync_dagster.ledger.rows import ignored_nulls
from seqsync_dagster.sequence.sync import SyncSpec


def differing_fields(
    sync: SyncSpec, sent: pa.Table, meant: pa.Table, held: pa.Table
) -> Iterator[tuple[str, pa.Array, pa.Array, pa.Array]]:
    """Field, what is meant, what is held, and where the two differ, for every field that can be compared.

    `sent` has the rows' values, `meant` the same as the destination writes them, `held` its records; row by row.
    """
    ignoring, filled = ignored_nulls(sync), sync.filled_if_empty()
    for name in meant.column_names:
        want, got = meant[name].combine_chunks(), held[name].combine_chunks()
        differs = _distinct(want, got)
        if name in ignoring:
            differs = pc.and_(differs, pc.and_(pc.is_valid(want), pc.is_valid(sent[name].combine_chunks())))
        if name in filled:
            # What stands there is nobody's to change.
            differs = pc.and_(differs, pc.is_null(got))
        yield name, want, got, differs


def _distinct(one: pa.Array, other: pa.Array) -> pa.Array:
    """Where two arrays differ, a null being like no value but null."""
    differ = pc.fill_null(pc.not_equal(one, other), False)
    return pc.or_(differ, pc.xor(pc.is_null(one), pc.is_null(other)))
