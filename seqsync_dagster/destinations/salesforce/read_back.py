"""Reading acknowledged records back with SOQL, and telling whether they hold what was sent.

What is sent and what is read are brought to one text per value, so that a
difference in form alone is none. How Salesforce keeps values: Object Reference
for the Salesforce Platform, "Primitive Data Types" and "Field Types".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqsync_dagster.destinations.protocol import DEST_ID, FieldInfo
from seqsync_dagster.destinations.salesforce.connection import Connection
from seqsync_dagster.destinations.salesforce.encoding import text_values
from seqsync_dagster.destinations.salesforce.query import NUMBERS, chunks, soql_text

#: Records that one reply of a query holds at most (REST API Developer Guide, "Query Options Header").
PAGE_RECORDS = 2_000
#: Ids that fit into the address of one query, about.
IDS_PER_CALL = 140
#: Types that are masked, or too large for a query, when they are read.
_UNREADABLE = ("encryptedstring", "base64")
_YES = pa.array(["true", "1", "yes", "y", "on"])
#: Wide enough for every number that a field can hold (18 digits), as a double's shortest text writes it.
_EXACT = pa.decimal256(76, 38)
_MOMENT = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|[+-]\d\d:?\d\d)$"


def read_records(connection: Connection, object: str, fields: Sequence[FieldInfo], ids: pa.Array) -> Iterator[pa.Table]:
    """The living records with these ids: `DEST_ID` as asked for, and a text per field as `stored_texts` writes it.

    Records are read in the order of their ids, 2,000 per call, as long as a call
    finds more of ours than a list of ids could ask for; the rest is asked for by id,
    and so is what did not turn up: only a record missed twice is missing.
    """
    read = readable(fields)
    select = f"SELECT {', '.join(['Id', *(f.name for f in read if f.name != 'Id')])} FROM {object} WHERE"
    wanted, step = _Wanted(ids), f"reading {object} back"
    while wanted.left > IDS_PER_CALL:
        between = f"Id > {soql_text(wanted.after)} AND " if wanted.after else f"Id >= {soql_text(wanted.first)} AND "
        soql = f"{select} {between}Id <= {soql_text(wanted.last)} ORDER BY Id LIMIT {PAGE_RECORDS}"
        records = list(connection.query(soql, step))
        table = wanted.take(records, read)
        if table.num_rows:
            yield table
        if len(records) < PAGE_RECORDS or table.num_rows <= IDS_PER_CALL or wanted.at_end:
            break
    for chunk in chunks(soql_text(i) for i in wanted.unseen()):
        table = wanted.take(list(connection.query(f"{select} Id IN ({','.join(chunk)})", step)), read)
        if table.num_rows:
            yield table


class _Wanted:
    """The ids asked for, in order, and which of them have been seen."""

    def __init__(self, ids: pa.Array) -> None:
        ids = ids.cast(pa.string()).drop_null().unique()
        self._ids = ids.take(pc.sort_indices(_short(ids)))
        self._short = _short(self._ids)
        self._seen = np.zeros(len(self._ids), dtype=bool)
        self.after = ""
        """The last record that was read in the order of ids."""

    @property
    def left(self) -> int:
        """How many have not been seen."""
        return int((~self._seen).sum())

    @property
    def first(self) -> str:
        return str(self._ids[0].as_py())

    @property
    def last(self) -> str:
        return str(self._ids[-1].as_py())

    @property
    def at_end(self) -> bool:
        """Whether the last of them has been read."""
        return self.after[:15] == self.last[:15]

    def unseen(self) -> list[str]:
        """Those that have not been seen."""
        return [str(i) for i in self._ids.filter(pa.array(~self._seen)).to_pylist()]

    def take(self, records: Sequence[Mapping[str, Any]], fields: Sequence[FieldInfo]) -> pa.Table:
        """Ours among the records, as a table."""
        if records:
            self.after = str(records[-1]["Id"])
        # An id is the same with and without its three-letter checksum.
        number = pc.index_in(_short(pa.array([r["Id"] for r in records], pa.string())), value_set=self._short)
        ours = pc.is_valid(number)
        number = number.filter(ours)
        self._seen[number.to_numpy(zero_copy_only=False)] = True
        columns = {DEST_ID: self._ids.take(number)}
        for name, held in held_texts(records, fields).items():
            columns[name] = held.filter(ours)
        return pa.table(columns)


def readable(fields: Sequence[FieldInfo]) -> list[FieldInfo]:
    """The fields whose values can be compared with what was sent."""
    return [f for f in fields if f.type not in _UNREADABLE]


def held_texts(records: Sequence[Mapping[str, Any]], fields: Sequence[FieldInfo]) -> dict[str, pa.Array]:
    """What records hold in readable fields, as `stored_texts` writes it."""
    return {f.name: _stored(_read(records, f), f).combine_chunks() for f in fields}


def stored_texts(fields: Sequence[FieldInfo], sent: pa.Table) -> pa.Table:
    """Each value as one text that is the same for all forms in which Salesforce may take, keep and give it."""
    return pa.table({f.name: _stored(text_values(sent.column(f.name), f.name), f) for f in readable(fields)})


def _short(ids: pa.Array) -> pa.Array:
    return pc.utf8_slice_codeunits(ids, 0, 15)


def _read(records: Sequence[Mapping[str, Any]], field: FieldInfo) -> pa.ChunkedArray:
    values = [r.get(field.name) for r in records]
    if field.type in NUMBERS:
        # Salesforce computes with doubles; a whole number in JSON may have more digits than Arrow puts into one.
        array = pa.array(np.array(values, dtype=float), from_pandas=True)
    else:
        array = pa.array(values, pa.bool_() if field.type == "boolean" else pa.string())
    return pa.chunked_array([array.cast(pa.string())])


def _stored(text: pa.ChunkedArray, field: FieldInfo) -> pa.ChunkedArray:
    text = pc.utf8_trim_whitespace(text)
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    if field.type in NUMBERS:
        return _number(text, field.scale)
    return _FORMS.get(field.type, _text)(text)


def _text(text: pa.ChunkedArray) -> pa.ChunkedArray:
    # Long text areas are given back with CR LF, whatever was sent.
    return pc.replace_substring(pc.replace_substring(text, "\r\n", "\n"), "\r", "\n")


def _number(text: pa.ChunkedArray, scale: int) -> pa.ChunkedArray:
    """Rounded to the field's decimal places, then as the double that the org computes with."""
    try:
        exact = pc.round(text.cast(_EXACT), ndigits=scale, round_mode="half_towards_infinity")
        rounded = exact.cast(pa.string())
    except pa.ArrowInvalid:
        # More digits than any field has, or no number at all.
        known = {t: _rounded(t, scale) for t in text.unique().to_pylist()}
        rounded = pa.chunked_array([pa.array([known[t] for t in text.to_pylist()], pa.string())])
    # By way of their text: Arrow's conversion of decimals to doubles may be off in the last digit. Plus zero: no -0.
    return pc.add(rounded.cast(pa.float64()), 0.0).cast(pa.string())


