"""Which columns a field takes, by their types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from seqsync_dagster.destinations.protocol import FieldInfo, FieldKind, ObjectInfo
from seqsync_dagster.engine.preflight.mapped import Findings, Mapped, shown
from seqsync_dagster.warehouse.column_types import ColumnKind, ColumnType

#: What a field of a kind takes from any row of a column of these kinds. The text of a number or a date is text; the
#: rest is what Salesforce deserialises ("Primitive Data Types" of the SOAP API Developer Guide, "Valid Date Format in
#: Records" of the Bulk API 2.0 guide): no date for a dateTime, no dateTime for a date, no number for a boolean.
_TAKES: Mapping[FieldKind, frozenset[ColumnKind]] = {
    "text": frozenset({"text", "uuid", "boolean", "integer", "decimal", "float", "date", "datetime", "time"}),
    "id": frozenset({"text"}),
    "boolean": frozenset({"boolean"}),
    "integer": frozenset({"integer"}),
    "number": frozenset({"integer", "decimal", "float"}),
    "date": frozenset({"date"}),
    "datetime": frozenset({"datetime"}),
    "time": frozenset({"time"}),
    "binary": frozenset({"text"}),
}

_INSTEAD: Mapping[FieldKind, str] = {
    "boolean": "a boolean",
    "integer": "an integer: the field takes whole numbers only",
    "number": "a number",
    "date": "a date",
    "datetime": "a timestamp",
    "time": "a time",
    "binary": "text in base64",
}

#: Characters that every value of a kind takes as text.
_WIDTHS: Mapping[ColumnKind, int] = {"uuid": 36, "date": 10, "datetime": 24}


def takes(field: FieldInfo, column: ColumnType) -> bool:
    """Whether a field takes every value of a column, as far as their kinds tell."""
    taken = _TAKES.get(field.kind)
    return taken is None or column.kind == "unknown" or column.kind in taken


def check_column(info: ObjectInfo, field: FieldInfo, column: str, mapped: Mapped, found: Findings) -> None:
    """Find what keeps a field from taking every row of a column."""
    type_, taken = mapped.column(column), _TAKES.get(field.kind)
    if taken is None or type_.kind == "unknown":
        return
    where, named = shown(info, field), mapped.named(column)
    whole = type_.kind == "decimal" and type_.precision > 0 and type_.scale <= 0
    if type_.kind in taken or (whole and field.kind == "integer"):
        width = _WIDTHS.get(type_.kind, 0)
        if field.kind == "text" and 0 < field.length < width:
            found.problems.append(
                f"{where} holds {field.length} characters, {named} sends {width} in every row. Use a longer field"
            )
        elif field.kind == "number" and type_.kind == "decimal":
            found.risks += _decimal_risks(where, field, named, type_)
    elif type_.kind == "text":
        a = _INSTEAD[field.kind].partition(":")[0]
        found.risks.append(f"{where} is filled from {named}: rows whose text is not {a} are refused")
    elif field.kind == "id":
        found.problems.append(
            f"{where} cannot take {named}: it holds the id of a record. Find it with {{parent: SYNC, from: {column}}} "
            f"or {{lookup: OBJECT, by: FIELD, from: {column}}}"
        )
    else:
        found.problems.append(f"{where} cannot take {named}. Cast it in the model to {_INSTEAD[field.kind]}")


def _decimal_risks(where: str, field: FieldInfo, named: str, type_: ColumnType) -> Iterator[str]:
    whole = field.precision - field.scale
    if field.precision and type_.precision - type_.scale > whole:
        yield f"{where} holds {whole} digits before the point: rows of {named} with more are refused"
    if field.precision and type_.scale > field.scale:
        yield f"{where} keeps {field.scale} digits after the point, {named} has {type_.scale}: the rest is rounded away"
