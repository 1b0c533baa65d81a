"""Bulk API 2.0 on the wire: ingest jobs and query jobs (Bulk API 2.0 guide, "Bulk API 2.0 Reference")."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from seqsync_dagster.emulator import bulk
from seqsync_dagster.emulator.errors import ApiError, not_found
from seqsync_dagster.emulator.wire import drain, loads

if TYPE_CHECKING:
    from seqsync_dagster.emulator.app import Emulator

_MULTIPART_CHARS = 100_000
_EXTRACT_ROWS = 100_000


def routes(emulator: Emulator) -> list[Route]:
    """What is below /jobs."""
    v = "/services/data/{version}/jobs"
    job = v + "/{kind}/{job}"

    def at(path: str, handler: Any, method: str = "GET") -> Route:
        return Route(path, emulator.handle(partial(handler, emulator)), methods=[method])

    return [
        at(v + "/{kind}", _create, "POST"),
        at(v + "/{kind}", _list),
        at(job, _get),
        at(job, _patch, "PATCH"),
        at(job, _delete, "DELETE"),
        Route(v + "/ingest/{job}/batches", partial(_upload, emulator), methods=["PUT"]),
        at(v + "/query/{job}/results", _extract),
        at(v + "/ingest/{job}/{part}", _results),
    ]


def _job(emulator: Emulator, request: Request) -> bulk.Job:
    kind = request.path_params.get("kind") or request.url.path.split("/jobs/")[1].split("/")[0]
    return bulk.load(emulator.store, request.path_params["job"], kind, emulator.controls.settings.results_age_s)


def _create(emulator: Emulator, request: Request, body: bytes) -> Any:
    version, store = float(request.path_params["version"][1:]), emulator.store
    kind, content_type = request.path_params["kind"], request.headers.get("content-type", "")
    if kind == "query":
        job = bulk.create_query(store, version, loads(body))
    elif kind != "ingest":
        raise not_found()
    elif content_type.startswith("multipart/form-data"):
        parts = _multipart(content_type, body)
        content = parts.get("content", b"")
        if len(content.decode(errors="replace")) > _MULTIPART_CHARS:
            raise ApiError(400, "INVALIDJOB", "InvalidJob : the content is longer than 100,000 characters")
        job = bulk.create(store, version, loads(parts.get("job", b"")), content)
    else:
        job = bulk.create(store, version, loads(body))
    emulator.worker.wake()
    return bulk.as_json(store, job, "create")


def _multipart(content_type: str, body: bytes) -> dict[str, bytes]:
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    found: dict[str, bytes] = {}
    for part in body.split(b"--" + boundary[1].encode())[1:] if boundary else ():
        # A part may be written with either line ending; what it says must not be touched.
        split = re.fullmatch(rb"\r?\n(.*?)\r?\n\r?\n(.*?)\r?\n?", part, re.DOTALL)
        name = re.search(rb'name="([^"]*)"', split[1]) if split else None
        if split and name:
            found[name[1].decode()] = split[2]
    return found


def _list(emulator: Emulator, request: Request, body: bytes) -> Any:
    store, kind = emulator.store, request.path_params["kind"]
    jobs = [job for job in bulk.jobs_in(store) if (job.soql is None) == (kind == "ingest")]
    return {"done": True, "nextRecordsUrl": None, "records": [bulk.as_json(store, j, "list") for j in jobs[-1000:]]}


def _get(emulator: Emulator, request: Request, body: bytes) -> Any:
    return bulk.as_json(emulator.store, _job(emulator, request), "get")


def _patch(emulator: Emulator, request: Request, body: bytes) -> Any:
    asked = loads(body)
    wanted = asked.get("state") if isinstance(asked, dict) else None
    job = bulk.change_state(emulator.store, _job(emulator, request), wanted)
    emulator.worker.wake()
    return bulk.as_json(emulator.store, job, "patch")


def _delete(emulator: Emulator, request: Request, body: bytes) -> Any:
    bulk.delete(emulator.store, _job(emulator, request))
    return Response(status_code=204)


async def _upload(emulator: Emulator, request: Request) -> Response:
    store = emulator.store
    try:
        job = await run_in_threadpool(_job, emulator, request)
        bulk.check_uploadable(store, job)
    except ApiError:
        await drain(request)
        raise
    received = store.uploads / f"{job.n}.{secrets.token_hex(4)}.part"
    try:
        await _receive(request, received, emulator.controls.settings.upload_limit)
        await run_in_threadpool(bulk.set_uploaded, store, job, received)
    finally:
        received.unlink(missing_ok=True)
    return Response(status_code=201)


async def _receive(request: Request, path: Path, limit: int) -> None:
    size = 0
    with path.open("wb") as out:
        async for chunk in request.stream():
            size += len(chunk)
            # Salesforce measures after it has turned the content into base64 ("Upload Job Data").
            if size * 4 // 3 <= limit:
                out.write(chunk)
    if size * 4 // 3 > limit:
        message = f"ClientInputError : the content is larger than {limit // 1_000_000} MB once it is base64"
        raise ApiError(413, "CLIENTINPUTERROR", message)


def _results(emulator: Emulator, request: Request, body: bytes) -> Any:
    store = emulator.store
    parts: dict[str, Callable[[bulk.Job], Iterator[bytes]]] = {
        "successfulresults": lambda job: bulk.results(store, job, "succeeded"),
        "failedresults": lambda job: bulk.results(store, job, "failed"),
        "unprocessedrecords": lambda job: bulk.unprocessed(store, job),
    }
    # The guide writes the third in lower case; some clients do not.
    part = parts.get(request.path_params["part"].lower())
    if part is None:
        raise not_found()
    # Salesforce names no charset here, and clients that guess one guess wrong.
    return StreamingResponse(part(_job(emulator, request)), headers={"content-type": "text/csv"})


def _extract(emulator: Emulator, request: Request, body: bytes) -> Any:
    job, asked = _job(emulator, request), request.query_params
    if job.state != "JobComplete":
        raise bulk.invalid_state(f"Results of a job in state {job.state} are not available")
    start = int(asked["locator"]) if asked.get("locator", "").isdigit() else 0
    most = int(asked["maxRecords"]) if asked.get("maxRecords", "").isdigit() else _EXTRACT_ROWS
    text, count = bulk.extract(emulator.store, job, start, max(1, most))
    more = start + count < job.processed
    headers = {
        "content-type": "text/csv", "sforce-numberofrecords": str(count),
        "sforce-locator": str(start + count) if more else "null",
    }  # fmt: skip
    return Response(text, headers=headers)
