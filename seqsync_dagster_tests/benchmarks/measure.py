"""What the benchmarks share: a clock and a table for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


def seconds(act: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An aligned text table."""
    cells = [list(head), *[[f"{c:.2f}" if isinstance(c, float) else str(c) for c in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
             for row in cells]  # fmt: skip
    return "\n".join([f"\n{title}", lines[0], "-" * len(lines[0]), *lines[1:]])
