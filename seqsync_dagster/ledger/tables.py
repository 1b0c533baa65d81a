"""The state tables. All are documented here and yours to query.

Per sync, in the state schema (the plan's values are typed after the model, keys are text):

``<sequence>__<sync>__ledger``  one row per key: what the destination has acknowledged
``<sequence>__<sync>__plan``    the operations the run under way will apply; gone once settled
``<sequence>__<sync>__outcome`` the destination's word on them, on its way into the ledger
``<sequence>__<sync>__reviewed`` the differences behind a plan that was made to be read, until it is sent or expires
``<sequence>__<sync>__going``   the keys that such a plan would create

One for all syncs (with DuckDB: one per ledger file):

``syncs``      what is known of each sync as a whole
``runs``       one row per settled run, with its counts
``changelog``  one row per record written or refused, append-only
``plans``      the latest plan of each sync that was made to be read
``actions``    one row per key that an operator asked something for, append-only; the last word on a key counts
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.sequence.mappings import ColumnMapping, ConstantMapping, FieldMapping, ParentLookup, RecordLookup
from seqsync_dagster.sequence.spec import SequenceSpec
from seqsync_dagster.sequence.sync import SyncSpec

SCHEMA_VERSION = 1

#: States of a ledger row.
ACKNOWLEDGED = "acknowledged"  # the destination holds the values the fingerprint stands for
REJECTED = "rejected"  # its last values were refused; `retry_at` says when they are tried again unchanged, null: never
HELD = "held"  # a parent or looked-up record has no destination id
INVALID = "invalid"  # it shares its key with another row
LEFT = "left"  # it left the model; its record stays (removed: keep or clear, or not ours to delete)
REMOVAL_DUE = "removal_due"  # it left the model; finish deletes its record, or empties its fields
REMOVED = "removed"  # mode: delete: its record was deleted, or was not there
GONE = "gone"  # acknowledged once, no longer in the destination; looked for again by match while `retry_at` is set
UNRESOLVED = "unresolved"  # a create whose reply was lost; sent again by match, without one it waits for a person
SKIPPED = "skipped"  # an operator said so; see ``actions``; stands in plans as well

#: Status of a plan row.
SEND = "send"
WAITING = "waiting"
HELD_PENDING = "held_pending"
HELD_MISSING = "held_missing"
REFUSED = "refused"  # by us: if_missing: reject, or nothing to update
INVALID_NULL = "invalid_null"
INVALID_DUPLICATE = "invalid_duplicate"
REMOVAL = "removal"
FORGET = "forget"  # never acknowledged, and no longer in the model
ADOPTED = "adopted"  # a record that holds the row's values already was found for it: there is nothing to send
UNCHANGED = "unchanged"  # named by the operator, or a full resync, but as the destination acknowledged it
ABSENT = "absent"  # mode: delete, and no record has its key
KEPT = "kept"  # it changed, and mode: insert leaves its record as it was created

#: Operation of a plan row.
CREATE, UPDATE, DELETE = "create", "update", "delete"
CLEAR = "clear"  # the record stays, its mapped fields are emptied
#: An update, by its id, of a record that was found for a row and was never acknowledged before.
ADOPT = "adopt"
#: The same for a record that has no key yet; the update gives it one.
LINK = "link"
REFERENCE = "reference"  # an update of nothing but references that the row went without

#: Operations on records whose rows left the model.
REMOVING = (DELETE, CLEAR)


def _named(prefix: str, name: str) -> str:
    """`prefix` and `name` as one name, short enough that PostgreSQL (63 bytes) and SQLAlchemy (57) do not cut it."""
    full = f"{prefix}_{name}"
    if len(full.encode()) <= 57:
        return full
    return f"{full.encode()[:48].decode(errors='ignore')}_{hashlib.sha1(full.encode()).hexdigest()[:8]}"


def key_column(column: str) -> str:
    """Ledger and plan column of a key column, as text: the type may change in the model, the key has not."""
    return _named("key", column)


def value_column(field: str) -> str:
    """Plan column of a field's value."""
    return _named("value", field)


def parent_column(slot: str) -> str:
    """Ledger and plan column of the parent's key (its match_key) behind a lookup; see `SyncSpec.slots`."""
    return _named("parent", slot)


def lookup_column(field: str) -> str:
    """Plan column of the value by which a record no sync writes is found."""
    return _named("lookup", field)


def ref_column(slot: str) -> str:
    """Plan column of the destination id a reference resolves to; ledger column of the parent's id as it was sent."""
    return _named("ref", slot)


def blocked_column(slot: str) -> str:
    """Column of the key of a parent that goes with the same plan, while judging."""
    return _named("blocked", slot)


def shown_column(field: str) -> str:
    """Column of a field's value as text for people."""
    return _named("shown", field)


