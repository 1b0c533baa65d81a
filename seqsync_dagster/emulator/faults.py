"""What tests switch on and read back: faults, the speed of Bulk jobs, and the calls that were made."""

from __future__ import annotations

import re
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

KINDS = ("503", "401", "reset_before", "reset_after", "lock")
_VERSION = re.compile(r"/v\d+\.\d+(?=/|$)")
_ID = re.compile(r"/(?=[^/]*\d)[A-Za-z0-9]{3}[A-Za-z0-9]{12,15}(-\d+)?(?=/|$)")


@dataclass(slots=True)
class Fault:
    """`kind` strikes `times` times, where the path (for "lock": `path object`) contains `path_contains`."""

    kind: str
    path_contains: str
    times: int


@dataclass(slots=True)
class BulkSpeed:
    """A pause before a job begins, and a ceiling on its rows per second."""

    delay_s: float = 0.0
    rows_per_s: int | None = None


class Controls:
    """The switches of one running emulator, shared by its threads."""

    def __init__(self, api_calls: int, api_limit: int) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self.speed = BulkSpeed()
        self.api_calls, self.api_limit = api_calls, api_limit
        self.calls: Counter[str] = Counter()
        self.row_bearing = 0

    def add(self, kind: str, path_contains: str, times: int) -> None:
        if kind not in KINDS:
            raise ValueError(f"no fault {kind!r}; there are {', '.join(KINDS)}")
        with self._lock:
            self._faults.append(Fault(kind, path_contains, times))

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def strikes(self, kinds: tuple[str, ...], path: str) -> str | None:
        """The fault that hits this path now, if one does; it is used up by one."""
        if not self._faults:
            return None
        with self._lock:
            for fault in self._faults:
                if fault.kind in kinds and fault.path_contains in path:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._faults.remove(fault)
                    return fault.kind
        return None

    def lock_hits(self, path: str) -> bool:
        """Whether the next row of this path finds its record locked."""
        return self.strikes(("lock",), path) is not None

    def count(self, method: str, path: str) -> None:
        normalised = _ID.sub("/{id}", _VERSION.sub("/vN", path))
        writes = method in ("POST", "PATCH", "DELETE") and "/composite/" in path
        with self._lock:
            # Signing in is not charged to the daily allocation.
            self.api_calls += path.startswith("/services/data/")
            self.calls[f"{method} {normalised}"] += 1
            self.row_bearing += writes or (method == "PUT" and path.endswith("/batches"))

    def reset(self) -> None:
        with self._lock:
            self.calls.clear()
            self.row_bearing = 0

    def forget(self) -> None:
        """As at the first start."""
        with self._lock:
            self._faults.clear()
            self.speed = BulkSpeed()
            self.api_calls = self.row_bearing = 0
            self.calls.clear()

    def report(self) -> dict[str, Any]:
        with self._lock:
            return {"calls": dict(self.calls), "total": self.calls.total(), "row_bearing": self.row_bearing}
