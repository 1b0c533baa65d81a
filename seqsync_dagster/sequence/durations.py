"""Lengths of time as people write them: `30m`, `26h`, `1h30m`, `2d`."""

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


Duration = Annotated[
    timedelta,
    BeforeValidator(as_duration),
    PlainSerializer(lambda length: f"{int(length.total_seconds())}s", return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^(\d+\s*[smhdSMHD]\s*)+$", "examples": ["30m", "26h", "1h30m"]}),
]
