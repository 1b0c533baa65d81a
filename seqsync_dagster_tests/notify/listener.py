"""An HTTP server that alerts are sent to: it keeps what it gets, and answers as it is told."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Got:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)


class Listener:
    """What has arrived, and how the next requests are answered."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.apprise = f"json://127.0.0.1:{port}"
        self.got: list[Got] = []
        self.status = 200
        #: Answers wait while it is cleared.
        self.answers = threading.Event()
        self.answers.set()

    @property
    def titles(self) -> list[str]:
        """Titles of the messages for people, in their order."""
        return [got.json["title"] for got in self.got if "message" in got.json]

    @property
    def messages(self) -> list[str]:
        """Their texts."""
        return [got.json["message"] for got in self.got if "message" in got.json]

    @property
    def events(self) -> list[Any]:
        """The messages for machines."""
        return [got.json for got in self.got if "type" in got.json and "version" in got.json and "id" in got.json]


@contextmanager
def listening() -> Iterator[Listener]:
    """A server on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.got.append(Got(self.path, dict(self.headers), body))
            made.answers.wait(30)
            self.send_response(made.status)
            self.send_header("Content-Length", "0")
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Listener(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.answers.set()
        server.shutdown()
        server.server_close()


def nobody() -> int:
    """A port at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
