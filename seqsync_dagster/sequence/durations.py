"""Lengths of time as people write them, `30m`, `26h`, `1h30m`, `2d`, and as they are told: `1h 30m`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_PART = re.compile(r"(\d+)\s*([smhd])")
#: Longer ones lead out of the calendar when they are added to a date.
_MOST = timedelta(days=36_500)


def as_duration(value: Any) -> timedelta:
    """The length of time that a text names. Raises `ValueError` when it names none, or one of nothing."""
    if isinstance(value, timedelta):
        return value
    text = value.strip().lower() if isinstance(value, str) else ""
    if not text or _PART.sub("", text).strip():
        raise ValueError(f"{value!r} is no length of time. Write a number with its unit: 90s, 30m, 26h, 2d, or 1h30m.")
    try:
        length = sum((timedelta(**{_UNITS[unit]: int(n)}) for n, unit in _PART.findall(text)), timedelta())
    except OverflowError:
        length = timedelta.max
    if length > _MOST:
        raise ValueError(f"{value!r} is longer than anything lasts. Write e.g. 30m or 26h.")
    if not length:
        raise ValueError(f"{value!r} is no time at all. Write e.g. 30m or 26h.")
    return length


def span(length: timedelta) -> str:
    """A length of time for people, by its two largest units: ``2d 3h``, ``12m 5s``."""
    seconds = max(0, round(length.total_seconds()))
    parts = [(seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s")]
    first = next((n for n, (number, _) in enumerate(parts) if number), 3)
    return " ".join(f"{number}{unit}" for number, unit in parts[first : first + 2] if number) or "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(as_duration),
    PlainSerializer(lambda length: f"{int(length.total_seconds())}s", return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^(\d+\s*[smhdSMHD]\s*)+$", "examples": ["30m", "26h", "1h30m"]}),
]
