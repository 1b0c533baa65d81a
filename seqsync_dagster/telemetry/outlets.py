"""The SDK's providers, our own and never the process's, and their way to the collector. Imports OpenTelemetry."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from seqsync_dagster.telemetry.environment import (
    PATIENCE_S,
    Signal,
    address,
    brings_own_session,
    prefers_temporality,
    timeout,
)

SCOPE = "seqsync_dagster"

#: A collector that did not answer is left alone so long: many short steps must not wait for it one after the other.
PAUSE_S = 120.0

_paused: dict[tuple[Signal, str], float] = {}
_SENDING = threading.local()
_QUIETED = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.metrics._internal.export",
)


class _NotOurs(logging.Filter):
    """Lets pass what other users of the SDK in this process have to say; our troubles go into the run's log, once."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(_SENDING, "ours", False)


_NOT_OURS = _NotOurs()


class _Post(requests.Session):
    """Remembers how the last request went."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: str | None = None
        # So that the first one that goes wrong is quiet, too.
        for name in _QUIETED:
            logging.getLogger(name).addFilter(_NOT_OURS)

    def request(self, *args: Any, **options: Any) -> requests.Response:
        # The SDK's threads work for one provider each: what they log from now on is about ours.
        _SENDING.ours = True
        try:
            response = super().request(*args, **options)
        except requests.Timeout:
            self.trouble = "no answer in time"
            raise
        except requests.ConnectionError:
            self.trouble = "no connection"
            raise
        except Exception as error:
            # Not its text: an address may hold a secret.
            self.trouble = type(error).__name__
            raise
        self.trouble = None if response.ok else f"HTTP {response.status_code}"
        return response


class _Ids(RandomIdGenerator):
    """Random ids, but for the one span whose id every process knows."""

    def __init__(self, trace_id: int) -> None:
        self.trace_id = trace_id
        self.next_span_id: int | None = None

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        given, self.next_span_id = self.next_span_id, None
        return given if given is not None else super().generate_span_id()


@dataclass
class Outlets:
    """One step's ways out; those that nobody wants are None."""

    ids: _Ids
    addresses: Mapping[Signal, str]
    traces: TracerProvider | None = None
    metrics: MeterProvider | None = None
    logs: LoggerProvider | None = None
    _posts: dict[Signal, _Post] = field(default_factory=dict)

    def deliver(self) -> Mapping[Signal, str]:
        """Send what is left and close, within `PATIENCE_S` in all. Returns what went wrong, by signal."""
        shutdowns: dict[Signal, Callable[[], object] | None] = {
            "traces": self.traces.shutdown if self.traces else None,
            "metrics": self._flush_metrics if self.metrics else None,
            "logs": self.logs.shutdown if self.logs else None,
        }
        # Threads of our own: the SDK knows no time limit when it flushes. What has not ended by then ends by itself.
        threads = {
            s: threading.Thread(target=_quietly, args=(end,), daemon=True) for s, end in shutdowns.items() if end
        }
        for thread in threads.values():
            thread.start()
        deadline = time.monotonic() + PATIENCE_S
        for thread in threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        troubles: dict[Signal, str] = {}
        for signal, thread in threads.items():
            post = self._posts.get(signal)
            if trouble := (post.trouble if post else None) or ("no answer in time" if thread.is_alive() else None):
                troubles[signal] = f"{self.addresses[signal]}: {trouble}"
                _paused[signal, self.addresses[signal]] = time.monotonic() + PAUSE_S
        return troubles

    def _flush_metrics(self) -> None:
        assert self.metrics is not None
        self.metrics.force_flush()
        self.metrics.shutdown()


def open_outlets(environ: Mapping[str, str], signals: frozenset[Signal], trace_id: int) -> Outlets:
    """Providers for `signals`. Sends nothing yet; nothing of the process's own OpenTelemetry is touched."""
    resource = _resource()
    addresses = {signal: address(environ, signal) for signal in signals}
    outlets = Outlets(_Ids(trace_id), addresses)
    signals = frozenset(s for s in signals if _paused.get((s, addresses[s]), 0.0) <= time.monotonic())

    def post(signal: Signal) -> _Post | None:
        return None if brings_own_session(environ, signal) else outlets._posts.setdefault(signal, _Post())

    if "traces" in signals:
        outlets.traces = TracerProvider(resource=resource, shutdown_on_exit=False, id_generator=outlets.ids)
        spans = OTLPSpanExporter(session=post("traces"), timeout=timeout(environ, "traces"))
        outlets.traces.add_span_processor(BatchSpanProcessor(spans))
    if "metrics" in signals:
        # A step's process may be gone the next minute: a total of it would be one that never grows.
        deltas: dict[type, AggregationTemporality] = dict.fromkeys((Counter, Histogram), AggregationTemporality.DELTA)
        points = OTLPMetricExporter(
            session=post("metrics"),
            timeout=timeout(environ, "metrics"),
            preferred_temporality=None if prefers_temporality(environ) else deltas,
        )
        reader = PeriodicExportingMetricReader(points, export_interval_millis=math.inf)
        outlets.metrics = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    if "logs" in signals:
        outlets.logs = LoggerProvider(resource=resource, shutdown_on_exit=False)
        lines = OTLPLogExporter(session=post("logs"), timeout=timeout(environ, "logs"))
        outlets.logs.add_log_record_processor(BatchLogRecordProcessor(lines))
    return outlets


def _quietly(end: Callable[[], object]) -> None:
    _SENDING.ours = True
    end()


def _resource() -> Resource:
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "seqsync"}))
    return resource


def package_version() -> str | None:
    """Of this package; None where it runs from its sources."""
    try:
        return version("seqsync_dagster")
    except PackageNotFoundError:
        return None
