"""One row on its way into the org."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from seqsync_dagster.emulator.errors import RowError
from seqsync_dagster.emulator.schema import Column


@dataclass(slots=True)
class Row:
    """One row to write, and what became of it. A cell of None sets its field to null."""

    cells: list[tuple[Column, Any]]
    record: int | None = None
    created: bool = False
    error: RowError | None = None
    values: dict[str, Any] = field(default_factory=dict)
    parents: list[tuple[Column, str]] = field(default_factory=list)
