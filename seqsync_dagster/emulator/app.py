"""The HTTP face: which path does what."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import simplejson
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from seqsync_dagster.emulator import bulk, collections, page
from seqsync_dagster.emulator.errors import ApiError, not_found
from seqsync_dagster.emulator.faults import BulkSpeed, Controls
from seqsync_dagster.emulator.ids import MalformedIdError, WrongTypeError
from seqsync_dagster.emulator.rules import Row, Writer
from seqsync_dagster.emulator.schema import OBJECTS, Column, SObject, find_object
from seqsync_dagster.emulator.soql import Query, compile_query
from seqsync_dagster.emulator.store import INTEGRATION_USER, Store
from seqsync_dagster.emulator.worker import Worker

_VERSIONS = [f"{n}.0" for n in range(50, 68)]
_DATA = re.compile(r"/services/data(/v\d{2}\.0)?(/.*)?")
_URI_LIMIT = 16_384
_PAGE = 2000
_UPLOAD_LIMIT = 150_000_000
_CURSORS = 100
DISCONNECT = "emulator.disconnect"

Handler = Callable[[Request, bytes], Any]


def _json(request: Request, payload: Any, status: int = 200) -> Response:
    pretty = request.headers.get("x-prettyprint") == "1"
    separators = (",", " : ") if pretty else (",", ":")
    text = simplejson.dumps(
        payload, use_decimal=True, ensure_ascii=False, indent="  " if pretty else None, separators=separators
    )
    return Response(text.encode(), status, media_type="application/json")


def _loads(body: bytes) -> Any:
    try:
        return simplejson.loads(body, use_decimal=True)
    except ValueError as error:
        raise ApiError(400, "JSON_PARSER_ERROR", f"Unexpected content: {error}") from None


def _object(name: str) -> SObject:
    found = find_object(name)
    if found is None:
        raise not_found()
    return found


class Emulator:
    """The ASGI application: the org behind its routes."""

    def __init__(self, store: Store, base_url: str, client_id: str, client_secret: str, api_limit: int) -> None:
        self.store, self.base_url = store, base_url
        self.client_id, self.client_secret = client_id, client_secret
        self.controls = Controls(int(store.setting("api_calls") or 0), api_limit)
        self.worker = Worker(store, self.controls)
        self.cursors: dict[str, Query] = {}
        v = "/services/data/{version}"
        job = v + "/jobs/ingest/{job}"
        routes = [
            Route("/", self._handle(self.overview)),
            Route("/records/{object}", self._handle(self.records_page)),
            Route("/{id:str}", self._handle(self.record_page)),
            Route("/services/oauth2/token", self._handle(self.token), methods=["POST"]),
            Route("/services/oauth2/userinfo", self._handle(self.userinfo), methods=["GET", "POST"]),
            Route("/services/data", self._handle(self.versions)),
            Route(v, self._handle(self.resources)),
            Route(v + "/limits", self._handle(self.limits)),
            Route(v + "/sobjects", self._handle(self.sobjects)),
            Route(v + "/sobjects/{object}", self._handle(self.sobject)),
            Route(v + "/sobjects/{object}/describe", self._handle(self.describe)),
            Route(v + "/query", self._handle(self.query)),
            Route(v + "/query/{cursor}", self._handle(self.query_more)),
            Route(v + "/composite/sobjects", self._handle(partial(self.write, "insert")), methods=["POST"]),
            Route(v + "/composite/sobjects", self._handle(partial(self.write, "update")), methods=["PATCH"]),
            Route(v + "/composite/sobjects", self._handle(self.delete), methods=["DELETE"]),
            Route(v + "/composite/sobjects/{object}/{key}", self._handle(partial(self.write, "upsert")),
                  methods=["PATCH"]),
            Route(v + "/jobs/ingest", self._handle(self.create_job), methods=["POST"]),
            Route(v + "/jobs/ingest", self._handle(self.list_jobs)),
            Route(job, self._handle(self.get_job)),
            Route(job, self._handle(self.patch_job), methods=["PATCH"]),
            Route(job, self._handle(self.delete_job), methods=["DELETE"]),
            Route(job + "/batches", self.upload, methods=["PUT"]),
            Route(job + "/{part}", self._handle(self.job_results)),
            Route("/emulator/faults", self._handle(self.add_fault), methods=["POST"]),
            Route("/emulator/faults", self._handle(self.clear_faults), methods=["DELETE"]),
            Route("/emulator/settings", self._handle(self.set_speed), methods=["POST"]),
            Route("/emulator/calls", self._handle(lambda *_: self.controls.report())),
            Route("/emulator/calls/reset", self._handle(self.reset_calls), methods=["POST"]),
            Route("/emulator/reset", self._handle(self.reset), methods=["POST"]),
            Route("/emulator/expire_tokens", self._handle(self.expire_tokens), methods=["POST"]),
            Route("/emulator/records/{object}", self._handle(self.all_records)),
            Route("/emulator/records/{object}", self._handle(self.seed), methods=["POST"]),
            Route("/emulator/records/{object}/{id}", self._handle(self.remove), methods=["DELETE"]),
        ]  # fmt: skip
        self._router = Router(routes, redirect_slashes=False)

    # -- before and after every call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        path = scope["path"].rstrip("/") or "/"
        # With an "app" in its scope the router raises what it cannot serve, instead of answering in plain text.
        scope = {**scope, "path": path, "raw_path": path.encode(), "app": self}
        request = Request(scope, receive)

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start" and path.startswith("/services/"):
                usage = f"api-usage={self.controls.api_calls}/{self.controls.api_limit}"
                message["headers"] = [*message["headers"], (b"sforce-limit-info", usage.encode())]
            await send(message)

        drop = scope.get("state", {}).get(DISCONNECT)
        fault = None
        try:
            if path.startswith("/services/"):
                self.controls.count(request.method, path)
                fault = self.controls.strikes(("503", "401", "reset_before", "reset_after"), path)
                if fault == "reset_before":
                    drop()
                    return
                try:
                    self._admit(request, path, fault)
                except ApiError:
                    await _drain(request)
                    raise
            if fault == "reset_after":
                with suppress(ApiError, HTTPException):
                    await self._router(scope, receive, _swallow)
                drop()
                return
            await self._router(scope, receive, send_with_limits)
        except ClientDisconnect:
            pass
        except ApiError as error:
            await _json(request, error.body, error.status)(scope, receive, send_with_limits)
        except HTTPException as error:
            refusal = not_found()
            if error.status_code == 405:
                allowed = (error.headers or {}).get("Allow", "")
                refusal = ApiError(405, "METHOD_NOT_ALLOWED", f"HTTP Method '{request.method}' not allowed. "
                                                              f"Allowed are {allowed}")  # fmt: skip
            await _json(request, refusal.body, refusal.status)(scope, receive, send_with_limits)

    def _admit(self, request: Request, path: str, fault: str | None) -> None:
        size = len(str(request.url)) + sum(len(k) + len(v) + 4 for k, v in request.headers.raw)
        if size > _URI_LIMIT:
            raise ApiError(414, "URI_TOO_LONG", "The URI and the headers are longer than 16,384 bytes")
        if fault == "503":
            raise ApiError(503, "SERVER_UNAVAILABLE", "The server is temporarily unavailable. Try again later.")
        if self.controls.api_calls > self.controls.api_limit and path.startswith("/services/data/"):
            raise ApiError(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
        data = _DATA.fullmatch(path)
        if path != "/services/oauth2/token" and path != "/services/data":
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            known = self.store.reader().execute("SELECT 1 FROM tokens WHERE token = ?", (token,)).fetchone()
            if fault == "401" or scheme.lower() not in ("bearer", "oauth") or not known:
                raise ApiError(401, "INVALID_SESSION_ID", "Session expired or invalid")
        elif fault == "401":
            raise ApiError(401, "INVALID_SESSION_ID", "Session expired or invalid")
        if path.startswith("/services/data/") and (data is None or data[1] is None):
            raise not_found()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self.worker.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await run_in_threadpool(self.worker.stop)
        self.store.save_setting("api_calls", str(self.controls.api_calls))
        await send({"type": "lifespan.shutdown.complete"})

    def _handle(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint out of a function that may wait for the disk: it gets its own thread."""

        async def endpoint(request: Request) -> Response:
            body = await request.body()
            reply = await run_in_threadpool(handler, request, body)
            return reply if isinstance(reply, Response) else _json(request, reply)

        return endpoint

    # -- who is calling

    def token(self, request: Request, body: bytes) -> Any:
        form = {k: v[0] for k, v in parse_qs(body.decode(errors="replace")).items()}
        given = (form.get("client_id"), form.get("client_secret"))
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
                given = (name, secret)
            except (binascii.Error, UnicodeDecodeError):
                given = (None, None)
        if form.get("grant_type") != "client_credentials":
            refusal = {"error": "unsupported_grant_type", "error_description": "grant type not supported"}
            return _json(request, refusal, 400)
        if given != (self.client_id, self.client_secret):
            refusal = {"error": "invalid_client", "error_description": "invalid client credentials"}
            return _json(request, refusal, 400)
        token = f"{self.store.org_id[:15]}!{secrets.token_urlsafe(48)}"
        with self.store.write() as db:
            db.execute("INSERT INTO tokens VALUES (?)", (token,))
        return {
            "access_token": token,
            "signature": secrets.token_urlsafe(32),
            "scope": "api",
            "instance_url": self.base_url,
            "id": self._identity(),
            "token_type": "Bearer",
            "issued_at": str(int(time.time() * 1000)),
        }

    def _user_id(self) -> str:
        return self.store.id_of(OBJECTS["User"], INTEGRATION_USER)

    def _identity(self) -> str:
        return f"{self.base_url}/id/{self.store.org_id}/{self._user_id()}"

    def userinfo(self, request: Request, body: bytes) -> Any:
        user = next(self.store.records(OBJECTS["User"], only=INTEGRATION_USER))
        return {
            "sub": self._identity(),
            "user_id": self._user_id(),
            "organization_id": self.store.org_id,
            "preferred_username": user["Username"],
            "name": user["Name"],
            "email": user["Email"],
            "urls": {"rest": f"{self.base_url}/services/data/v{{version}}/"},
            "active": True,
            "user_type": "STANDARD",
        }

    def expire_tokens(self, request: Request, body: bytes) -> Any:
        with self.store.write() as db:
            return {"expired": db.execute("DELETE FROM tokens").rowcount}

    # -- what there is

    def versions(self, request: Request, body: bytes) -> Any:
        return [{"label": f"Release {n}", "url": f"/services/data/v{n}", "version": n} for n in _VERSIONS]

    def resources(self, request: Request, body: bytes) -> Any:
        here = f"/services/data/{request.path_params['version']}"
        names = ("sobjects", "query", "limits", "composite", "jobs")
        return {**{name: f"{here}/{name}" for name in names}, "identity": self._identity()}

    def limits(self, request: Request, body: bytes) -> Any:
        most = self.controls.api_limit
        return {
            "DailyApiRequests": {"Max": most, "Remaining": max(0, most - self.controls.api_calls)},
            "DailyBulkApiBatches": {"Max": 15000, "Remaining": 15000},
            "DailyBulkV2QueryJobs": {"Max": 10000, "Remaining": 10000},
        }

    def sobjects(self, request: Request, body: bytes) -> Any:
        return {"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": [o.describe() for o in OBJECTS.values()]}

    def sobject(self, request: Request, body: bytes) -> Any:
        return {"objectDescribe": _object(request.path_params["object"]).describe(), "recentItems": []}

    def describe(self, request: Request, body: bytes) -> Any:
        return _object(request.path_params["object"]).describe_fully()

    # -- records

    def query(self, request: Request, body: bytes) -> Any:
        text = request.query_params.get("q")
        if not text:
            raise ApiError(400, "MALFORMED_QUERY", "A query string has to be specified")
        query = compile_query(self.store, text)
        total = query.total = query.count(self.store)
        if query.counting == "count()":
            return {"totalSize": total, "done": True, "records": []}
        if query.counting:
            counted = {"attributes": {"type": "AggregateResult"}, "expr0": total}
            return {"totalSize": 1, "done": True, "records": [counted]}
        while len(self.cursors) >= _CURSORS:
            self.cursors.pop(next(iter(self.cursors)), None)
        cursor = f"01g{secrets.token_hex(6)}AAA"
        self.cursors[cursor] = query
        return self._page_of(request, cursor, query, 0)

    def query_more(self, request: Request, body: bytes) -> Any:
        cursor, _, offset = request.path_params["cursor"].rpartition("-")
        query = self.cursors.get(cursor)
        if query is None or not offset.isdigit():
            raise ApiError(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
        return self._page_of(request, cursor, query, int(offset))

    def _page_of(self, request: Request, cursor: str, query: Query, offset: int) -> Any:
        asked = re.search(r"batchSize=(\d+)", request.headers.get("sforce-query-options", ""))
        size = min(_PAGE, max(200, int(asked[1]))) if asked else _PAGE
        version = request.path_params["version"]
        found = query.page(self.store, version, size, offset)
        reply: dict[str, Any] = {"totalSize": query.total, "done": offset + size >= query.total}
        if reply["done"]:
            self.cursors.pop(cursor, None)
        else:
            reply["nextRecordsUrl"] = f"/services/data/{version}/query/{cursor}-{offset + size}"
        return {**reply, "records": found}

    def write(self, operation: str, request: Request, body: bytes) -> Any:
        where = request.path_params
        hits = self.controls.lock_hits
        return collections.write(self.store, operation, _loads(body), hits, where.get("object"), where.get("key"))

    def delete(self, request: Request, body: bytes) -> Any:
        ids = [i for i in request.query_params.get("ids", "").split(",") if i]
        all_or_none = request.query_params.get("allOrNone", "false").lower() == "true"
        return collections.delete(self.store, ids, all_or_none, self.controls.lock_hits)

    # -- bulk jobs

    def _job(self, request: Request) -> bulk.Job:
        return bulk.load(self.store, request.path_params["job"])

    def create_job(self, request: Request, body: bytes) -> Any:
        version = float(request.path_params["version"][1:])
        return bulk.as_json(self.store, bulk.create(self.store, version, _loads(body)), "create")

    def list_jobs(self, request: Request, body: bytes) -> Any:
        jobs = [bulk.as_json(self.store, job, "list") for job in bulk.jobs_in(self.store)[-1000:]]
        return {"done": True, "nextRecordsUrl": None, "records": jobs}

    def get_job(self, request: Request, body: bytes) -> Any:
        return bulk.as_json(self.store, self._job(request), "get")

    def patch_job(self, request: Request, body: bytes) -> Any:
        asked = _loads(body)
        wanted = asked.get("state") if isinstance(asked, dict) else None
        job = bulk.change_state(self.store, self._job(request), wanted)
        self.worker.wake()
        return bulk.as_json(self.store, job, "patch")

    def delete_job(self, request: Request, body: bytes) -> Any:
        bulk.delete(self.store, self._job(request))
        return Response(status_code=204)

    async def upload(self, request: Request) -> Response:
        job = await run_in_threadpool(self._job, request)
        try:
            bulk.check_uploadable(self.store, job)
        except ApiError:
            await _drain(request)
            raise
        received = self.store.uploads / f"{job.n}.{secrets.token_hex(4)}.part"
        try:
            await self._receive(request, received)
            await run_in_threadpool(bulk.set_uploaded, self.store, job, received)
        finally:
            received.unlink(missing_ok=True)
        return Response(status_code=201)

    async def _receive(self, request: Request, path: Path) -> None:
        size = 0
        with path.open("wb") as out:
            async for chunk in request.stream():
                size += len(chunk)
                if size > _UPLOAD_LIMIT:
                    raise ApiError(413, "CLIENTINPUTERROR", "ClientInputError : the content is larger than 150 MB")
                out.write(chunk)

    def job_results(self, request: Request, body: bytes) -> Any:
        parts: dict[str, Callable[[bulk.Job], Iterator[bytes]]] = {
            "successfulresults": lambda job: bulk.results(self.store, job, "succeeded"),
            "failedresults": lambda job: bulk.results(self.store, job, "failed"),
            "unprocessedrecords": lambda job: bulk.unprocessed(self.store, job),
        }
        part = parts.get(request.path_params["part"].lower())
        if part is None:
            raise not_found()
        # Salesforce names no charset here, and clients that guess one guess wrong.
        return StreamingResponse(part(self._job(request)), headers={"content-type": "text/csv"})

    # -- the emulator's own

    def overview(self, request: Request, body: bytes) -> Any:
        return HTMLResponse(page.overview(self.store))

    def records_page(self, request: Request, body: bytes) -> Any:
        obj, asked = _object(request.path_params["object"]), request.query_params
        only = None
        if "id" in asked:
            try:
                only = self.store.ids.decode(asked["id"], obj.prefix)
            except (MalformedIdError, WrongTypeError):
                raise not_found() from None
        number = int(asked["page"]) if asked.get("page", "").isdigit() else 1
        return HTMLResponse(page.records(self.store, obj, max(1, number), only))

    def record_page(self, request: Request, body: bytes) -> Any:
        """Salesforce opens any record at /ID."""
        record_id = request.path_params["id"]
        for obj in OBJECTS.values():
            if record_id.startswith(obj.prefix):
                return RedirectResponse(f"/records/{obj.name}?id={record_id}")
        raise not_found()

    def add_fault(self, request: Request, body: bytes) -> Any:
        asked = _loads(body)
        try:
            self.controls.add(asked["fault"], asked.get("path_contains", ""), int(asked.get("times", 1)))
        except (KeyError, ValueError, AttributeError) as error:
            raise ApiError(400, "INVALID_INPUT", str(error)) from None
        return {}

    def clear_faults(self, request: Request, body: bytes) -> Any:
        self.controls.clear()
        return {}

    def reset_calls(self, request: Request, body: bytes) -> Any:
        self.controls.reset()
        return {}

    def reset(self, request: Request, body: bytes) -> Any:
        """The org as on its first day: no records, jobs, tokens or faults. Its id stays."""
        # The numbers of jobs begin again, and the worker must not take a new job for an old one.
        self.worker.stop()
        self.store.clear()
        self.cursors.clear()
        self.controls.forget()
        self.worker = Worker(self.store, self.controls)
        self.worker.start()
        return {}

    def set_speed(self, request: Request, body: bytes) -> Any:
        asked, speed = _loads(body), self.controls.speed
        delay = float(asked.get("bulk_delay_s", speed.delay_s))
        self.controls.speed = BulkSpeed(delay, asked.get("bulk_rows_per_s", speed.rows_per_s))
        self.worker.wake()
        return {}

    def all_records(self, request: Request, body: bytes) -> Any:
        return list(self.store.records(_object(request.path_params["object"])))

    def seed(self, request: Request, body: bytes) -> Any:
        obj = _object(request.path_params["object"])
        given = _loads(body)
        replies: list[dict[str, Any]] = []
        for start in range(0, len(given), 200):
            records = [{**record, "attributes": {"type": obj.name}} for record in given[start : start + 200]]
            replies += collections.write(self.store, "insert", {"records": records}, lambda _: False)
        return replies

    def remove(self, request: Request, body: bytes) -> Any:
        obj = _object(request.path_params["object"])
        row = Row([(Column(obj.fields["Id"]), request.path_params["id"])])
        writer = Writer(self.store, obj, "delete", None, collections.mistyped)
        writer.clean([row])
        with self.store.write() as db:
            writer.write(db, [row])
        if row.error:
            raise ApiError(400, row.error.code, row.error.message)
        return {}


async def _drain(request: Request) -> None:
    """Take in what is still coming: a client whose upload is cut short never reads why."""
    async for _ in request.stream():
        pass


async def _swallow(message: Message) -> None:
    await asyncio.sleep(0)
