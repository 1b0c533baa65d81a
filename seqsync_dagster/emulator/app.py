"""The HTTP face: which path does what."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from seqsync_dagster.emulator import admin, bulk, jobs, oauth, rest, wire
from seqsync_dagster.emulator.errors import ApiError, not_found
from seqsync_dagster.emulator.faults import CALL_FAULTS, Controls
from seqsync_dagster.emulator.recordtypes import record_type_infos
from seqsync_dagster.emulator.schema import OBJECTS, find_object
from seqsync_dagster.emulator.soql import Query
from seqsync_dagster.emulator.store import INTEGRATION_USER, Store
from seqsync_dagster.emulator.worker import Worker

_VERSIONS = [f"{n}.0" for n in range(50, 68)]
_DATA = re.compile(r"/services/data(/v\d{2}\.0)?(/.*)?")
_URI_LIMIT = 16_384
_UNZIPPED = 2000
DISCONNECT = "emulator.disconnect"


def _unavailable() -> ApiError:
    return ApiError(503, "SERVER_UNAVAILABLE", "The server is temporarily unavailable. Try again later.")


class Emulator:
    """The ASGI application: the org behind its routes."""

    def __init__(self, store: Store, base_url: str, client_id: str, client_secret: str, api_limit: int) -> None:
        self.store, self.base_url = store, base_url
        self.client_id, self.client_secret = client_id, client_secret
        self.controls = Controls(int(store.setting("api_calls") or 0), api_limit)
        self.worker = Worker(store, self.controls)
        self.cursors: dict[str, Query] = {}
        v, handle = "/services/data/{version}", self.handle
        routes = [
            *admin.routes(self),
            Route("/services/oauth2/token", handle(self.token), methods=["POST"]),
            Route("/services/oauth2/userinfo", handle(self.userinfo), methods=["GET", "POST"]),
            Route("/services/data", handle(self.versions)),
            Route(v, handle(self.resources)),
            Route(v + "/limits", handle(self.limits)),
            Route(v + "/limits/recordCount", handle(self.record_count)),
            Route(v + "/sobjects", handle(self.sobjects)),
            Route(v + "/sobjects/{object}", handle(self.sobject)),
            Route(v + "/sobjects/{object}/describe", handle(self.describe)),
            *rest.routes(self),
            *jobs.routes(self),
        ]
        self._router = GZipMiddleware(Router(routes, redirect_slashes=False), _UNZIPPED, compresslevel=1)

    # -- before and after every call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        path = scope["path"].rstrip("/") or "/"
        # With an "app" in its scope the router raises what it cannot serve, instead of answering in plain text.
        scope = {**scope, "path": path, "raw_path": path.encode(), "app": self}
        if (b"content-encoding", b"gzip") in scope["headers"]:
            receive = wire.unzipped(receive)
        request = Request(scope, receive)

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start" and path.startswith("/services/"):
                usage = f"api-usage={self.controls.api_calls}/{self.controls.settings.api_limit}"
                message["headers"] = [*message["headers"], (b"sforce-limit-info", usage.encode())]
            await send(message)

        drop = scope.get("state", {}).get(DISCONNECT)
        fault = ""
        try:
            if path.startswith("/services/"):
                self.controls.count(request.method, path)
                struck = self.controls.strikes(CALL_FAULTS, path, request.method)
                fault = struck.kind if struck else ""
                if fault == "reset_before":
                    drop()
                    return
                try:
                    self._admit(request, path, fault)
                except ApiError:
                    await wire.drain(request)
                    raise
            if self.controls.settings.rows_call_s and "/composite/" in path:
                await asyncio.sleep(self.controls.settings.rows_call_s)
            if fault == "page":
                await wire.drain(request)
                await HTMLResponse("<html><title>Sign in to the network</title></html>")(scope, receive, send)
                return
            if fault == "cut":
                await self._router(scope, receive, wire.cut_short(send, drop))
                return
            if fault in ("reset_after", "503_after", "silent"):
                with suppress(ApiError, HTTPException):
                    await self._router(scope, receive, wire.swallow)
                if fault == "503_after":
                    raise _unavailable()
                if fault == "silent":
                    await wire.hung_up(receive)
                drop()
                return
            await self._router(scope, receive, send_with_limits)
        except ClientDisconnect:
            pass
        except ApiError as error:
            await wire.as_json(request, error.body, error.status)(scope, receive, send_with_limits)
        except HTTPException as error:
            refusal = not_found()
            if error.status_code == 405:
                allowed = (error.headers or {}).get("Allow", "")
                refusal = ApiError(405, "METHOD_NOT_ALLOWED", f"HTTP Method '{request.method}' not allowed. "
                                                              f"Allowed are {allowed}")  # fmt: skip
            await wire.as_json(request, refusal.body, refusal.status)(scope, receive, send_with_limits)

    def _admit(self, request: Request, path: str, fault: str) -> None:
        size = len(str(request.url)) + sum(len(k) + len(v) + 4 for k, v in request.headers.raw)
        if size > _URI_LIMIT:
            raise ApiError(414, "URI_TOO_LONG", "The URI and the headers are longer than 16,384 bytes")
        if fault == "503":
            raise _unavailable()
        spent = self.controls.api_calls > self.controls.settings.api_limit and path.startswith("/services/data/")
        if fault == "limit" or spent:
            raise ApiError(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
        if fault == "expire":
            self.expire_tokens()
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

    def start_over(self) -> None:
        """The org as on its first day."""
        # The numbers of jobs begin again, and the worker must not take a new job for an old one.
        self.worker.stop()
        self.store.clear()
        self.cursors.clear()
        self.controls.forget()
        self.worker = Worker(self.store, self.controls)
        self.worker.start()

    def handle(self, handler: wire.Handler) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint out of a function that may wait for the disk: it gets its own thread."""

        async def endpoint(request: Request) -> Response:
            body = await request.body()
            reply = await run_in_threadpool(handler, request, body)
            return reply if isinstance(reply, Response) else wire.as_json(request, reply)

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
        if form.get("grant_type") == oauth.JWT_BEARER:
            refused = oauth.refusal(
                form.get("assertion", ""),
                client_id=self.client_id,
                certificate=self.store.setting("jwt_certificate"),
                usernames={user["Username"] for user in self.store.records(OBJECTS["User"])},
                hosts={self.base_url, f"http://{request.headers.get('host', '')}"},
            )
            if refused is not None:
                return wire.as_json(request, {"error": refused[0], "error_description": refused[1]}, 400)
            return self._new_token()
        if form.get("grant_type") != "client_credentials":
            refusal = {"error": "unsupported_grant_type", "error_description": "grant type not supported"}
            return wire.as_json(request, refusal, 400)
        if given != (self.client_id, self.client_secret):
            refusal = {"error": "invalid_client", "error_description": "invalid client credentials"}
            return wire.as_json(request, refusal, 400)
        return self._new_token()

    def _new_token(self) -> dict[str, Any]:
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

    def expire_tokens(self) -> int:
        """Every token is void from now on; how many there were."""
        with self.store.write() as db:
            return db.execute("DELETE FROM tokens").rowcount

    # -- what there is

    def versions(self, request: Request, body: bytes) -> Any:
        return [{"label": f"Release {n}", "url": f"/services/data/v{n}", "version": n} for n in _VERSIONS]

    def resources(self, request: Request, body: bytes) -> Any:
        here = f"/services/data/{request.path_params['version']}"
        names = ("sobjects", "query", "limits", "composite", "jobs")
        return {**{name: f"{here}/{name}" for name in names}, "identity": self._identity()}

    def limits(self, request: Request, body: bytes) -> Any:
        settings, used = self.controls.settings, bulk.used_today(self.store)
        allowed = {
            "DailyApiRequests": (settings.api_limit, self.controls.api_calls),
            "DailyBulkApiBatches": (settings.bulk_batches_limit, used.batches),
            "DailyBulkV2QueryJobs": (10_000, used.queries),
        }
        return {name: {"Max": most, "Remaining": max(0, most - spent)} for name, (most, spent) in allowed.items()}

    def record_count(self, request: Request, body: bytes) -> Any:
        asked = [find_object(name) for name in request.query_params.get("sObjects", "").split(",") if name]
        counts = [{"count": self.store.count(obj), "name": obj.name} for obj in asked or OBJECTS.values() if obj]
        return {"sObjects": [c for c in counts if c["count"]]}

    def sobjects(self, request: Request, body: bytes) -> Any:
        return {"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": [o.describe() for o in OBJECTS.values()]}

    def sobject(self, request: Request, body: bytes) -> Any:
        return {"objectDescribe": wire.asked_object(request).describe(), "recentItems": []}

    def describe(self, request: Request, body: bytes) -> Any:
        obj, version = wire.asked_object(request), request.path_params["version"]
        return {**obj.describe_fully(), "recordTypeInfos": record_type_infos(self.store, obj, version)}