def _rounded(text: str | None, scale: int) -> str | None:
    try:
        return None if text is None else str(Decimal(text).quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP))
    except InvalidOperation:
        return None


def _boolean(text: pa.ChunkedArray) -> pa.ChunkedArray:
    # A checkbox is never empty.
    yes = pc.is_in(pc.utf8_lower(text), value_set=_YES)
    return pc.if_else(yes, "true", "false")


def _moment(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """In UTC and whole seconds: Salesforce drops fractions."""
    whole = pc.replace_substring_regex(text, r"\.\d+", "")
    whole = pc.if_else(pc.match_substring_regex(whole, _MOMENT), whole, pa.scalar(None, pa.string()))
    return whole.cast(pa.timestamp("s", "UTC")).cast(pa.timestamp("s")).cast(pa.string())


def _day(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_slice_codeunits(text, 0, 10)


def _id(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_slice_codeunits(text, 0, 15)


def _choices(text: pa.ChunkedArray) -> pa.ChunkedArray:
    # Kept in the order of the picklist, whatever order they were sent in. Distinct combinations are few.
    known = {t: t and ";".join(sorted({p.strip() for p in t.split(";")} - {""})) for t in text.unique().to_pylist()}
    return pa.chunked_array([pa.array([known[t] for t in text.to_pylist()], pa.string())])


#: Salesforce keeps e-mail addresses in lower case.
_FORMS: Mapping[str, Callable[[pa.ChunkedArray], pa.ChunkedArray]] = {
    "boolean": _boolean,
    "date": _day,
    "datetime": _moment,
    "email": pc.utf8_lower,
    "id": _id,
    "multipicklist": _choices,
    "reference": _id,
}
