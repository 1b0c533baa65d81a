"""Bodies and replies as they are on the wire, for every route of the emulator."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import Any

import simplejson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Send

from seqsync_dagster.emulator.errors import ApiError, not_found
from seqsync_dagster.emulator.schema import SObject, find_object

#: What answers a call: a JSON payload, or a whole response.
Handler = Callable[[Request, bytes], Any]


def as_json(request: Request, payload: Any, status: int = 200) -> Response:
    """A JSON reply; `X-PrettyPrint: 1` asks for one with spaces in it."""
    pretty = request.headers.get("x-prettyprint") == "1"
    separators = (",", " : ") if pretty else (",", ":")
    text = simplejson.dumps(
        payload, use_decimal=True, ensure_ascii=False, indent="  " if pretty else None, separators=separators
    )
    return Response(text.encode(), status, media_type="application/json")


def loads(body: bytes) -> Any:
    """The JSON of a request, decimals exact."""
    try:
        return simplejson.loads(body, use_decimal=True)
    except ValueError as error:
        raise ApiError(400, "JSON_PARSER_ERROR", f"Unexpected content: {error}") from None


def asked_object(request: Request) -> SObject:
    """The object named in the path, or 404."""
    found = find_object(request.path_params["object"])
    if found is None:
        raise not_found()
    return found


def unzipped(receive: Receive) -> Receive:
    """What a request with `Content-Encoding: gzip` says (REST API guide, "Use Compression")."""
    inflate = zlib.decompressobj(31)

    async def receive_plain() -> Message:
        message = await receive()
        if message["type"] != "http.request":
            return message
        try:
            body = inflate.decompress(message.get("body", b""))
        except zlib.error as error:
            raise ApiError(400, "MALFORMED_REQUEST", f"The body is not gzip: {error}") from None
        return {**message, "body": body}

    return receive_plain


async def drain(request: Request) -> None:
    """Take in what is still coming: a client whose upload is cut short never reads why."""
    async for _ in request.stream():
        pass


def cut_short(send: Send, drop: Callable[[], None]) -> Send:
    """Half of a reply, then the connection is gone."""

    async def send_half(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            return
        body = message.get("body", b"")
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        drop()

    return send_half


async def hung_up(receive: Receive) -> None:
    """Wait until the caller has given up."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def swallow(message: Message) -> None:
    """A reply that never reaches anyone."""
    await asyncio.sleep(0)