@dataclass(frozen=True)
class Shape:
    """A sync's mappings, sorted by kind: what its tables and statements are made of."""

    keys: tuple[str, ...]
    values: dict[str, ColumnMapping]
    constants: dict[str, ConstantMapping]
    parents: dict[str, ParentLookup]
    """By slot: a field that may point to several parents has several."""
    slots: dict[str, tuple[str, ...]]
    """Field that points to a sync's record -> its slots."""
    lookups: dict[str, RecordLookup]

    @classmethod
    def of(cls, sync: SyncSpec) -> Shape:
        """The shape of a sync."""

        def kind(wanted: type[Any]) -> dict[str, Any]:
            found: dict[str, FieldMapping] = {f: m for f, m in sync.mappings() if isinstance(m, wanted)}
            return found

        slots = {field: tuple(lookups) for field, lookups in sync.slots().items()}
        values, constants = kind(ColumnMapping), kind(ConstantMapping)
        return cls(sync.key, values, constants, sync.parent_lookups(), slots, kind(RecordLookup))

    def field_of(self, slot: str) -> str:
        """The field that a slot belongs to."""
        return next(field for field, slots in self.slots.items() if slot in slots)

    def reference(self, field: str, row: Any) -> sa.ColumnElement[Any]:
        """What a field points to in a row with reference columns: at most one of its slots is filled there."""
        refs = [row.c[ref_column(slot)] for slot in self.slots[field]]
        return refs[0] if len(refs) == 1 else sa.func.coalesce(*refs, type_=sa.Text)


@dataclass(frozen=True)
class StateTables:
    """The tables of one sync in one schema."""

    ledger: sa.TableClause
    plan: sa.TableClause
    outcome: sa.Table
    syncs: sa.Table
    runs: sa.Table
    changelog: sa.Table
    plans: sa.Table
    actions: sa.Table

    @classmethod
    def of(cls, sequence: SequenceSpec, sync: SyncSpec, schema: str) -> StateTables:
        """Tables of a sync whose state stands in `schema`."""
        shape = Shape.of(sync)
        prefix = f"{sequence.name}__{sync.name}"
        keys = [sa.column(key_column(k), sa.Text) for k in shape.keys]
        ledger = sa.table(
            f"{prefix}__ledger",
            *_ledger_columns(),
            *keys,
            *[sa.column(parent_column(f), sa.Text) for f in shape.parents],
            *[sa.column(ref_column(f), sa.Text) for f in shape.parents],
            schema=schema,
        )
        plan = sa.table(
            f"{prefix}__plan",
            *_plan_columns(),
            *[sa.column(key_column(k), sa.Text) for k in shape.keys],
            *[sa.column(value_column(f)) for f in shape.values],
            *[sa.column(parent_column(f), sa.Text) for f in shape.parents],
            *[sa.column(ref_column(f), sa.Text) for f in (*shape.parents, *shape.lookups)],
            schema=schema,
        )
        metadata = sa.MetaData(schema=schema)
        return cls(
            ledger,
            plan,
            sa.Table(f"{prefix}__outcome", metadata, *_outcome_columns()),
            sa.Table("syncs", metadata, *_syncs_columns()),
            sa.Table("runs", metadata, *_runs_columns()),
            sa.Table("changelog", metadata, *_changelog_columns()),
            sa.Table("plans", metadata, *_plans_columns()),
            sa.Table("actions", metadata, *_actions_columns()),
        )


def ledger_of(sequence: str, sync: str, schema: str) -> sa.TableClause:
    """Another sync's ledger, with the columns that are the same in every ledger."""
    return sa.table(f"{sequence}__{sync}__ledger", *_ledger_columns(), schema=schema)


def fixed_ledger(tables: StateTables) -> sa.TableClause:
    """A sync's own ledger without the columns that its mapping gives it."""
    return sa.table(tables.ledger.name, *_ledger_columns(), schema=tables.ledger.schema)


def _ledger_columns() -> list[sa.ColumnClause[Any]]:
    return [
        sa.column("match_key", sa.Text),  # canonical text of the key; what everything joins on
        sa.column("fingerprint", sa.BigInteger),  # hash of the acknowledged values; null when none stand
        sa.column("tried_fingerprint", sa.BigInteger),  # hash of the values that were refused
        sa.column("dest_id", sa.Text),
        sa.column("origin", sa.Text),  # created | adopted | unknown
        sa.column("state", sa.Text),
        sa.column("attempts", sa.Integer),
        sa.column("retry_at", sa.DateTime(timezone=True)),
        sa.column("code", sa.Text),
        sa.column("message", sa.Text),
        sa.column("error_class", sa.Text),
        sa.column("run_id", sa.Text),  # the run that wrote this row last
        sa.column("settled_at", sa.DateTime(timezone=True)),
        # The record that is gone, until another is acknowledged. Added to older ledgers by `registry.migrate`.
        sa.column("gone_id", sa.Text),
    ]


