"""What Salesforce does not have: pages for people, and the calls with which tests set the org up and read it back."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.routing import Route

from seqsync_dagster.emulator import collections, oauth, page
from seqsync_dagster.emulator.errors import ApiError, not_found
from seqsync_dagster.emulator.ids import MalformedIdError, WrongTypeError
from seqsync_dagster.emulator.merging import merge
from seqsync_dagster.emulator.rules import NO_GUARDS, Row, Writer
from seqsync_dagster.emulator.schema import OBJECTS, Column, find_object
from seqsync_dagster.emulator.values import RefusedError
from seqsync_dagster.emulator.wire import asked_object, loads

if TYPE_CHECKING:
    from seqsync_dagster.emulator.app import Emulator


def routes(emulator: Emulator) -> list[Route]:
    """The pages, and everything below /emulator."""

    def at(path: str, handler: Any, method: str = "GET") -> Route:
        return Route(path, emulator.handle(partial(handler, emulator)), methods=[method])

    return [
        at("/", _overview),
        at("/records/{object}", _records_page),
        at("/{id:str}", _record_page),
        at("/emulator/faults", _add_fault, "POST"),
        at("/emulator/faults", _doing(lambda: emulator.controls.clear()), "DELETE"),
        at("/emulator/settings", _set, "POST"),
        at("/emulator/calls", _doing(lambda: emulator.controls.report())),
        at("/emulator/calls/reset", _doing(lambda: emulator.controls.reset()), "POST"),
        at("/emulator/reset", _doing(lambda: emulator.start_over()), "POST"),
        at("/emulator/expire_tokens", _doing(lambda: {"expired": emulator.expire_tokens()}), "POST"),
        at("/emulator/merge", _merge, "POST"),
        at("/emulator/records/{object}", _all_records),
        at("/emulator/records/{object}", _seed, "POST"),
        at("/emulator/records/{object}/{id}", _remove, "DELETE"),
    ]


def _doing(what: Callable[[], Any]) -> Any:
    return lambda emulator, request, body: what() or {}


def _invalid(error: Exception | str) -> ApiError:
    return ApiError(400, "INVALID_INPUT", str(error))


def _overview(emulator: Emulator, request: Request, body: bytes) -> Any:
    return HTMLResponse(page.overview(emulator.store))


def _records_page(emulator: Emulator, request: Request, body: bytes) -> Any:
    obj, asked, store = asked_object(request), request.query_params, emulator.store
    only = None
    if "id" in asked:
        try:
            only = store.ids.decode(asked["id"], obj.prefix)
        except (MalformedIdError, WrongTypeError):
            raise not_found() from None
    number = int(asked["page"]) if asked.get("page", "").isdigit() else 1
    return HTMLResponse(page.records(store, obj, max(1, number), only))


def _record_page(emulator: Emulator, request: Request, body: bytes) -> Any:
    """Salesforce opens any record at /ID."""
    record_id = request.path_params["id"]
    for obj in OBJECTS.values():
        if record_id.startswith(obj.prefix):
            return RedirectResponse(f"/records/{obj.name}?id={record_id}")
    raise not_found()


def _add_fault(emulator: Emulator, request: Request, body: bytes) -> Any:
    try:
        emulator.controls.add(json.loads(body))
    except (TypeError, ValueError) as error:
        raise _invalid(error) from None
    return {}


def _set(emulator: Emulator, request: Request, body: bytes) -> Any:
    try:
        asked = dict(json.loads(body))
        if "jwt_certificate" in asked:
            try:
                certificate = oauth.check_certificate(asked.pop("jwt_certificate"))
            except ValueError as error:
                raise ValueError(f"jwt_certificate: {error}") from None
            emulator.store.save_setting("jwt_certificate", certificate)
        emulator.controls.set(asked)
    except (TypeError, ValueError) as error:
        raise _invalid(error) from None
    emulator.worker.wake()
    return {}


def _merge(emulator: Emulator, request: Request, body: bytes) -> Any:
    asked = loads(body)
    obj = find_object(str(asked.get("object")))
    if obj is None:
        raise _invalid(f"no object {asked.get('object')}")
    try:
        merge(emulator.store, obj, str(asked.get("master")), [str(loser) for loser in asked.get("losers", ())])
    except (RefusedError, ValueError) as error:
        raise _invalid(error) from None
    return {}


def _all_records(emulator: Emulator, request: Request, body: bytes) -> Any:
    return list(emulator.store.records(asked_object(request)))


def _seed(emulator: Emulator, request: Request, body: bytes) -> Any:
    obj, given = asked_object(request), loads(body)
    replies: list[dict[str, Any]] = []
    for start in range(0, len(given), 200):
        records = [{**record, "attributes": {"type": obj.name}} for record in given[start : start + 200]]
        replies += collections.write(emulator.store, "insert", {"records": records}, lambda _: NO_GUARDS)
    return replies


def _remove(emulator: Emulator, request: Request, body: bytes) -> Any:
    obj = asked_object(request)
    row = Row([(Column(obj.fields["Id"]), request.path_params["id"])])
    writer = Writer(emulator.store, obj, "delete", None, collections.mistyped)
    writer.clean([row])
    with emulator.store.write() as db:
        writer.write(db, [row])
    if row.error:
        raise ApiError(400, row.error.code, row.error.message)
    return {}
