"""Reading the records that rows match on, with what they hold: by lists of values, or all there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from math import ceil
from typing import Any

import pyarrow as pa

from seqsync_dagster.destinations.protocol import DEST_ID, FieldInfo
from seqsync_dagster.destinations.salesforce.connection import Connection
from seqsync_dagster.destinations.salesforce.query import NUMBERS, chunks, comparable, literal, shown, soql_text
from seqsync_dagster.destinations.salesforce.read_back import PAGE_RECORDS, held_texts, readable

#: So many queries by lists of values are made without asking how many records there are.
_FEW_CALLS = 2
_IDS = ("id", "reference")


def read_matching(
    connection: Connection,
    object: str,
    by: Sequence[FieldInfo],
    fields: Sequence[FieldInfo],
    values: Iterable[pa.Array],
    rows: int,
    empty: FieldInfo | None,
) -> Iterator[pa.Table]:
    """See `Destination.read_matching`.

    A list asks for some hundred values a call, a page in the order of ids holds 2,000 records: which takes
    fewer calls depends on how many records there are, and that is asked for when there are many values.
    """
    arrays = iter(values)
    some = next(arrays, None)
    if some is None:
        return
    read = readable(fields)
    names = dict.fromkeys(["Id", *(f.name for f in (*by, *read))])
    select = f"SELECT {', '.join(names)} FROM {object} WHERE"
    vacant = "" if empty is None else f"{empty.name} = null AND "
    first = by[0]
    asked = _asked(some, first)
    lists = ceil(sum(1 for _ in chunks(_literals(asked, first))) * rows / max(1, len(some)))
    if lists > _FEW_CALLS and first.type not in _IDS:
        there = f"{vacant}{first.name} != null"
        records = connection.count(f"SELECT COUNT() FROM {object} WHERE {there}")
        if ceil(records / PAGE_RECORDS) < lists:
            for page in _all(connection, f"{select} {there}"):
                texts = pa.array([_key_text(r, first) for r in page], pa.string())
                yield _table(page, texts, by, read)
            return
    for array in chain([some], arrays):
        asked = _asked(array, first)
        for chunk in chunks(_literals(asked, first)):
            soql = f"{select} {vacant}{first.name} IN ({','.join(chunk)})"
            found = connection.query(soql, f"looking up {object} by {first.name}")
            pairs = [
                (record, text)
                for record in found
                for text in asked.get(comparable(shown(record, first.name), first) or "", ())
            ]
            if pairs:
                yield _table([r for r, _ in pairs], pa.array([text for _, text in pairs], pa.string()), by, read)


def _asked(values: pa.Array, field: FieldInfo) -> dict[str, list[str]]:
    """What equal values have in common -> the values as asked for."""
    asked: dict[str, list[str]] = {}
    for text in values.drop_null().unique().to_pylist():
        compared = comparable(text, field)
        if compared is not None:
            asked.setdefault(compared, []).append(text)
    return asked


def _literals(asked: Mapping[str, Sequence[str]], field: FieldInfo) -> Iterator[str]:
    return (literal(texts[0].strip(), field) for texts in asked.values())


def _all(connection: Connection, soql: str) -> Iterator[list[Mapping[str, Any]]]:
    """Every record, in the order of ids: a page that is read takes no cursor that could run out."""
    after = ""
    while True:
        page = list(connection.query(f"{soql}{after} ORDER BY Id LIMIT {PAGE_RECORDS}", "reading records by match"))
        if page:
            yield page
        if len(page) < PAGE_RECORDS:
            return
        after = f" AND Id > {soql_text(str(page[-1]['Id']))}"


def _table(
    records: Sequence[Mapping[str, Any]], texts: pa.Array, by: Sequence[FieldInfo], fields: Sequence[FieldInfo]
) -> pa.Table:
    others = {f"by:{f.name}": pa.array([_key_text(r, f) for r in records], pa.string()) for f in by[1:]}
    ids = pa.array([str(r["Id"]) for r in records], pa.string())
    return pa.table({DEST_ID: ids, f"by:{by[0].name}": texts, **others, **held_texts(records, fields)})


def _key_text(record: Mapping[str, Any], field: FieldInfo) -> str | None:
    """A record's value as a key of a model is written: a number has one text, whatever its form."""
    text = shown(record, field.name).strip()
    return comparable(text, field) if field.type in NUMBERS and text else text or None
