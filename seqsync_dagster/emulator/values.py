"""From what a caller wrote in a cell or a JSON value to what is stored, or the reason why not."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from functools import partial
from typing import Any

from seqsync_dagster.emulator.errors import RowError
from seqsync_dagster.emulator.ids import IdSpace, MalformedIdError, WrongTypeError
from seqsync_dagster.emulator.pointing import read_id
from seqsync_dagster.emulator.schema import TEXT_TYPES, Field

Clean = Callable[[Any], Any]

_EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_DATETIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:?\d\d)")
_INT = re.compile(r"[+-]?\d{1,10}")
_YES, _NO = {"true", "1", "yes", "y", "on"}, {"false", "0", "no", "n", "off"}


class RefusedError(Exception):
    """A value that breaks a rule of its field."""

    def __init__(self, code: str, message: str, *fields: str) -> None:
        super().__init__(message)
        self.error = RowError(code, message, fields)


class MistypedError(Exception):
    """A value that is not of its field's type; REST and Bulk say so in different words."""


def _text(field: Field, raw: Any) -> str | None:
    if type(raw) is not str:
        raise MistypedError
    value = raw.strip()
    if len(value) > field.length:
        message = f"{field.label}: data value too large: {value} (max length={field.length})"
        raise RefusedError("STRING_TOO_LONG", message, field.name)
    return value or None


def _email(field: Field, raw: Any) -> str | None:
    value = _text(field, raw)
    if value is not None and not _EMAIL.fullmatch(value):
        raise RefusedError("INVALID_EMAIL_ADDRESS", f"{field.label}: invalid email address: {value}", field.name)
    return value


def _restricted(field: Field, raw: Any) -> str | None:
    value = _text(field, raw)
    if value is not None and value not in field.picklist:
        message = f"{field.label}: bad value for restricted picklist field: {value}"
        raise RefusedError("INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", message, field.name)
    return value


def _int(field: Field, raw: Any) -> int | None:
    if raw == "":
        return None
    if isinstance(raw, bool) or not _INT.fullmatch(str(raw)):
        raise MistypedError
    value = int(raw)
    if not -(2**31) <= value < 2**31:
        raise MistypedError
    return value


def _decimal(field: Field, raw: Any) -> str | None:
    if raw == "":
        return None
    if isinstance(raw, bool) or (isinstance(raw, str) and raw != raw.strip()):
        raise MistypedError
    try:
        value = Decimal(raw if isinstance(raw, str | int | Decimal) else str(raw))
    except (InvalidOperation, TypeError, ValueError):
        raise MistypedError from None
    if not value.is_finite():
        raise MistypedError
    if value.adjusted() >= field.precision - field.scale:
        message = f"{field.label}: value outside of valid range on numeric field: {raw}"
        raise RefusedError("NUMBER_OUTSIDE_VALID_RANGE", message, field.name)
    text = format(value.quantize(Decimal(1).scaleb(-field.scale), ROUND_HALF_UP), "f")
    return text if field.scale else text + ".0"


def _boolean(field: Field, raw: Any) -> int:
    if isinstance(raw, bool):
        return int(raw)
    text = raw.lower() if isinstance(raw, str) else None
    if text in _YES or text in _NO:
        return int(text in _YES)
    raise MistypedError


def _date(field: Field, raw: Any) -> str | None:
    if raw == "":
        return None
    try:
        if not _DATE.fullmatch(raw):
            raise MistypedError
        return date.fromisoformat(raw).isoformat()
    except (TypeError, ValueError):
        raise MistypedError from None


def _datetime(field: Field, raw: Any) -> str | None:
    if raw == "":
        return None
    try:
        if not _DATETIME.fullmatch(raw):
            raise MistypedError
        # Salesforce keeps whole seconds.
        moment = datetime.fromisoformat(raw).astimezone(UTC).replace(microsecond=0, tzinfo=None)
    except (TypeError, ValueError, OverflowError):
        raise MistypedError from None
    return moment.isoformat()


def _reference(ids: IdSpace, field: Field, raw: Any) -> int | None:
    if raw == "":
        return None
    if not isinstance(raw, str):
        raise MistypedError
    try:
        return read_id(ids, field, raw)
    except MalformedIdError:
        raise RefusedError("MALFORMED_ID", f"{field.label}: malformed id {raw}", field.name) from None
    except WrongTypeError:
        message = f"{field.label}: id value of incorrect type: {raw}"
        raise RefusedError("MALFORMED_ID", message, field.name) from None


_BY_TYPE: dict[str, Callable[[Field, Any], Any]] = {
    "email": _email, "int": _int, "double": _decimal, "currency": _decimal, "boolean": _boolean,
    "date": _date, "datetime": _datetime,
}  # fmt: skip


def cleaner(field: Field, ids: IdSpace) -> Clean:
    """The function that takes a value of this field, never null, to what is stored."""
    if field.type == "reference":
        return partial(_reference, ids, field)
    if field.restricted:
        return partial(_restricted, field)
    if field.type in TEXT_TYPES and field.type != "email":
        return partial(_text, field)
    return partial(_BY_TYPE[field.type], field)


def java_double(text: str) -> str:
    """A number as java.lang.Double writes it, which is how Bulk results give it back."""
    try:
        value = float(text)
    except ValueError:
        return text
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value)
    digits = Decimal(repr(value)).normalize()
    sign, mantissa = "-" if value < 0 else "", "".join(map(str, digits.as_tuple().digits))
    return f"{sign}{mantissa[0]}.{mantissa[1:] or '0'}E{digits.adjusted()}"
