"""A collector of OpenTelemetry on this machine: takes what comes over OTLP/HTTP and decodes it."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def plain(attributes: Any) -> dict[str, Any]:
    """Attributes as Python has them."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


@dataclass
class Collector:
    """What has come so far. `answer`: a status to answer with; None: none at all, until `released`."""

    answer: int | None = 200
    url: str = ""
    spans: list[Any] = field(default_factory=list)
    points: list[tuple[str, Any, dict[str, Any]]] = field(default_factory=list)
    """Name of the metric, the metric, attributes."""
    lines: list[Any] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def take(self, path: str, body: bytes) -> None:
        self.raw.append(body)
        if path == "/v1/traces":
            for of in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(plain(of.resource.attributes))
                self.spans += [span for scope in of.scope_spans for span in scope.spans]
        elif path == "/v1/metrics":
            for of in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for metric in [m for scope in of.scope_metrics for m in scope.metrics]:
                    data = getattr(metric, metric.WhichOneof("data"))
                    self.points += [(metric.name, (metric, data, p), plain(p.attributes)) for p in data.data_points]
        elif path == "/v1/logs":
            for of in ExportLogsServiceRequest.FromString(body).resource_logs:
                self.lines += [line for scope in of.scope_logs for line in scope.log_records]

    def span(self, name: str, **attributes: Any) -> Any:
        """The one span with this name and these attributes (`_` for `.`)."""
        [found] = [s for s in self.spans if s.name == name and attributes.items() <= plain(s.attributes).items()]
        return found

    def total(self, metric: str, **attributes: Any) -> int:
        """Sum of a counter's points with these attributes, dots and `seqsync.` left out."""
        wanted = {f"seqsync.{name}": value for name, value in attributes.items()}
        return sum(p[2].as_int for name, p, has in self.points if name == metric and wanted.items() <= has.items())


@contextmanager
def collector(answer: int | None = 200) -> Iterator[Collector]:
    """One that runs, on a free port."""
    made = Collector(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            made.headers.append(dict(self.headers))
            if made.answer is None:
                made.released.wait(60)
                self.close_connection = True
                return
            if made.answer == 200:
                made.take(self.path, body)
            self.send_response(made.answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
