"""REST: queries, single records, and sObject Collections."""

from __future__ import annotations

import re
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from seqsync_dagster.emulator import collections
from seqsync_dagster.emulator.errors import ApiError, RowError, not_found
from seqsync_dagster.emulator.ids import ELSEWHERE
from seqsync_dagster.emulator.orgrules import owner_by
from seqsync_dagster.emulator.rules import Guards, Row, Writer
from seqsync_dagster.emulator.schema import Column, Field, SObject
from seqsync_dagster.emulator.soql import Query, compile_query
from seqsync_dagster.emulator.store import Store
from seqsync_dagster.emulator.wire import as_json, asked_object, loads

if TYPE_CHECKING:
    from seqsync_dagster.emulator.app import Emulator

_PAGE = 2000
_CURSORS = 100


def routes(emulator: Emulator) -> list[Route]:
    """What is below /query, /sobjects and /composite and concerns records."""
    v = "/services/data/{version}"

    def at(path: str, handler: Any, *methods: str) -> Route:
        return Route(v + path, emulator.handle(partial(handler, emulator)), methods=list(methods))

    return [
        at("/query", _query, "GET"),
        at("/queryAll", _query, "GET"),
        at("/query/{cursor}", _query_more, "GET"),
        at("/queryAll/{cursor}", _query_more, "GET"),
        at("/sobjects/{object}", _create, "POST"),
        at("/sobjects/{object}/{id}", _record, "GET", "PATCH", "DELETE"),
        # A value may have a slash in it.
        at("/sobjects/{object}/{key}/{value:path}", _by_key, "GET", "PATCH", "DELETE"),
        at("/composite/sobjects", partial(_write, "insert"), "POST"),
        at("/composite/sobjects", partial(_write, "update"), "PATCH"),
        at("/composite/sobjects", _delete, "DELETE"),
        at("/composite/sobjects/{object}/{key}", partial(_write, "upsert"), "PATCH"),
    ]


# -- queries


def _query(emulator: Emulator, request: Request, body: bytes) -> Any:
    text = request.query_params.get("q")
    if not text:
        raise ApiError(400, "MALFORMED_QUERY", "A query string has to be specified")
    query = compile_query(emulator.store, text, everything=request.url.path.lower().endswith("/queryall"))
    total = query.total = query.count(emulator.store)
    if query.counting == "count()":
        return {"totalSize": total, "done": True, "records": []}
    if query.counting:
        counted = {"attributes": {"type": "AggregateResult"}, "expr0": total}
        return {"totalSize": 1, "done": True, "records": [counted]}
    while len(emulator.cursors) >= _CURSORS:
        emulator.cursors.pop(next(iter(emulator.cursors)), None)
    cursor = f"01g{secrets.token_hex(6)}AAA"
    emulator.cursors[cursor] = query
    return _page_of(emulator, request, cursor, query, 0)


