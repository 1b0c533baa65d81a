"""Which constants a field takes: they are the same in every row, so the value itself can be judged."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation

from seqsync_dagster.destinations.protocol import FieldInfo, FieldKind
from seqsync_dagster.sequence.strict import nearest

Constant = str | int | float | bool


def constant_problem(field: FieldInfo, value: Constant) -> str | None:
    """What keeps a field from taking this value; None when nothing does."""
    if isinstance(value, str) and not value.strip():
        # Blank text clears the field.
        return None
    if field.restricted_picklist:
        values = str(value).split(field.separator) if field.separator else [str(value)]
        for each in values:
            if each not in field.picklist:
                return f"it is no value of the picklist.{nearest(each, field.picklist)} Values: {_few(field.picklist)}"
    if field.kind == "text":
        return f"the field holds {field.length} characters" if 0 < field.length < len(str(value)) else None
    judge = _CONSTANTS.get(field.kind)
    return None if judge is None or judge(field, value) else _wanted(field)


def _few(values: tuple[str, ...]) -> str:
    return ", ".join(values[:20]) + (f" and {len(values) - 20} more" if len(values) > 20 else "")


def _is_number(field: FieldInfo, value: Constant) -> bool:
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return False
    if isinstance(value, bool) or not number.is_finite():
        return False
    return not field.precision or number.adjusted() < max(field.precision - field.scale, 1)


def _is_whole(field: FieldInfo, value: Constant) -> bool:
    return not isinstance(value, bool | float) and re.fullmatch(r"[+-]?\d{1,10}", str(value)) is not None


def _is_moment(read: Callable[[str], object]) -> Callable[[FieldInfo, Constant], bool]:
    def judge(field: FieldInfo, value: Constant) -> bool:
        try:
            return isinstance(value, str) and read(value) is not None
        except ValueError:
            return False

    return judge


def _datetime(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if "T" not in text or moment.tzinfo is None:
        raise ValueError(text)
    return moment


_CONSTANTS: Mapping[FieldKind, Callable[[FieldInfo, Constant], bool]] = {
    "boolean": lambda field, value: isinstance(value, bool) or str(value).lower() in ("true", "false"),
    "integer": _is_whole,
    "number": _is_number,
    "date": _is_moment(date.fromisoformat),
    "datetime": _is_moment(_datetime),
    "time": _is_moment(time.fromisoformat),
    "id": lambda field, value: re.fullmatch(r"[0-9A-Za-z]{15}(?:[0-9A-Za-z]{3})?", str(value)) is not None,
}

_WANTED: Mapping[FieldKind, str] = {
    "boolean": "write true or false",
    "integer": "write a whole number",
    "number": "write a number",
    "date": "write a date as '2024-12-31'",
    "datetime": "write a moment with its zone as '2024-12-31T23:59:59Z'",
    "time": "write a time as '23:59:59Z'",
    "id": "write a record's id, of 15 or 18 characters; or find the record with parent: or lookup:",
}


def _wanted(field: FieldInfo) -> str:
    wanted = _WANTED[field.kind]
    if field.kind == "number" and field.precision:
        wanted += f" of at most {field.precision - field.scale} digits before the point"
    return wanted
