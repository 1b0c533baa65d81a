"""How the steps of a run, each maybe a process of its own, find into the same trace: its ids follow from the run's."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True)
class Caller:
    """The span of whoever started the run."""

    trace_id: int
    span_id: int
    sampled: bool


@dataclass(frozen=True)
class Identity:
    """Where the spans of one sequence in one run belong."""

    trace_id: int
    root_id: int
    """Span of the sequence."""
    caller: Caller | None = None

    @property
    def trace(self) -> str:
        """The trace's id as it is shown."""
        return f"{self.trace_id:032x}"


def identity(run_id: str, sequence: str, caller: Caller | None = None) -> Identity:
    """The same for every step of the run, wherever it runs."""
    trace_id = caller.trace_id if caller is not None else _digest(run_id, 16)
    return Identity(trace_id, _digest(f"{run_id} {sequence}", 8), caller)


def caller(traceparent: str | None) -> Caller | None:
    """Who started the run, from a `traceparent` as W3C writes it; None when it is not one."""
    found = _TRACEPARENT.fullmatch((traceparent or "").strip())
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.group(1, 2, 3))
    return Caller(trace_id, span_id, bool(flags & 1)) if trace_id and span_id else None


def _digest(text: str, size: int) -> int:
    # Zero is no id.
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big") or 1
