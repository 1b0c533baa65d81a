"""OpenTelemetry follows the steps of a sequence, where the environment asks for it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from seqsync_dagster.components.outcome import OUTCOME
from seqsync_dagster.components.private import is_event
from seqsync_dagster.components.watching import Beginning, Ending, Watcher
from seqsync_dagster.errors import LeaseLost, PlanOutdated, SequenceStopped, Unfulfillable
from seqsync_dagster.telemetry.environment import Signal, wanted
from seqsync_dagster.telemetry.identity import caller, identity

if TYPE_CHECKING:
    from seqsync_dagster.engine.telling import Told
    from seqsync_dagster.telemetry.following import Follower

#: Run tag with the trace's id, set by the step that tells of the sequence as a whole; a dot and the sequence follow.
TRACE = "seqsync/trace_id"
#: Run tag: something about telemetry was said in the run's log already.
SAID = "seqsync/telemetry"
#: Run tag that whoever starts a run may give it: the span to stand under, as W3C writes it.
TRACEPARENT = "traceparent"


def trace(beginning: Beginning) -> Watcher | None:
    """Follow a step; None where the environment names no endpoint."""
    asked = wanted(os.environ)
    for remark in asked.remarks:
        _say_once(beginning, f"OpenTelemetry: {remark}. Nothing of it is sent.")
    if not asked.signals:
        return None
    try:
        from seqsync_dagster.telemetry.following import Followed, Follower
    except ImportError:
        _say_once(
            beginning,
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed: nothing is sent there. "
            "pip install 'seqsync_dagster[telemetry]'",
        )
        return None
    sequence, run_id = beginning.sequence.name, beginning.run_id
    # The tag first: the environment is that of a process, which may start many runs.
    above = caller(beginning.context.run.tags.get(TRACEPARENT)) or caller(os.environ.get("TRACEPARENT"))
    followed = Followed(sequence, beginning.name, run_id, beginning.job)
    try:
        follower = Follower(followed, identity(run_id, sequence, above), os.environ, asked.signals)
    except Exception as error:
        # Not its text: it may quote the environment.
        _say_once(beginning, f"OpenTelemetry cannot be used as the environment sets it up: {type(error).__name__}.")
        return None
    return _Tracing(beginning, follower)


class _Tracing:
    """One step that is followed."""

    def __init__(self, beginning: Beginning, follower: Follower) -> None:
        self._beginning, self._follower = beginning, follower
        self._began = time.time()
        self._lines = _Lines(follower)
        beginning.context.log.addFilter(self._lines)

    def told(self, told: Told) -> None:
        self._follower.told(told)

    def ended(self, ending: Ending) -> None:
        self._beginning.context.log.removeFilter(self._lines)
        error = type(ending.error).__name__ if ending.error is not None else None
        try:
            self._follower.ended(ending.how, ending.text, error, ending.report)
            if _is_last(self._beginning, ending):
                self._end_sequence(ending)
        finally:
            troubles = self._follower.deliver()
        if troubles:
            listed = _listed(troubles)
            _say_once(
                self._beginning,
                f"OpenTelemetry: {', '.join(troubles)} could not be delivered ({listed}). The run goes on without. "
                f"What the collector does not take can be switched off, e.g. OTEL_{next(iter(troubles)).upper()}"
                "_EXPORTER=none.",
            )

    def _end_sequence(self, ending: Ending) -> None:
        instance, run_id = self._beginning.context.instance, self._beginning.run_id
        record = instance.get_run_record_by_id(run_id)
        tags: Mapping[str, str] = record.dagster_run.tags if record is not None else {}
        name = f"{TRACE}.{self._beginning.sequence.name}"
        if name in tags:
            return
        # Claimed before it is told: a span with this id must not be there twice.
        instance.add_run_tags(run_id, {name: self._follower.identity.trace})
        how = tags.get(OUTCOME, ending.how) if ending.how in ("success", "partial") else ending.how
        started_at = (record.start_time if record is not None else None) or self._began
        self._follower.end_sequence(started_at, how, failed=how in ("failed", "cancelled"))


class _Lines(logging.Filter):
    """Listens to the run's log, before Dagster adds to its lines, and lets everything pass."""

    def __init__(self, follower: Follower) -> None:
        super().__init__()
        self._follower = follower

    def filter(self, record: logging.LogRecord) -> bool:
        if not is_event(record):
            try:
                self._follower.line(record.getMessage(), record.levelno)
            except Exception:
                # The line itself must not be lost for it, and a line about it would come here again.
                return True
        return True


def _is_last(beginning: Beginning, ending: Ending) -> bool:
    """Whether no step of the sequence comes after this one in its run, as far as anybody can know.

    Steps beside it may go on for a while; their spans then outlast the sequence's.
    """
    # The steps below do not run.
    if ending.stops or ending.how in ("refused", "cancelled"):
        return True
    if isinstance(ending.error, SequenceStopped | LeaseLost | PlanOutdated | Unfulfillable):
        return True
    own = [name for name in _operations(beginning) if name.startswith(f"{beginning.sequence.name}__")]
    return not own or own[-1] == _operation(beginning)


def _operations(beginning: Beginning) -> Iterable[str]:
    return [node.name for node in beginning.context.job_def.nodes_in_topological_order]


def _operation(beginning: Beginning) -> str:
    return beginning.context.op_execution_context.op.name


def _say_once(beginning: Beginning, text: str) -> None:
    """A warning in the run's log, unless another step has said something of the kind."""
    instance = beginning.context.instance
    run = instance.get_run_by_id(beginning.run_id)
    if run is not None and SAID in run.tags:
        return
    instance.add_run_tags(beginning.run_id, {SAID: "see the log"})
    beginning.context.log.warning(text)


def _listed(troubles: Mapping[Signal, str]) -> str:
    return "; ".join(dict.fromkeys(troubles.values()))
