"""Kinds of values that more than one part of a sequence is declared with."""

from __future__ import annotations

from typing import Annotated, Any
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field

from seqsync_dagster.sequence.strict import nearest

#: Name of the asset that closes a sequence; no sync has it.
FINISH = "finish"
#: Longest sequence or sync name: both become part of table names, and PostgreSQL cuts those at 63 bytes.
MAX_NAME = 24
_NAME = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=_NAME, max_length=MAX_NAME)]


def _zone(value: str) -> str:
    zones = available_timezones()
    if value not in zones:
        raise ValueError(
            f"source_timezone {value!r} is no known time zone.{nearest(value, zones)} "
            "Zones look like Europe/Paris or UTC."
        )
    return value


Zone = Annotated[str, AfterValidator(_zone)]


def as_tuple(value: Any) -> Any:
    """One value as a list of one: YAML may say `key: id` for `key: [id]`."""
    return (value,) if isinstance(value, str) else value
