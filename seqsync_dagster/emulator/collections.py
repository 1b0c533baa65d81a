"""sObject Collections: up to 200 records in one call, with a verdict on each."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

from seqsync_dagster.emulator.errors import ApiError, RowError, not_found
from seqsync_dagster.emulator.rules import Guards, Row, Writer
from seqsync_dagster.emulator.schema import OBJECTS, Column, Field, SObject, find_object
from seqsync_dagster.emulator.store import Store

_LIMIT = 200
_RUNS = 10
_ROLLED_BACK = RowError(
    "ALL_OR_NONE_OPERATION_ROLLED_BACK",
    "Record rolled back because not all records were valid and the request was using AllOrNone header",
)


#: What may stand in the way of rows of an object.
Guarding = Callable[[SObject], Guards]


class _RolledBackError(Exception):
    pass


def mistyped(field: Field, raw: Any) -> RowError:
    kind = "VALUE_STRING" if isinstance(raw, str) else "VALUE_NUMBER" if not isinstance(raw, bool) else "VALUE_BOOLEAN"
    message = (
        f"Cannot deserialize instance of {field.type} from {kind} value {raw} or request may be missing a required "
        "field at [line:1, column:1]"
    )
    return RowError("JSON_PARSER_ERROR", message)


def _check_size(count: int) -> None:
    if count == 0:
        raise ApiError(400, "REQUIRED_FIELD_MISSING", "At least 1 record is required")
    if count > _LIMIT:
        message = "record limit reached. cannot submit more than 200 records into this call"
        raise ApiError(400, "EXCEEDED_ID_LIMIT", message)


def row_of(obj: SObject, record: dict[str, Any]) -> Row:
    """A JSON record as a row to write; a key that names nothing is the row's error."""
    row = Row([])
    for name, value in record.items():
        if name == "attributes":
            continue
        if isinstance(value, dict):
            column = _nested(obj, name, value)
            given = next((v for k, v in value.items() if k != "attributes"), None)
        else:
            found = obj.find(name) or (obj.lookup(name) if value is None else None)
            column, given = (Column(found) if found else None), value
        if column is None:
            row.error = RowError("INVALID_FIELD", f"No such column '{name}' on sobject of type {obj.name}")
            return row
        row.cells.append((column, given))
    return row


def _nested(obj: SObject, relationship: str, value: dict[str, Any]) -> Column | None:
    names = [name for name in value if name != "attributes"]
    lookup, attributes = obj.lookup(relationship), value.get("attributes")
    named = str(attributes.get("type", "")) if isinstance(attributes, dict) else ""
    return obj.by(lookup, named, names[0]) if lookup and len(names) == 1 else None


def write(
    store: Store, operation: str, payload: Any, guarding: Guarding,
    upserted: str | None = None, key_name: str | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Insert, update or upsert the records of a request body; replies in their order."""
    records = payload.get("records") if isinstance(payload, dict) else None
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise ApiError(400, "JSON_PARSER_ERROR", "The request body must be an object with a list of records")
    _check_size(len(records))
    key: Field | None = None
    if upserted is not None:
        obj = find_object(upserted)
        key = obj.find(key_name or "") if obj else None
        if key is None or not (key.match or key.name == "Id"):
            raise not_found(f"Provided external ID field does not exist or is not accessible: {key_name}")
    types = [(r.get("attributes") or {}).get("type", upserted) for r in records]
    if upserted is not None and any(str(t).lower() != upserted.lower() for t in types):
        raise ApiError(400, "INVALID_INPUT", "All records of an upsert must be of the type in the URL")
    if len([kind for kind, _ in groupby(types, key=lambda kind: str(kind).lower())]) > _RUNS:
        # "sObject Collections" of the REST API guide: at most 10 chunks of records of one type after the other.
        raise ApiError(400, "INVALID_INPUT", "Cannot have more than 10 chunks in a single operation")
    rows: list[tuple[SObject | None, Row]] = []
    for kind, record in zip(types, records, strict=True):
        obj = find_object(kind) if isinstance(kind, str) else None
        if obj is None:
            rows.append((None, Row([], error=RowError("INVALID_TYPE", f"sObject type '{kind}' is not supported."))))
        else:
            rows.append((obj, row_of(obj, record)))
    rolled_back = _apply(store, operation, rows, key, guarding, bool(payload.get("allOrNone")))
    return [_reply(store, operation, obj, row, rolled_back) for obj, row in rows]


def delete(store: Store, ids: list[str], all_or_none: bool, guarding: Guarding) -> list[dict[str, Any]]:
    """Delete records of any type by id."""
    _check_size(len(ids))
    prefixes = {obj.prefix: obj for obj in OBJECTS.values() if obj.writable}
    rows: list[tuple[SObject | None, Row]] = []
    for text in ids:
        obj = prefixes.get(text[:3])
        if obj is None:
            rows.append((None, Row([], error=RowError("MALFORMED_ID", f"malformed id {text}"))))
        else:
            rows.append((obj, Row([(Column(obj.fields["Id"]), text)])))
    rolled_back = _apply(store, "delete", rows, None, guarding, all_or_none)
    return [_reply(store, "delete", obj, row, rolled_back) for obj, row in rows]


def _apply(
    store: Store, operation: str, rows: list[tuple[SObject | None, Row]], key: Field | None,
    guarding: Guarding, all_or_none: bool,
) -> bool:  # fmt: skip
    """Whether the call was all-or-none and came to none."""
    try:
        with store.write() as db:
            for obj, group in groupby(rows, key=lambda pair: pair[0]):
                if obj is not None:
                    writer = Writer(store, obj, operation, key, mistyped, guarding(obj))
                    batch = [row for _, row in group]
                    writer.clean(batch)
                    writer.write(db, batch)
            if all_or_none and any(row.error for _, row in rows):
                raise _RolledBackError
    except _RolledBackError:
        for _, row in rows:
            row.error = row.error or _ROLLED_BACK
        return True
    return False


def _reply(store: Store, operation: str, obj: SObject | None, row: Row, rolled_back: bool) -> dict[str, Any]:
    reply: dict[str, Any] = {}
    known = row.record is not None and not row.created
    if obj is not None and row.record is not None and (row.error is None or (rolled_back and known)):
        reply["id"] = store.id_of(obj, row.record)
    reply["success"] = row.error is None
    reply["errors"] = [row.error.for_collections()] if row.error else []
    if operation == "upsert":
        reply["created"] = row.created
    return reply
