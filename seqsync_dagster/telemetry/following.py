"""Follows one step of a run with OpenTelemetry: its spans, its counts, its lines. Imports OpenTelemetry."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from opentelemetry._logs import Logger, LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from seqsync_dagster.engine.report import SyncReport
from seqsync_dagster.engine.telling import BatchDone, PlanReady, StepBegan, StepEnded, Told
from seqsync_dagster.sequence.words import FINISH, sync_of_step
from seqsync_dagster.telemetry.counting import Instruments, Report, counts
from seqsync_dagster.telemetry.environment import Signal
from seqsync_dagster.telemetry.identity import Identity
from seqsync_dagster.telemetry.outlets import SCOPE, Outlets, open_outlets, package_version

_NS = 1_000_000_000

_SEVERITIES = (
    (50, "FATAL", SeverityNumber.FATAL),
    (40, "ERROR", SeverityNumber.ERROR),
    (30, "WARN", SeverityNumber.WARN),
    (20, "INFO", SeverityNumber.INFO),
    (0, "DEBUG", SeverityNumber.DEBUG),
)


@dataclass(frozen=True)
class Followed:
    """What is followed."""

    sequence: str
    name: str
    """Of the sync, ``finish``, or ``<sync>.drift``."""
    run_id: str
    job: str

    @property
    def sync(self) -> str:
        """Of the sync, or ``finish``."""
        return sync_of_step(self.name)

    @property
    def title(self) -> str:
        """Of the span."""
        if self.sync != self.name:
            return f"drift {self.sync}"
        return self.name if self.name == FINISH else f"sync {self.name}"


class Follower:
    """One step of a run, from its beginning to `deliver`."""

    def __init__(
        self, followed: Followed, identity: Identity, environ: Mapping[str, str], signals: frozenset[Signal]
    ) -> None:
        self.followed, self.identity = followed, identity
        self.outlets: Outlets = open_outlets(environ, signals, identity.trace_id)
        self._common = {"seqsync.sequence": followed.sequence, "seqsync.sync": followed.sync}
        self._run = {"dagster.run.id": followed.run_id, "dagster.job.name": followed.job}
        self._began = time.monotonic()
        version = package_version()
        self._tracer: Tracer | None = None
        self._span: Span | None = None
        self._step: Span | None = None
        self._logger: Logger | None = None
        self._instruments: Instruments | None = None
        if self.outlets.metrics is not None:
            self._instruments = Instruments(self.outlets.metrics.get_meter(SCOPE, version))
        if self.outlets.logs is not None:
            self._logger = self.outlets.logs.get_logger(SCOPE, version)
        self._context = set_span_in_context(NonRecordingSpan(self._root(sampled=True)), Context())
        if self.outlets.traces is not None:
            self._tracer = self.outlets.traces.get_tracer(SCOPE, version)
            root = NonRecordingSpan(self._root(sampled=self._sampled()))
            under = set_span_in_context(root, Context())
            self._span = self._tracer.start_span(followed.title, under, attributes={**self._common, **self._run})
            self._context = set_span_in_context(self._span, Context())

    def told(self, told: Told) -> None:
        """Something that the run tells meanwhile."""
        match told:
            case StepBegan():
                self._step = self._start(told.step, {"seqsync.sync": told.sync, "seqsync.step": told.step})
            case StepEnded():
                self._step_ended(told)
            case PlanReady():
                self._plan_ready(told)
            case BatchDone():
                self._batch_done(told)

    def line(self, text: str, level: int, event: str | None = None) -> None:
        """A line of the run's log; `level` as in Python's logging."""
        if self._logger is None:
            return
        name, number = next((name, number) for least, name, number in _SEVERITIES if level >= least)
        context = self._context if self._step is None else set_span_in_context(self._step, Context())
        now = time.time_ns()
        self._logger.emit(
            LogRecord(
                timestamp=now,
                observed_timestamp=now,
                context=context,
                severity_text=name,
                severity_number=number,
                body=text,
                attributes={**self._common, **self._run},
                event_name=event,
            )
        )

    def ended(self, how: str, text: str, error: str | None, report: Report | None) -> None:
        """The step's last word. `error`: name of its class."""
        failed = how in ("failed", "cancelled")
        outcome = {"seqsync.outcome": how, **({"error.type": error} if error else {})}
        if failed or how == "refused":
            self.line(text, 40 if failed else 30)
        if self._instruments is not None:
            self._instruments.sync_s.record(time.monotonic() - self._began, {**self._common, **outcome})
            if report is not None:
                self._instruments.count(report, self._common)
        self._end_step()
        if self._span is not None:
            self._span.set_attributes(outcome)
            if report is not None:
                self._span.set_attributes({f"seqsync.{name}": n for name, n in counts(report).items()})
            if isinstance(report, SyncReport):
                self._span.set_attributes(
                    {"seqsync.plan.id": report.plan_id, "seqsync.destination": report.destination}
                )
            if failed:
                self._span.set_status(Status(StatusCode.ERROR, text))
            self._span.end()

    def end_sequence(self, started_at: float, how: str, *, failed: bool) -> None:
        """Tell of the sequence as a whole: the span above its syncs. To be called by one step of a run.

        `started_at`: when the run did, as seconds since 1970.
        """
        attributes: dict[str, AttributeValue] = {"seqsync.sequence": self.followed.sequence, "seqsync.outcome": how}
        if self._instruments is not None:
            self._instruments.sequence_s.record(max(0.0, time.time() - started_at), dict(attributes))
        if self._tracer is None:
            return
        self.outlets.ids.next_span_id = self.identity.root_id
        span = self._tracer.start_span(
            f"sequence {self.followed.sequence}",
            self._above(),
            attributes={**attributes, **self._run},
            start_time=int(started_at * _NS),
        )
        if failed:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def deliver(self) -> Mapping[Signal, str]:
        """Send what is left, and stop. Returns what went wrong, by signal."""
        return self.outlets.deliver()

    def _root(self, *, sampled: bool) -> SpanContext:
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return SpanContext(self.identity.trace_id, self.identity.root_id, is_remote=True, trace_flags=flags)

    def _above(self) -> Context:
        """What the sequence's own span stands under."""
        caller = self.identity.caller
        if caller is None:
            return Context()
        flags = TraceFlags(TraceFlags.SAMPLED if caller.sampled else TraceFlags.DEFAULT)
        above = SpanContext(caller.trace_id, caller.span_id, is_remote=True, trace_flags=flags)
        return set_span_in_context(NonRecordingSpan(above), Context())

    def _sampled(self) -> bool:
        """What the sampler says of the sequence's span: it need not be there yet, and its syncs follow it."""
        assert self.outlets.traces is not None
        decided = self.outlets.traces.sampler.should_sample(
            self._above(), self.identity.trace_id, f"sequence {self.followed.sequence}"
        )
        return decided.decision is Decision.RECORD_AND_SAMPLE

    def _start(self, name: str, more: Mapping[str, AttributeValue], start: int | None = None) -> Span | None:
        if self._tracer is None:
            return None
        under = self._context if self._step is None else set_span_in_context(self._step, Context())
        return self._tracer.start_span(name, under, attributes={**self._common, **more}, start_time=start)

    def _step_ended(self, told: StepEnded) -> None:
        if self._instruments is not None:
            attributes = {**self._common, "seqsync.sync": told.sync, "seqsync.step": told.step}
            failed = {"error.type": told.error} if told.error else {}
            self._instruments.step_s.record(told.seconds, {**attributes, **failed})
        self._end_step(told.error)

    def _end_step(self, error: str | None = None) -> None:
        if self._step is not None:
            if error is not None:
                self._step.set_attribute("error.type", error)
                self._step.set_status(Status(StatusCode.ERROR, error))
            self._step.end()
            self._step = None

    def _plan_ready(self, told: PlanReady) -> None:
        if self._span is None:
            return
        c = told.counts
        attributes: dict[str, AttributeValue] = {"seqsync.plan.id": told.plan_id, "seqsync.model": c.model}
        attributes |= {"seqsync.planned": c.planned, "seqsync.held": c.held, "seqsync.invalid": c.invalid}
        attributes |= {"seqsync.unchanged": c.unchanged, "seqsync.removals_due": c.removals_due}
        if told.resync_reason:
            attributes["seqsync.resync_reason"] = told.resync_reason
        self._span.add_event("plan ready", attributes)
        self._span.set_attribute("seqsync.plan.id", told.plan_id)

    def _batch_done(self, told: BatchDone) -> None:
        now = time.time_ns()
        span = self._start(
            "batch",
            {
                "seqsync.sync": told.sync,
                "seqsync.operation": told.operation,
                "seqsync.level": told.level,
                "seqsync.rows": told.rows,
                "seqsync.rejected": told.rejected,
                "seqsync.done": told.done,
                "seqsync.total": told.total,
            },
            start=now - int(told.seconds * _NS),
        )
        if span is not None:
            span.end(now)
