"""Whose result is whose: Bulk API 2.0 hands results back in any order."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from seqsync_dagster.destinations.protocol import Request
from seqsync_dagster.errors import DestinationError

#: An id's first 15 characters say everything, case included; the rest is a checksum.
_ID_LENGTH = 15
#: Arrow hashes the whole set for every lookup: 20 MB for 100,000 texts, so they are taken in turns.
_LOOKUP_ROWS = 25_000


class RowIndex:
    """Finds the seq of a result row by the text that was sent to identify it.

    Results repeat the sent columns. Numbers come back rewritten (``912260031``
    as ``9.12260031E8``), so rows are told apart by one text column only: the
    match field of an upsert or insert, the record id of an update or delete.
    """

    def __init__(self, request: Request) -> None:
        self._object = request.object
        self._by_id = request.operation not in ("upsert", "insert")
        self.column = "Id" if self._by_id else str(request.match)
        self._texts: list[pa.Array] = []
        self._seqs: list[pa.Array] = []
        self._sealed: tuple[pa.Array, pa.Array] | None = None
        self._numbers: pa.Array | None = None

    def __len__(self) -> int:
        return sum(len(seqs) for seqs in self._seqs)

    def add(self, texts: pa.ChunkedArray, seqs: pa.ChunkedArray) -> None:
        """Remember rows by the text that identifies each."""
        self._texts.extend(self._identity(texts).chunks)
        self._seqs.extend(seqs.cast(pa.int64()).chunks)

    def seal(self) -> None:
        """End adding. Raises `DestinationError` when two rows could not be told apart."""
        texts = pa.concat_arrays(self._texts) if self._texts else pa.array([], pa.string())
        seqs = pa.concat_arrays(self._seqs) if self._seqs else pa.array([], pa.int64())
        self._texts, self._seqs = [texts], [seqs]
        self._sealed = texts, seqs
        # Sorting takes a tenth of the memory of a hash table.
        in_order = texts.take(pc.sort_indices(texts))
        repeats = in_order[1:].filter(pc.equal(in_order[1:], in_order[:-1]))
        if not len(repeats):
            return
        twice = repeats.unique().slice(0, 5).to_pylist()
        raise DestinationError(
            f"salesforce: {len(repeats)} rows for {self._object} have a {self.column} that another row "
            f"of the same send has too, e.g. {', '.join(map(repr, twice))}. Their results could not be told "
            "apart, so none of these rows was sent."
        )

    def seqs_of(self, texts: pa.Array) -> pa.Array:
        """The seq of each result row, null for a row that was not sent."""
        if self._sealed is None:
            self.seal()
        assert self._sealed is not None
        own, seqs = self._sealed
        wanted = self._identity(texts)
        found = pa.nulls(len(texts), pa.int32())
        for start in range(0, len(own), _LOOKUP_ROWS):
            at = pc.index_in(wanted, value_set=own.slice(start, _LOOKUP_ROWS))
            found = pc.coalesce(found, pc.add(at, pa.scalar(start, pa.int32())))
        if found.null_count and not self._by_id:
            found = pc.coalesce(found, self._numeric(texts, own))
        return seqs.take(found)

    def _identity(self, texts: pa.Array) -> pa.Array:
        if self._by_id:
            return pc.utf8_slice_codeunits(texts, 0, _ID_LENGTH)
        return pc.utf8_trim_whitespace(pc.replace_substring(texts, "\r\n", "\n"))

    def _numeric(self, texts: pa.Array, own: pa.Array) -> pa.Array:
        try:
            if self._numbers is None:
                self._numbers = own.cast(pa.float64())
            return pc.index_in(texts.cast(pa.float64()), value_set=self._numbers)
        except pa.ArrowInvalid:
            return pa.nulls(len(texts), pa.int32())
