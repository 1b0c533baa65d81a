"""Kinds of values that more than one part of a sequence is declared with."""

from __future__ import annotations

from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import AfterValidator, Field

from seqsync_dagster.sequence.strict import nearest

#: Name of the asset that closes a sequence; no sync has it.
FINISH = "finish"
_DRIFT = ".drift"
#: Longest sequence or sync name: both become part of table names, and PostgreSQL cuts those at 63 bytes.
MAX_NAME = 24
_NAME = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=_NAME, max_length=MAX_NAME)]


def drift_step(sync: str) -> str:
    """Name of the step that checks a sync's drift; every other step is named as its sync, or `FINISH`."""
    return f"{sync}{_DRIFT}"


def sync_of_step(name: str) -> str:
    """The sync that a step is of, or `FINISH`."""
    return name.removesuffix(_DRIFT)


def known_zone(name: str, what: str) -> str:
    """The name itself. Raises `ValueError`, which begins with `what` it is, when there is no such time zone."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # Listing the zones takes 50 ms, and every sync may name one.
        near = nearest(name, available_timezones())
        raise ValueError(f"{what} {name!r} is no known time zone.{near} Zones look like Europe/Paris or UTC.") from None
    return name


Zone = Annotated[str, AfterValidator(lambda name: known_zone(name, "source_timezone"))]


def as_tuple(value: Any) -> Any:
    """One value as a list of one: YAML may say `key: id` for `key: [id]`."""
    return (value,) if isinstance(value, str) else value
