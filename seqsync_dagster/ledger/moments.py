"""Timestamps without a zone, and the moments that a model means by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.ledger.tables import Shape
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.column_types import read_type


def zone_that_counts(sync: SyncSpec, types: Mapping[str, str]) -> str | None:
    """The zone that decides about what is sent; None where none does, or where it is UTC, as without one."""
    naive = any(_is_naive(types[m.column]) for m in Shape.of(sync).values.values())
    return sync.source_timezone if naive and sync.source_timezone != "UTC" else None


def as_meant(
    sync: SyncSpec, types: Mapping[str, str], column: str, value: sa.ColumnElement[Any]
) -> sa.ColumnElement[Any]:
    """`value`, of the model's `column`, as it is to be sent: with the sync's zone where it is a time without one.

    The engine converts: it knows the zones' histories by itself. Both engines take an hour that comes twice for the
    later one, and one that the clock leaves out for as much later.
    """
    zone = zone_that_counts(sync, types)
    if zone is None or not _is_naive(types[column]):
        return value
    # DuckDB converts microseconds only.
    return sa.func.timezone(zone, sa.cast(value, sa.DateTime()), type_=sa.DateTime(timezone=True))


def _is_naive(type_: str) -> bool:
    name = type_.lower()
    return read_type(name).kind == "datetime" and not (name.startswith("timestamptz") or "with time zone" in name)