def _plan_columns() -> list[sa.ColumnClause[Any]]:
    return [
        sa.column("seq", sa.BigInteger),  # place in the sending order; null when not to be sent
        sa.column("status", sa.Text),
        sa.column("operation", sa.Text),
        sa.column("level", sa.Integer),
        sa.column("match_key", sa.Text),
        sa.column("match_text", sa.Text),  # the key as it is sent in the match field
        sa.column("fingerprint", sa.BigInteger),
        sa.column("dest_id", sa.Text),
        sa.column("code", sa.Text),
        sa.column("message", sa.Text),
        # The fields that this row goes without, each followed by a comma: finish fills them in.
        sa.column("lacking", sa.Text),
    ]


def _outcome_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("seq", sa.BigInteger),
        sa.Column("dest_id", sa.Text),
        sa.Column("created", sa.Boolean),
        sa.Column("code", sa.Text),
        sa.Column("message", sa.Text),
        sa.Column("error_class", sa.Text),
    ]


def _syncs_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("sequence", sa.Text, primary_key=True),
        sa.Column("sync", sa.Text, primary_key=True),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column("org_id", sa.Text),  # part of the ledger's identity
        sa.Column("org_name", sa.Text),
        sa.Column("object", sa.Text),
        sa.Column("match_field", sa.Text),
        sa.Column("case_sensitive", sa.Boolean),  # of the match field, as the destination compares it
        sa.Column("mapping_digest", sa.Text),
        sa.Column("policy_digest", sa.Text),  # of what decides about rows without changing what is sent
        sa.Column("hash_name", sa.Text),
        sa.Column("model_rows", sa.BigInteger),  # of the model as last settled
        sa.Column("model_sum", sa.Text),  # sum of its fingerprints
        sa.Column("last_counts", sa.Text),  # JSON of the last settled run's counts
        sa.Column("arrivals", sa.BigInteger),  # how often a key got a destination id, or another one
        sa.Column("parent_arrivals", sa.Text),  # JSON: what `arrivals` of each parent was at the last settled plan
        sa.Column("epoch", sa.BigInteger),  # highest lease epoch that wrote here
        sa.Column("plan_run_id", sa.Text),  # the run whose plan stands in the plan table
        sa.Column("plan_spec", sa.Text),  # JSON of the sync as it was when that plan was made
        sa.Column("settled_at", sa.DateTime(timezone=True)),
        # JSON of what mapping_digest is the digest of. Added to ledgers of earlier releases by `registry.migrate`.
        sa.Column("mapping", sa.Text),
        # With changed_since; added likewise. The column, its type and the relation that the next two are of.
        sa.Column("since_of", sa.Text),
        sa.Column("since_mark", sa.Text),  # the latest change that a settled run has seen, as ISO 8601 text
        sa.Column("full_scan_at", sa.DateTime(timezone=True)),  # when the last settled full scan began
    ]


def _runs_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("sequence", sa.Text, nullable=False),
        sa.Column("sync", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("plan_id", sa.Text),
        sa.Column("holder", sa.Text),  # who ran it, e.g. the Dagster run
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("settled_at", sa.DateTime(timezone=True)),
        sa.Column("resync_reason", sa.Text),
        sa.Column("completed", sa.Boolean),  # false: killed or cut short, settled by a later run
        sa.Column("counts", sa.Text),  # JSON
    ]


def _changelog_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("sequence", sa.Text, nullable=False),
        sa.Column("sync", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger),
        sa.Column("key", sa.Text),  # text form
        # created | adopted | updated | removed | cleared | rejected | gone
        sa.Column("operation", sa.Text),
        sa.Column("dest_id", sa.Text),
        sa.Column("previous_dest_id", sa.Text),
        sa.Column("code", sa.Text),
        sa.Column("message", sa.Text),
        sa.Column("error_class", sa.Text),
        sa.Column("logged_at", sa.DateTime(timezone=True)),
    ]


def _plans_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("sequence", sa.Text, primary_key=True),
        sa.Column("sync", sa.Text, primary_key=True),
        sa.Column("review_id", sa.Text, nullable=False),  # of all syncs that were planned together
        sa.Column("plan_id", sa.Text, nullable=False),
        sa.Column("holder", sa.Text),  # who made it, e.g. the Dagster run
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("mapping_digest", sa.Text, nullable=False),
        sa.Column("org_id", sa.Text, nullable=False),
        sa.Column("ledger_mark", sa.Text, nullable=False),  # another one as soon as anything was settled
        sa.Column("options", sa.Text, nullable=False),  # JSON of the run options it was made with
        sa.Column("model_rows", sa.BigInteger),
        sa.Column("differing", sa.BigInteger, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),  # that go at once, or after their parents
    ]


def _actions_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("sequence", sa.Text, nullable=False),
        sa.Column("sync", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),  # as match_key in the ledger
        sa.Column("action", sa.Text, nullable=False),  # requeue | skip_once | skip_always
        sa.Column("fingerprint", sa.BigInteger),  # hash of the row as it was then
        sa.Column("run_id", sa.Text, nullable=False),  # the run that carried it in, e.g. Dagster's
        sa.Column("asked_by", sa.Text),  # that run as people know it, and who launched it where that is known
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("schema_version", sa.Integer, nullable=False),
    ]
