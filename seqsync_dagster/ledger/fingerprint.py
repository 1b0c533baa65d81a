"""From a model's columns to keys, values and one number per row."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.ledger.moments import zone_that_counts
from seqsync_dagster.ledger.tables import Shape
from seqsync_dagster.sequence.mappings import ParentLookup, ParentsLookup, RecordLookup
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.hashing import row_hash

#: PostgreSQL types without a hash function of their own; their text stands in.
_UNHASHABLE = ("json", "xml", "money", "bit", "varbit", "point", "line", "box", "path", "polygon", "circle", "tsvector")

#: Types of numbers whose text may have a fraction of zeros, as DuckDB and PostgreSQL name them.
_DECIMALS = ("decimal", "numeric")
_FLOATS = ("double", "float", "real", "float4", "float8")


@dataclass(frozen=True)
class Model:
    """A sync's model as the planner sees it: its relation, and the types of the columns it reads."""

    relation: sa.FromClause
    types: Mapping[str, str]

    def column(self, name: str) -> sa.ColumnElement[Any]:
        """A column of the model."""
        return self.relation.c[name]

    def text(self, name: str, column: sa.ColumnElement[Any] | None = None) -> sa.ColumnElement[str]:
        """A column of the model, or `column` that holds its values, as text.

        A number has one text whatever its type, so that parents and children find
        each other: an integer 1, a decimal 1.00 and a double 1.0 are all ``1``.
        """
        column = self.column(name) if column is None else column
        kind = self.types.get(name, "").lower().split("(")[0]
        text = sa.cast(column, sa.Text)
        if kind in _DECIMALS:
            return sa.func.regexp_replace(text, r"^(-?\d+)(?:\.0+|(\.\d*[1-9])0+)$", r"\1\2", type_=sa.Text)
        if kind in _FLOATS:
            # Up to 2^53 a double holds every whole number exactly.
            whole = sa.and_(column == sa.func.floor(column), sa.func.abs(column) <= 2**53)
            return sa.case((whole, sa.cast(sa.cast(column, sa.BigInteger), sa.Text)), else_=text)
        return text

    def hashable(self, name: str) -> sa.ColumnElement[Any]:
        """A column in a form that the engine can hash."""
        column = self.column(name)
        return sa.cast(column, sa.Text) if self.types.get(name, "").split("(")[0] in _UNHASHABLE else column


def hashed_columns(sync: SyncSpec) -> list[str]:
    """The model columns behind a fingerprint, in an order that does not depend on YAML's."""
    return [*sync.key, *sorted(sync.columns() - set(sync.key))]


def fingerprint(model: Model, sync: SyncSpec) -> sa.ColumnElement[int]:
    """The row hash over key and mapped columns.

    Lookups count with the parent's *key*: with its destination id, planning
    would have to join every row to its parents first.
    """
    return row_hash(*[model.hashable(c) for c in hashed_columns(sync)])


def fingerprint_over(model: Model, key: Sequence[str], columns: Collection[str]) -> sa.ColumnElement[int]:
    """The row hash of a mapping that read these columns, the key's among them."""
    return row_hash(*[model.hashable(c) for c in (*key, *sorted(set(columns) - set(key)))])


def mapping_content(sync: SyncSpec, types: Mapping[str, str]) -> dict[str, Any]:
    """What decides about what is sent of a model row: the mapping, and the types of the columns it reads."""
    shape, names = Shape.of(sync), sorted(sync.columns())
    zone = zone_that_counts(sync, types)
    return {
        "object": sync.object,
        "match": sync.match,
        "key": sync.key,
        "values": {
            f: [m.column, m.nulls, *([] if m.write == "always" else [m.write])] for f, m in shape.values.items()
        },
        "constants": {f: m.constant for f, m in shape.constants.items()},
        "parents": {f: [m.parent, m.from_, m.nulls] for f, m in shape.parents.items()},
        "lookups": {
            f: [m.lookup, m.by, m.from_, m.nulls, *([] if m.value is None else [m.value])]
            for f, m in shape.lookups.items()
        },
        "types": {c: type_that_counts(types[c]) for c in names},
        # Left out where it decides nothing, so that the digests of such mappings stay what they were.
        **({"zone": zone} if zone else {}),
    }


def type_that_counts(name: str) -> str:
    """A type's name without what fingerprints do not depend on: a text column of another length hashes as before."""
    return re.sub(r"^((?:var|bp)?char|character varying)\(\d+\)", r"\1", name.lower())


def mapping_digest(sync: SyncSpec, types: Mapping[str, str]) -> str:
    """Changes when the same model row would be sent differently, so that fingerprints no longer compare."""
    content = json.dumps(mapping_content(sync, types), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def policy_digest(sync: SyncSpec) -> str:
    """Changes when rows that wait or left would be judged differently, though none would be sent differently."""
    referring = (ParentLookup, ParentsLookup, RecordLookup)
    missing = {f: m.if_missing for f, m in sync.mappings() if isinstance(m, referring)}
    content: list[Any] = [sync.mode, sync.removed, sync.delete_adopted, missing]
    # Only what is not the default, so that ledgers of releases that did not know it stay what they are.
    if sync.on_gone != "report":
        content.append(sync.on_gone)
    if deferred := sorted(f for f, m in sync.parent_lookups().items() if m.deferred):
        content.append(deferred)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def trimmed(text: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """Text without white space around it; null when nothing is left.

    Salesforce trims text before it stores it, so `` A1`` and ``A1`` are one key
    (SOAP API Developer Guide, create(): automatic trimming).
    """
    return sa.func.nullif(sa.func.trim(text, " \t\n\r"), "", type_=sa.Text)


def key_text(parts: Sequence[sa.ColumnElement[str]]) -> sa.ColumnElement[str]:
    """The key as one text from the texts of its parts, joined with ``:``; null when a part is null or blank."""
    text = trimmed(parts[0])
    for part in parts[1:]:
        text = text.concat(":").concat(trimmed(part))
    return text


def canonical(text: sa.ColumnElement[str], case_sensitive: bool) -> sa.ColumnElement[str]:
    """The form in which the destination tells match values apart."""
    return text if case_sensitive else sa.func.lower(text, type_=sa.Text)


@dataclass(frozen=True)
class Checksum:
    """Tells whether a model's rows are the same as at another time: how many, and the sum of their fingerprints.

    A sum, not an exclusive or: two equal rows would cancel each other out.
    """

    rows: int
    total: str

    def as_columns(self) -> dict[str, object]:
        """As columns of the table ``syncs``."""
        return {"model_rows": self.rows, "model_sum": self.total}


#: What ``syncs`` says after a run that sent some of a model: a model that is as it was at an earlier run is not
#: therefore what the destination holds.
OUT_OF_STEP: Mapping[str, object] = {"model_rows": None, "model_sum": None}


def total(fingerprints: sa.ColumnElement[int]) -> sa.ColumnElement[str]:
    """The sum of a column of fingerprints, as text: it has more digits than drivers give back exactly."""
    return sa.cast(sa.func.coalesce(sa.func.sum(fingerprints), 0), sa.Text)


def checksum(model: Model, sync: SyncSpec) -> sa.Select[int, str]:
    """Selects a model's row count and checksum in one scan."""
    hashes = sa.select(fingerprint(model, sync).label("fingerprint")).select_from(model.relation).subquery("m")
    return sa.select(sa.func.count().label("rows"), total(hashes.c.fingerprint).label("total")).select_from(hashes)
