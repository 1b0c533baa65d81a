"""Arrow columns as Salesforce wants to read them: JSON for Collections, CSV for Bulk API 2.0.

Both APIs get the same text of a value, so that a row's record does not depend
on how many rows went with it. The formats are those of the Bulk API 2.0
developer guide, "Prepare CSV Files" and "Valid Date Format in Records".
"""

from __future__ import annotations

import math
from collections.abc import Collection
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from seqsync_dagster.destinations.protocol import DEST_ID, SEQ
from seqsync_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd

#: Clears a field in Bulk API 2.0; an empty cell would leave the field as it is.
NULL_CELL = "#N/A"


def to_table(frame: pd.DataFrame) -> pa.Table:
    """The frame as Arrow, its index dropped."""
    return pa.Table.from_pandas(frame, preserve_index=False)


def field_names(table: pa.Table) -> list[str]:
    """The destination fields among a table's columns."""
    return [name for name in table.column_names if name not in (SEQ, DEST_ID)]


def text_values(column: pa.ChunkedArray, field: str) -> pa.ChunkedArray:
    """The values as text, null where the field is to be cleared.

    Line ends become LF (a Bulk job takes one kind only, and says which), blank
    text becomes null (Salesforce stores it so), and a time without a zone is UTC.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_null(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return column.cast(pa.string())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _clean_text(column.cast(pa.string()))
    if pa.types.is_floating(kind):
        return _finite(column).cast(pa.string())
    if pa.types.is_decimal(kind):
        return _plain_decimals(column)
    if pa.types.is_date(kind):
        return column.cast(pa.date32(), safe=False).cast(pa.string())
    if pa.types.is_timestamp(kind):
        # Casting away a zone keeps the instant as UTC. A cast to milliseconds alone would cut
        # towards 1970, which moves what lies before it into the next second.
        instants = pc.floor_temporal(column.cast(pa.timestamp(kind.unit)), unit="millisecond").cast(pa.timestamp("ms"))
        text = pc.replace_substring(instants.cast(pa.string()), " ", "T")
        return pc.binary_join_element_wise(text, "Z", "")
    if pa.types.is_time(kind):
        text = column.cast(pa.time32("ms"), safe=False).cast(pa.string())
        return pc.binary_join_element_wise(text, "Z", "")
    raise ConfigurationError(
        f"field {field}: a column of type {kind} cannot be sent to Salesforce. "
        "Cast it in the model to text, number, boolean, date or timestamp."
    )


def numbers_as_text(table: pa.Table, text_fields: Collection[str]) -> pa.Table:
    """The table with numbers and booleans as text where the field is one of text.

    JSON would carry them as such, and the org reads no number into a text ("Cannot deserialize instance of string
    from VALUE_NUMBER_INT"); CSV has only text to begin with.
    """
    for position, name in enumerate(table.column_names):
        if name in text_fields and is_number_or_boolean(table.column(name).type):
            table = table.set_column(position, name, text_values(table.column(name), name))
    return table


def is_number_or_boolean(kind: pa.DataType) -> bool:
    """Whether JSON carries values of this type as something else than text."""
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return bool(is_number or pa.types.is_boolean(kind))


def json_values(column: pa.ChunkedArray, field: str, match: str | None = None) -> list[Any]:
    """The values for JSON: numbers and booleans as such, everything else as text."""
    kind = column.type
    if pa.types.is_floating(kind):
        return [None if v is None or not math.isfinite(v) else v for v in column.to_pylist()]
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_boolean(kind):
        return list(column.to_pylist())
    read = match_texts if field == match else text_values
    return list(read(column, field).to_pylist())


def match_texts(column: pa.ChunkedArray, field: str) -> pa.ChunkedArray:
    """Values to match on: as text and trimmed, as Salesforce stores what it compares them with."""
    return pc.utf8_trim_whitespace(text_values(column, field))


def csv_columns(table: pa.Table, match: str | None) -> tuple[pa.Table, pa.ChunkedArray]:
    """The fields as text with nulls, and for each row the first field that Bulk cannot carry.

    The text ``#N/A`` itself means null to Bulk and has no escape; a row
    without a value to match on could not be found in the results again.
    """
    columns: dict[str, pa.ChunkedArray] = {}
    unsendable: pa.ChunkedArray = pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
    for name in field_names(table):
        column = table.column(name)
        text = match_texts(column, name) if name == match else text_values(column, name)
        columns[name] = text
        bad = pc.fill_null(pc.equal(text, NULL_CELL), name == match)
        if pc.any(bad).as_py():
            unsendable = pc.coalesce(unsendable, pc.if_else(bad, name, pa.scalar(None, pa.string())))
    return pa.table(columns), unsendable


def write_csv(table: pa.Table, file: IO[bytes], *, header: bool, ignore_nulls: Collection[str] = ()) -> None:
    """Append text columns to `file`: every cell quoted, LF line ends, nulls as ``#N/A``.

    In a column of `ignore_nulls` a null is an empty cell, which leaves the field as it is.
    """
    cells = [
        column if name in ignore_nulls else pc.fill_null(column, NULL_CELL)
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    options = pa.csv.WriteOptions(include_header=header, quoting_style="all_valid")
    pa.csv.write_csv(pa.table(cells, names=table.column_names), file, options)


def _clean_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    unix = pc.replace_substring(pc.replace_substring(column, "\r\n", "\n"), "\r", "\n")
    blank = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(unix)), 0)
    return pc.if_else(blank, pa.scalar(None, pa.string()), unix)


def _finite(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))


def _plain_decimals(column: pa.ChunkedArray) -> pa.ChunkedArray:
    text = column.cast(pa.string())
    # Arrow writes small values and zeros of a large scale as 1E-10.
    if not pc.any(pc.match_substring(text, "E")).as_py():
        return text
    plain = [format(Decimal(cell), "f") if cell is not None and "E" in cell else cell for cell in text.to_pylist()]
    return pa.chunked_array([pa.array(plain, pa.string())])