def _query_more(emulator: Emulator, request: Request, body: bytes) -> Any:
    cursor, _, offset = request.path_params["cursor"].rpartition("-")
    query = emulator.cursors.get(cursor)
    if query is None or not offset.isdigit():
        raise ApiError(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
    return _page_of(emulator, request, cursor, query, int(offset))


def _page_of(emulator: Emulator, request: Request, cursor: str, query: Query, offset: int) -> Any:
    asked = re.search(r"batchSize=(\d+)", request.headers.get("sforce-query-options", ""))
    size = min(_PAGE, max(200, int(asked[1]))) if asked else _PAGE
    version = request.path_params["version"]
    found = query.page(emulator.store, version, size, offset)
    reply: dict[str, Any] = {"totalSize": query.total, "done": offset + size >= query.total}
    if reply["done"]:
        emulator.cursors.pop(cursor, None)
    else:
        resource = "queryAll" if query.everything else "query"
        reply["nextRecordsUrl"] = f"/services/data/{version}/{resource}/{cursor}-{offset + size}"
    return {**reply, "records": found}


# -- single records ("sObject Basic Information", "sObject Rows", "sObject Rows by External ID" of the REST API guide)


def _guarding(emulator: Emulator, request: Request, where: str = "/sobjects") -> collections.Guarding:
    asked = request.headers.get("sforce-duplicate-rule-header", "").replace(" ", "").lower()
    controls, allow_save = emulator.controls, "allowsave=true" in asked.split(";")
    # Without the header the active rule is used ("Assignment Rule Header").
    assign = request.headers.get("sforce-auto-assign", "TRUE").strip()

    def guards(obj: SObject) -> Guards:
        path = f"{where}/{obj.name}"
        owner = owner_by(emulator.store, controls.assigning(obj.name, assign))
        return Guards(lambda _: controls.lock_hits(path), tuple(controls.rules_of(obj.name)), allow_save, owner)

    return guards


def _apply(emulator: Emulator, request: Request, operation: str, row: Row, key: Field | None = None) -> Row:
    obj, store = asked_object(request), emulator.store
    writer = Writer(store, obj, operation, key, collections.mistyped, _guarding(emulator, request)(obj))
    writer.clean([row])
    with store.write() as db:
        writer.write(db, [row])
    if row.error:
        # A missing record is a wrong address here, not a wrong value.
        unknown = row.error.code == "INVALID_CROSS_REFERENCE_KEY" and not row.error.fields
        raise not_found() if unknown and operation in ("update", "delete") else row.error.for_rest()
    return row


def _given(obj: SObject, body: bytes) -> Row:
    record = loads(body)
    if not isinstance(record, dict):
        raise ApiError(400, "JSON_PARSER_ERROR", "The request body must be a JSON object")
    return collections.row_of(obj, record)


def _saved(emulator: Emulator, obj: SObject, row: Row) -> dict[str, Any]:
    return {"id": emulator.store.id_of(obj, row.record or 0), "success": True, "errors": []}


def _create(emulator: Emulator, request: Request, body: bytes) -> Any:
    obj = asked_object(request)
    row = _apply(emulator, request, "insert", _given(obj, body))
    return as_json(request, _saved(emulator, obj, row), 201)


def _record(emulator: Emulator, request: Request, body: bytes) -> Any:
    obj, record_id = asked_object(request), request.path_params["id"]
    if request.method == "GET":
        return _read(emulator, request, obj, obj.fields["Id"], record_id)
    address = (Column(obj.fields["Id"]), record_id)
    if request.method == "DELETE":
        _apply(emulator, request, "delete", Row([address]))
        return Response(status_code=204)
    row = _given(obj, body)
    if any(column.field.type == "id" for column, _ in row.cells):
        raise RowError("INVALID_FIELD", "The Id field should not be specified in the sobject data.", ("Id",)).for_rest()
    row.cells.append(address)
    _apply(emulator, request, "update", row)
    return Response(status_code=204)


def _by_key(emulator: Emulator, request: Request, body: bytes) -> Any:
    obj, value = asked_object(request), request.path_params["value"]
    key = obj.find(request.path_params["key"])
    if key is None or not (key.match or key.name == "Id"):
        raise not_found(f"Provided external ID field does not exist or is not accessible: {request.path_params['key']}")
    version, method = request.path_params["version"], request.method
    found = _numbers(emulator.store, obj, key, value)
    if len(found) > 1:
        here = f"/services/data/{version}/sobjects/{obj.name}"
        return as_json(request, [f"{here}/{emulator.store.id_of(obj, n)}" for n in found], 300)
    if method == "GET":
        return _read(emulator, request, obj, key, value)
    update_only = request.query_params.get("updateOnly", "").lower() == "true"
    if not found and (method == "DELETE" or key.name == "Id" or update_only):
        raise not_found()
    if method == "DELETE":
        address = (Column(obj.fields["Id"]), emulator.store.id_of(obj, found[0]))
        _apply(emulator, request, "delete", Row([address]))
        return Response(status_code=204)
    row = _given(obj, body)
    if any(column.field is key or column.field.type == "id" for column, _ in row.cells):
        message = f"The {key.name} field should not be specified in the sobject data."
        raise RowError("INVALID_FIELD", message, (key.name,)).for_rest()
    row.cells.append((Column(key), value))
    row = _apply(emulator, request, "upsert", row, key)
    if not row.created and float(version[1:]) < 46:
        return Response(status_code=204)
    return as_json(request, {**_saved(emulator, obj, row), "created": row.created}, 201 if row.created else 200)


def _numbers(store: Store, obj: SObject, key: Field, value: str) -> list[int]:
    known: Any = value
    if key.type == "id":
        try:
            known = store.ids.decode(value, obj.prefix)
        except ValueError:
            known = ELSEWHERE
    rows = store.reader().execute(f'SELECT "Id" FROM "{obj.name}" WHERE "IsDeleted" = 0 AND "{key.name}" = ?', (known,))
    return [n for (n,) in rows]


def _read(emulator: Emulator, request: Request, obj: SObject, key: Field, value: str) -> Any:
    found = _numbers(emulator.store, obj, key, value)
    if not found:
        raise not_found(f"Provided external ID field does not exist or is not accessible: {value}")
    asked = request.query_params.get("fields")
    names = [name for name in asked.split(",") if name] if asked else list(obj.fields)
    record_id = emulator.store.id_of(obj, found[0])
    query = compile_query(emulator.store, f"SELECT {','.join(names)} FROM {obj.name} WHERE Id = '{record_id}'")
    (record,) = query.page(emulator.store, request.path_params["version"], 1, 0)
    return record


# -- many records at once


def _write(operation: str, emulator: Emulator, request: Request, body: bytes) -> Any:
    where, guarding = request.path_params, _guarding(emulator, request, "/composite/sobjects")
    return collections.write(emulator.store, operation, loads(body), guarding, where.get("object"), where.get("key"))


def _delete(emulator: Emulator, request: Request, body: bytes) -> Any:
    ids = [i for i in request.query_params.get("ids", "").split(",") if i]
    all_or_none = request.query_params.get("allOrNone", "false").lower() == "true"
    return collections.delete(emulator.store, ids, all_or_none, _guarding(emulator, request, "/composite/sobjects"))
