"""Result files of a Bulk API 2.0 job, read in pieces and turned into outcomes.

Bulk API 2.0 developer guide, "Get Job Successful / Failed / Unprocessed Record Results".
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from seqsync_dagster.destinations.protocol import Operation, Outcomes
from seqsync_dagster.destinations.salesforce.bulk_index import RowIndex
from seqsync_dagster.destinations.salesforce.bulk_job import JobDeleted
from seqsync_dagster.destinations.salesforce.connection import CallRefused, Connection
from seqsync_dagster.destinations.salesforce.errors import class_of, parse_sf_error
from seqsync_dagster.destinations.salesforce.outcomes import outcomes
from seqsync_dagster.errors import ResultsUnclear

#: A record has at most 400,000 characters; a block must hold a whole one.
_BLOCK_BYTES = 2 << 20


@dataclass
class Tally:
    """What the result files of one job contained."""

    successful: int = 0
    failed: int = 0
    unprocessed: int = 0
    unknown: int = 0
    """Rows that were not among those sent."""
    again: list[pa.Array] = field(default_factory=list)
    """Seqs of rows that only met a lock, or a duplicate rule that the job could not be told to pass."""

    @property
    def total(self) -> int:
        """All rows of the three files."""
        return self.successful + self.failed + self.unprocessed


def successful(
    connection: Connection, job: str, index: RowIndex, operation: Operation, tally: Tally
) -> Iterator[Outcomes]:
    """Outcomes of the rows the org took."""
    for rows in _batches(connection, job, "successfulResults", index):
        tally.successful += rows.num_rows
        seqs, rows = _known(rows, index, tally)
        count = len(seqs)
        created = pa.repeat(operation == "insert", count)
        if operation == "upsert":
            created = pc.equal(rows.column("sf__Created"), "true")
        nothing = pa.nulls(count, pa.string())
        yield outcomes([seqs, _or_null(rows.column("sf__Id")), created, nothing, nothing, nothing])


def failed(
    connection: Connection,
    job: str,
    index: RowIndex,
    operation: Operation,
    tally: Tally,
    again: Collection[str] = (),
) -> Iterator[Outcomes]:
    """Outcomes of the rows the org refused; those that only met a lock go to the tally instead.

    So do those refused with a code of `again`.
    """
    for rows in _batches(connection, job, "failedResults", index):
        tally.failed += rows.num_rows
        seqs, rows = _known(rows, index, tally)
        texts = rows.column("sf__Error").combine_chunks().dictionary_encode()
        # A refusal is often the same for many rows; each wording is read once.
        errors = [parse_sf_error(text) for text in texts.dictionary.to_pylist()]
        classes = pa.array([class_of(error, operation) for error in errors], pa.string())
        codes = pa.array([error.code for error in errors], pa.string())
        messages = pa.array([error.text for error in errors], pa.string())
        error_class = classes.take(texts.indices)
        code = codes.take(texts.indices)
        passing = pc.or_(pc.equal(error_class, "retry_now"), pc.is_in(code, pa.array(again, pa.string())))
        tally.again.append(seqs.filter(passing))
        kept = pc.invert(passing)
        columns = [
            seqs,
            _or_null(rows.column("sf__Id").combine_chunks()),
            # A job tries a row once, so a record that is in the way of an insert is another's.
            pa.repeat(False, len(seqs)) if operation == "insert" else pa.nulls(len(seqs), pa.bool_()),
            code,
            messages.take(texts.indices),
            error_class,
        ]
        if pc.any(kept).as_py():
            yield outcomes([column.filter(kept) for column in columns])


def unprocessed(connection: Connection, job: str, index: RowIndex, tally: Tally) -> None:
    """Count the rows the org never came to."""
    for rows in _batches(connection, job, "unprocessedrecords", index):
        tally.unprocessed += rows.num_rows


def _known(rows: pa.Table, index: RowIndex, tally: Tally) -> tuple[pa.Array, pa.Table]:
    by = rows.column(index.column) if index.column in rows.column_names else rows.column("sf__Id")
    seqs = index.seqs_of(by.combine_chunks())
    if not seqs.null_count:
        return seqs, rows
    tally.unknown += seqs.null_count
    known = pc.is_valid(seqs)
    return seqs.filter(known), rows.filter(known)


def _or_null(ids: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(ids, ""), pa.scalar(None, pa.string()), ids)


def _batches(connection: Connection, job: str, results: str, index: RowIndex) -> Iterator[pa.Table]:
    path = f"jobs/ingest/{job}/{results}"
    with tempfile.TemporaryFile(prefix="seqsync_results_") as file:
        try:
            connection.download(path, file)
        except CallRefused as refusal:
            raise (JobDeleted(job) if refusal.status == 404 else refusal) from None
        try:
            yield from read_results(file, ("sf__Id", "sf__Created", "sf__Error", index.column))
        except pa.ArrowInvalid as error:
            raise ResultsUnclear(f"salesforce: {path} is not a CSV that can be read: {error}") from None


def read_results(file: IO[bytes], wanted: tuple[str, ...]) -> Iterator[pa.Table]:
    """The wanted columns of a result file, in pieces, under the wanted names and as text."""
    file.seek(0)
    header = next(csv.reader([file.readline().decode("utf-8-sig")]), [])
    by_folded = {name.casefold(): name for name in header}
    names = {by_folded[name.casefold()]: name for name in wanted if name.casefold() in by_folded}
    if not names:
        return
    file.seek(0)
    reader = pa.csv.open_csv(
        file,
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
        # A row that broke the job comes back as broken among the unprocessed ones; the tally tells if one is missed.
        parse_options=pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda _: "skip"),
        convert_options=pa.csv.ConvertOptions(
            include_columns=list(names),
            column_types={name: pa.string() for name in names},
            null_values=[],
            strings_can_be_null=False,
        ),
    )
    for batch in reader:
        if batch.num_rows:
            yield pa.Table.from_batches([batch]).rename_columns(list(names.values()))
        pa.default_memory_pool().release_unused()
