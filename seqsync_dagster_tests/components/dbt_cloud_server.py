"""A local server that answers as dbt Cloud's administrative API, as far as a trigger asks it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "dbtc_tOkEn-1"
ACCOUNT, PROJECT, ENVIRONMENT, JOB = 7, 70, 700, 12345
SUCCESS, ERROR = 10, 20


class DbtCloud:
    """What the server knows; `answer` makes it answer something else."""

    def __init__(self) -> None:
        self.url = ""
        self.runs: list[dict[str, Any]] = []
        self.answer: tuple[int, str] | None = None
        self.silent = Event()
        """Set: replies wait until it is cleared, which `released` tells."""
        self.released = Event()
        self.asked_since: list[str] = []
        """From where on each look asked for runs."""
        self._clock = datetime.now(UTC) - timedelta(hours=2)

    def end(self, status: int = SUCCESS, job: int = JOB) -> int:
        """A run of the job ends, a second after the one before; its number."""
        self._clock += timedelta(seconds=1)
        number = 1000 + len(self.runs)
        self.runs.append(
            {
                "id": number,
                "job_definition_id": job,
                "project_id": PROJECT,
                "environment_id": ENVIRONMENT,
                "status": status,
                "finished_at": str(self._clock),
            }
        )
        return number

    def reply(self, path: str, query: dict[str, str], token: str) -> tuple[int, Any]:
        if self.answer is not None:
            return self.answer
        if token != f"Token {TOKEN}":
            return 401, {"status": {"code": 401, "user_message": "Invalid token."}}
        base = f"/api/v2/accounts/{ACCOUNT}"
        if path == f"{base}/jobs/{JOB}":
            return 200, {"data": {"id": JOB, "project_id": PROJECT, "environment_id": ENVIRONMENT, "name": "nightly"}}
        if path == f"{base}/runs":
            return 200, self._page(query)
        return 404, {"status": {"code": 404, "user_message": "The requested resource wasn't found."}}

    def _page(self, query: dict[str, str]) -> Any:
        self.asked_since.append(json.loads(query["finished_at__range"])[0])
        low, high = (datetime.fromisoformat(text) for text in json.loads(query["finished_at__range"]))
        assert (query["project_id"], query["environment_id"]) == (str(PROJECT), str(ENVIRONMENT))
        assert query["order_by"] == "finished_at"
        found = [run for run in self.runs if low <= datetime.fromisoformat(run["finished_at"]) <= high]
        offset, limit = int(query["offset"]), int(query["limit"])
        return {"data": found[offset : offset + limit], "extra": {"pagination": {"total_count": len(found)}}}


@contextmanager
def serve() -> Iterator[DbtCloud]:
    """The server, on a free port."""
    cloud = DbtCloud()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if cloud.silent.is_set():
                cloud.released.wait(30)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            status, body = cloud.reply(parts.path, query, self.headers.get("Authorization", ""))
            content = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            # Whoever waited may have gone.
            with suppress(ConnectionError):
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    cloud.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield cloud
    finally:
        cloud.released.set()
        server.shutdown()
        server.server_close()
