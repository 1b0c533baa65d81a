"""Finding records by the values of one field, with SOQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa

from seqsync_dagster.destinations.protocol import FieldInfo
from seqsync_dagster.destinations.salesforce.connection import Connection

#: Salesforce refuses requests whose URI and headers pass 16,384 bytes; proxies on the way are stricter.
URL_BYTES = 4000
_FOUND = pa.schema([("value", pa.string()), ("dest_id", pa.string()), ("unusable", pa.string())])
#: Types whose values are numbers.
NUMBERS = ("double", "int", "long", "currency", "percent")
_ESCAPES = str.maketrans({"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"})


def soql_text(value: str) -> str:
    """`value` as a SOQL string literal ("Quoted String Escape Sequences" of the SOQL guide)."""
    return "'" + value.translate(_ESCAPES) + "'"


def find_records(
    connection: Connection,
    object: str,
    field: FieldInfo,
    values: Iterable[object],
    among: str = "",
    unless: tuple[str, str] | None = None,
) -> Iterator[pa.Table]:
    """Ids of the records whose `field` equals one of `values`, as tables of value and dest_id.

    `among`: a SOQL condition that they must meet besides. `unless`: a boolean field, and what is said in the column
    ``unusable`` of records where it is false.
    """
    asked: dict[str, list[str]] = {}
    literals: dict[str, str] = {}
    for value in values:
        text = "" if value is None else str(value)
        compared = comparable(text, field)
        if compared is None or text in asked.get(compared, ()):
            continue
        asked.setdefault(compared, []).append(text)
        literals[compared] = literal(text.strip(), field)
    columns = "Id" if field.name == "Id" else f"Id, {field.name}"
    if unless is not None:
        columns += f", {unless[0]}"
    for chunk in chunks(literals.values()):
        soql = f"SELECT {columns} FROM {object} WHERE {field.name} IN ({','.join(chunk)})"
        if among:
            soql += f" AND {among}"
        found = [
            (text, str(record["Id"]), unless[1] if unless is not None and not record.get(unless[0]) else None)
            for record in connection.query(soql, f"looking up {object} by {field.name}")
            for text in asked.get(comparable(shown(record, field.name), field) or "", ())
        ]
        if found:
            yield pa.table([pa.array(c, pa.string()) for c in zip(*found, strict=True)], schema=_FOUND)


def shown(record: Mapping[str, Any], name: str) -> str:
    """A record's value as text, empty when it has none."""
    value = record.get(name)
    return "" if value is None else str(value)


def comparable(text: str, field: FieldInfo) -> str | None:
    """What two equal values have in common; None for a value that no record can have."""
    text = text.strip()
    if field.type in NUMBERS:
        try:
            number = Decimal(text)
        except ArithmeticError:
            return None
        return format(number.normalize(), "f") if number.is_finite() else None
    if field.type in ("id", "reference"):
        # An id is the same with and without its three-letter checksum.
        return text[:15] or None
    # SOQL compares text without regard to case unless the field says otherwise.
    return (text if field.case_sensitive else text.casefold()) or None


def literal(text: str, field: FieldInfo) -> str:
    """A trimmed value as it stands in a query; `comparable` has said that a record can have it."""
    return format(Decimal(text), "f") if field.type in NUMBERS else soql_text(text)


def chunks(literals: Iterable[str]) -> Iterator[list[str]]:
    """The literals in lists that fit into the address of a query each."""
    chunk: list[str] = []
    size = 0
    for literal in literals:
        weight = len(quote_plus(literal)) + 3
        if chunk and size + weight > URL_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(literal)
        size += weight
    if chunk:
        yield chunk
