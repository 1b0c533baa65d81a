"""A sync with what a check of it needs to know, and how what is found is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from seqsync_dagster.destinations.protocol import FieldInfo, ObjectInfo
from seqsync_dagster.ledger.fingerprint import type_that_counts
from seqsync_dagster.sequence.spec import SequenceSpec
from seqsync_dagster.sequence.strict import nearest
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.column_types import ColumnType, read_type

Write = Literal["create", "update"]


@dataclass(frozen=True)
class Mapped:
    """A sync with what a check of it needs to know."""

    sequence: SequenceSpec
    sync: SyncSpec
    types: Mapping[str, str]
    """Model column -> the engine's name of its type."""
    writes: frozenset[Write]
    """What the rows at hand ask for: a field that cannot be updated does no harm to a plan of creates."""
    sent_types: Mapping[str, str]
    """The types as they were when the model was last sent, so far as they are known."""

    def column(self, name: str) -> ColumnType:
        """A model column's type."""
        return read_type(self.types[name])

    def named(self, column: str) -> str:
        """A column for a message; one that was given another type is the model's fault, and is named as such."""
        now, then = self.types[column], self.sent_types.get(column)
        if then is None or then == type_that_counts(now):
            return f"column {column!r} ({now})"
        return f"column {column!r} (now {now}: the model changed, it was {then} when last sent)"


@dataclass
class Findings:
    """What was found, a line each."""

    problems: list[str]
    """Wrong for every row."""
    risks: list[str]
    """What some rows may break."""


def first_writes(sync: SyncSpec) -> frozenset[Write]:
    """What a sync does at least, before a plan says more."""
    none: frozenset[Write] = frozenset()
    return none if sync.mode == "delete" else frozenset({"update"} if sync.mode == "update" else {"create"})


def no_field(info: ObjectInfo, name: str) -> str:
    """That an object has no such field, and which one may be meant."""
    hint = nearest(name, info.fields) or " Correct the name, or let this user see the field."
    return f"{info.name} has no field {name!r}, or this user may not see it.{hint}"


def shown(info: ObjectInfo, field: FieldInfo) -> str:
    """A field with its type, for a message."""
    return f"{info.name}.{field.name} ({field.type})"
