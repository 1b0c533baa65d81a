"""Cutting a stream of rows into CSV files that one Bulk job each can take."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc

from seqsync_dagster.destinations.protocol import DEST_ID, SEQ, Outcomes, Request
from seqsync_dagster.destinations.salesforce.bulk_index import RowIndex
from seqsync_dagster.destinations.salesforce.encoding import csv_columns, write_csv
from seqsync_dagster.destinations.salesforce.errors import UNSENDABLE
from seqsync_dagster.destinations.salesforce.outcomes import outcomes
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings

#: Rows are encoded in slices of about this size, so memory does not grow with a part.
_SLICE_BYTES = 2 << 20
_SLICE_ROWS = 10_000


class Part:
    """The rows of one Bulk job: as CSV, as they came, and who is who.

    Rows are on disk; memory holds each row's identity and seq only.
    """

    def __init__(self, request: Request) -> None:
        self.csv: IO[bytes] = tempfile.TemporaryFile(prefix="seqsync_csv_")  # noqa: SIM115, closed by `close`
        self.size = 0
        self.last_seq = -1
        self.index = RowIndex(request)
        self._rows: IO[bytes] = tempfile.TemporaryFile(prefix="seqsync_rows_")  # noqa: SIM115

    def __len__(self) -> int:
        return len(self.index)

    def add(self, rows: pa.Table, texts: pa.Table, csv: bytes) -> None:
        """Take rows as they came, as text, and as the CSV to upload."""
        self.csv.write(csv)
        self.size += len(csv)
        self.last_seq = rows.column(SEQ)[-1].as_py()
        self.index.add(texts.column(self.index.column), rows.column(SEQ))
        # One stream a slice: frames of one send may differ in the type of an all-null column. Not compressed: the
        # codecs take their memory from a pool that gives nothing back, some 40 MB.
        with pa.ipc.new_stream(self._rows, rows.schema) as writer:
            writer.write_table(rows)

    def rows_of(self, seqs: pa.Array) -> Iterator[pa.Table]:
        """The rows with these seqs, as they came and in their order."""
        end = self._rows.seek(0, io.SEEK_END)
        self._rows.seek(0)
        while self._rows.tell() < end:
            rows = pa.ipc.open_stream(self._rows).read_all()
            rows = rows.filter(pc.is_in(rows.column(SEQ), value_set=seqs))
            if rows.num_rows:
                yield rows

    def close(self) -> None:
        """Drop the files."""
        self.csv.close()
        self._rows.close()


def parts(tables: Iterable[pa.Table], request: Request, settings: SalesforceSettings) -> Iterator[Part | Outcomes]:
    """Parts ready to upload, and outcomes of rows that no CSV can carry. The caller closes each part."""
    most_bytes = settings.bulk_part_mb * 1_000_000
    part = Part(request)
    try:
        for rows in _slices(tables, most_bytes // 20):
            sendable, texts, rejected = _as_text(rows, request)
            if rejected is not None:
                yield rejected
            start = 0
            while start < sendable.num_rows:
                take = min(sendable.num_rows - start, settings.bulk_part_rows - len(part))
                csv = _csv(texts.slice(start, take), request, header=not len(part))
                while len(csv) > most_bytes and take > 1:
                    take //= 2
                    csv = _csv(texts.slice(start, take), request, header=not len(part))
                if len(part) and part.size + len(csv) > most_bytes:
                    full, part = part, Part(request)
                    yield full
                    continue
                part.add(sendable.slice(start, take), texts.slice(start, take), csv)
                start += take
                if len(part) >= settings.bulk_part_rows:
                    full, part = part, Part(request)
                    yield full
        if len(part):
            full, part = part, Part(request)
            yield full
    finally:
        part.close()


def recollected(tables: Iterable[pa.Table], request: Request) -> Part:
    """The part of a job that was uploaded before, without its CSV."""
    part = Part(request)
    for rows in _slices(tables):
        sendable, texts, _ = _as_text(rows, request)
        if sendable.num_rows:
            part.add(sendable, texts, b"")
    return part


def _slices(tables: Iterable[pa.Table], most_bytes: int = _SLICE_BYTES) -> Iterator[pa.Table]:
    for table in tables:
        if not table.num_rows:
            continue
        row_bytes = max(1, table.nbytes // table.num_rows)
        step = max(1, min(_SLICE_ROWS, min(_SLICE_BYTES, most_bytes) // row_bytes))
        for start in range(0, table.num_rows, step):
            yield table.slice(start, step)
            # Arrow's allocator keeps what it once had, some 50 MB here, unless told.
            pa.default_memory_pool().release_unused()


def _as_text(rows: pa.Table, request: Request) -> tuple[pa.Table, pa.Table, Outcomes | None]:
    """The rows that can be sent, their text, and the outcomes of the others."""
    if request.operation == "delete":
        return rows, pa.table({"Id": rows.column(DEST_ID).cast(pa.string())}), None
    texts, unsendable = csv_columns(rows, request.match if request.operation in ("upsert", "insert") else None)
    if request.operation == "update":
        texts = texts.append_column("Id", rows.column(DEST_ID).cast(pa.string()))
    if unsendable.null_count == len(unsendable):
        return rows, texts, None
    ok = pc.is_null(unsendable)
    bad = pc.invert(ok)
    return rows.filter(ok), texts.filter(ok), _rejected(rows.filter(bad), unsendable.filter(bad), request)


def _rejected(rows: pa.Table, fields: pa.ChunkedArray, request: Request) -> Outcomes:
    count = rows.num_rows
    messages = [
        f"{name} is empty, and rows are matched on it"
        if name == request.match and cell is None
        else f"{name} is the text #N/A, which Bulk API 2.0 takes for null"
        for name, cell in zip(
            fields.to_pylist(),
            (_cell(rows, name, at) for at, name in enumerate(fields.to_pylist())),
            strict=True,
        )
    ]
    ids = rows.column(DEST_ID) if DEST_ID in rows.column_names else pa.nulls(count, pa.string())
    return outcomes(
        [
            rows.column(SEQ),
            ids,
            pa.nulls(count, pa.bool_()),
            [UNSENDABLE] * count,
            messages,
            ["fix_row"] * count,
        ]
    )


def _cell(rows: pa.Table, name: str, at: int) -> object:
    value = rows.column(name)[at].as_py()
    return None if value is None or not str(value).strip() else value


def _csv(texts: pa.Table, request: Request, *, header: bool) -> bytes:
    buffer = io.BytesIO()
    write_csv(texts, buffer, header=header, ignore_nulls=request.ignore_nulls)
    return buffer.getvalue()
