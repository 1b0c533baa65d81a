"""What a warehouse's own names of column types mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ColumnKind = Literal["text", "uuid", "boolean", "integer", "decimal", "float", "date", "datetime", "time", "unknown"]


@dataclass(frozen=True)
class ColumnType:
    """A column's type in terms that engines share. `name` is the engine's own, for messages."""

    name: str
    kind: ColumnKind
    precision: int = 0
    scale: int = 0


def read_type(name: str) -> ColumnType:
    """Read an engine's name of a type, e.g. ``DECIMAL(18,2)``, ``timestamptz``; one it does not know is ``unknown``.

    Names are those of DuckDB ("Data Types") and PostgreSQL ("Data Types", table 8.1, with the aliases of pg_type).
    """
    base = re.split(r"[(\s]", name.strip().lower(), maxsplit=1)[0]
    kind = _KINDS.get(base, "unknown")
    if name.endswith("]"):
        return ColumnType(name, "unknown")
    if kind == "decimal":
        sizes = re.search(r"\((\d+)(?:\s*,\s*(-?\d+))?\)", name)
        if sizes is not None:
            return ColumnType(name, kind, int(sizes[1]), int(sizes[2] or 0))
    return ColumnType(name, kind)


def _kinds(**names: str) -> dict[str, ColumnKind]:
    return {name: kind for kind, listed in names.items() for name in listed.split()}  # type: ignore[misc]


_KINDS: Mapping[str, ColumnKind] = _kinds(
    text="varchar text char bpchar character string enum name citext json jsonb xml",
    uuid="uuid",
    boolean="boolean bool logical",
    integer=(
        "tinyint smallint integer int bigint hugeint utinyint usmallint uinteger ubigint uhugeint "
        "int1 int2 int4 int8 int16 int32 int64 int128 uint8 uint16 uint32 uint64 uint128 short long signed"
    ),
    decimal="decimal numeric dec",
    float="real float double float4 float8",
    date="date",
    datetime="timestamp datetime timestamptz timestamp_s timestamp_ms timestamp_us timestamp_ns",
    time="time timetz time_ns",
)
