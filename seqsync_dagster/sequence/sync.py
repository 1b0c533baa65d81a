"""One sync, as it stands in YAML."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from seqsync_dagster.sequence.alerts import Alerts
from seqsync_dagster.sequence.durations import Duration
from seqsync_dagster.sequence.limits import Drift, Errors, Guards
from seqsync_dagster.sequence.mappings import (
    ColumnMapping,
    FieldMapping,
    Mapping,
    ParentLookup,
    ParentsLookup,
    RecordLookup,
    columns_of,
)
from seqsync_dagster.sequence.since import ChangedSince, FullScan, Since, in_full
from seqsync_dagster.sequence.strict import Strict, nearest
from seqsync_dagster.sequence.words import Name, Zone, as_tuple


class SyncSpec(Strict):
    """One sync: one model into one destination object."""

    name: Annotated[Name, Field(description="Name of the sync, unique in its sequence.")]
    model: Annotated[str | None, Field(description="dbt model to read.")] = None
    table: Annotated[str | None, Field(description="Table or view to read instead, as `schema.table`.")] = None
    query: Annotated[str | None, Field(description="SELECT statement to read instead.")] = None
    deps: Annotated[
        tuple[str, ...],
        Field(description="With `table` or `query`: asset keys (`a/b`) that must be built first."),
    ] = ()
    after: Annotated[
        tuple[str, ...],
        Field(description="Syncs of this sequence that must run before this one, whatever its lookups point to."),
    ] = ()
    description: Annotated[str | None, Field(description="Shown with the asset.")] = None
    key: Annotated[tuple[str, ...], Field(description="The model's primary key column(s).")]
    object: Annotated[str, Field(description="Destination object, by its API name.")]
    match: Annotated[
        str | None,
        Field(
            description="Destination field (external id) that the key is matched on. Only `mode: insert` does without: "
            "then a row whose reply was lost waits for an operator, since it cannot be looked up."
        ),
    ] = None
    mode: Annotated[
        Literal["upsert", "update", "insert", "delete"],
        Field(
            description="`upsert` creates and updates; `update` never creates; `insert` never updates: a row that "
            "changes after its record was created is counted and not sent; `delete` deletes the record of every row, "
            "whoever created it."
        ),
    ] = "upsert"
    first_run: Annotated[
        Literal["upsert", "adopt"],
        Field(
            description="What the first run does, or one that rebuilds the ledger: `upsert` writes every row; `adopt` "
            "reads the records that are there and writes only those that differ from their rows."
        ),
    ] = "upsert"
    removed: Annotated[
        Literal["keep", "delete", "clear"],
        Field(
            description="What becomes of a record whose row left the model: it is kept, deleted, or its mapped fields "
            "are emptied (`clear`). Only records we created."
        ),
    ] = "keep"
    adopt_by: Annotated[
        tuple[str, ...],
        Field(
            description="Mapped field(s), e.g. `Email`: a row that would be created takes over the one record whose "
            "`match` field is empty and whose fields equal the row's, all of them. Where several records or rows "
            "could be meant, none is taken and the row is refused."
        ),
    ] = ()
    on_gone: Annotated[
        Literal["report", "recreate"],
        Field(
            description="What becomes of a row whose record was deleted or merged in the destination, when no other "
            "record has its key: `report` lets it wait for a run that names it in `only_keys`, `recreate` creates it."
        ),
    ] = "report"
    delete_adopted: Annotated[
        bool, Field(description="`removed: delete` and `clear` also concern records that were there before us.")
    ] = False
    clear_fields: Annotated[
        tuple[str, ...], Field(description="The fields that `removed: clear` empties; default: every mapped one.")
    ] = ()
    fields: Annotated[
        dict[str, Mapping],
        Field(default_factory=dict, description="Destination field <- where its value comes from."),
    ]
    sensitive: Annotated[
        tuple[str, ...], Field(description="Model columns whose values are masked in tables, logs and metadata.")
    ] = ()
    options: Annotated[
        dict[str, Any],
        Field(
            default_factory=dict,
            description="What the destination is asked besides; which options there are depends on it.",
        ),
    ]
    source_timezone: Annotated[
        Zone | None,
        Field(
            description="Zone in which the model's timestamps without one are meant, e.g. `Europe/Paris`. "
            "Default: the sequence's, else UTC."
        ),
    ] = None
    changed_since: Annotated[
        Since | None,
        Field(
            description="Column that says when a row of the model changed last: runs read only rows that changed since "
            "the last one, and those that wait. Rows that left the model, or changed without their time, are seen by "
            "the `full_scan`."
        ),
    ] = None
    full_scan: Annotated[
        FullScan | None, Field(description="With `changed_since`: when the whole model is compared.")
    ] = None
    owners: Annotated[tuple[str, ...], Field(description="E-mail addresses or `team:name`.")] = ()
    tags: Annotated[
        dict[str, str], Field(default_factory=dict, description="Tags of the asset in Dagster, beside the sequence's.")
    ]
    kinds: Annotated[
        tuple[str, ...],
        Field(description="Kinds of the asset in Dagster, beside that of the destination, e.g. `revops`."),
    ] = ()
    links: Annotated[
        dict[str, str],
        Field(
            default_factory=dict,
            description="Pages that the asset links to, by their names, e.g. a runbook; beside the sequence's.",
        ),
    ]
    fresh_within: Annotated[
        Duration | None,
        Field(description="Dagster shows the sync as stale when its last run is longer ago. Default: the sequence's."),
    ] = None
    errors: Annotated[Errors | None, Field(description="Instead of the sequence's.")] = None
    guards: Annotated[Guards | None, Field(description="Instead of the sequence's.")] = None
    alerts: Annotated[
        Alerts,
        Field(exclude=True, description="Who else is told of this sync, besides those whom the sequence names."),
    ] = ()
    drift: Annotated[
        Drift | None,
        Field(description="Check whether records were changed or deleted in the destination; `{}` for the defaults."),
    ] = None

    _tuples = field_validator(
        "key", "deps", "after", "adopt_by", "sensitive", "owners", "kinds", "clear_fields", mode="before"
    )(as_tuple)

    @model_validator(mode="after")
    def _whole(self) -> SyncSpec:
        where = f"sync {self.name!r}"
        named = [n for n in ("model", "table", "query") if getattr(self, n)]
        if len(named) != 1:
            raise ValueError(
                f"{where}: say where its rows come from with exactly one of model, table, query; "
                f"found {' and '.join(named) or 'none'}."
            )
        if self.match is None and self.mode != "insert":
            raise ValueError(
                f"{where}: match is missing: the destination field (external id) that the key is matched on. "
                "Only mode: insert does without."
            )
        if self.mode == "insert" and (self.removed == "clear" or (self.drift is not None and self.drift.heal)):
            wrong = "removed: clear" if self.removed == "clear" else "drift: {heal: true}"
            raise ValueError(f"{where}: {wrong} needs a mode that updates; mode: insert never changes a record.")
        if not self.key:
            raise ValueError(f"{where}: key names the model's primary key column(s); it is empty.")
        if self.mode == "delete":
            useless = [n for n in ("fields", "clear_fields", "drift") if getattr(self, n)]
            if useless or self.removed != "keep":
                raise ValueError(
                    f"{where}: {useless[0] if useless else 'removed'} has no use with mode: delete, which deletes the "
                    "record of every row; take it out."
                )
        elif not self.fields:
            raise ValueError(f"{where}: fields maps at least one destination field; it is empty.")
        if len(set(self.key)) != len(self.key):
            raise ValueError(f"{where}: key names a column twice: {', '.join(self.key)}.")
        unknown = set(self.sensitive) - self.columns() - set(self.fields)
        for column in sorted(unknown):
            raise ValueError(
                f"{where}: sensitive names {column!r}, which is neither a mapped column nor a field."
                f"{nearest(column, self.columns())}"
            )
        kept = set(self.key).union(*(m.from_ for m in self.parent_lookups().values()))
        for column in sorted(kept & set(self.sensitive)):
            raise ValueError(
                f"{where}: {column!r} cannot be sensitive: keys, a parent's too, stand in the ledger and in messages. "
                "Use a key that says nothing, e.g. a surrogate key."
            )
        if (self.changed_since is None) != (self.full_scan is None):
            has, lacks = ("full_scan", "changed_since")[:: 1 if self.changed_since is None else -1]
            raise ValueError(
                f"{where}: {has} needs {lacks}. Reading what changed never sees which rows left the model; a full scan "
                "does, e.g. full_scan: {cron: '0 3 * * *', timezone: Europe/Paris}."
            )
        if self.changed_since is not None and self.mode == "delete":
            raise ValueError(
                f"{where}: changed_since has no use with mode: delete: a list of records to delete is read whole."
            )
        if self.removed == "delete" and self.mode == "update":
            raise ValueError(
                f"{where}: removed: delete needs mode: upsert; "
                "a sync that never creates a record has none of its own to delete."
            )
        if self.removed == "clear" and self.mode == "update" and not self.delete_adopted:
            raise ValueError(
                f"{where}: removed: clear with mode: update needs delete_adopted: true; "
                "a sync that never creates a record has none of its own to empty."
            )
        if self.clear_fields and self.removed != "clear":
            raise ValueError(f"{where}: clear_fields needs removed: clear.")
        mapped = dict(self.mappings())
        for field in self.clear_fields:
            if field not in mapped:
                raise ValueError(
                    f"{where}: clear_fields names {field!r}, which is no mapped field.{nearest(field, mapped)} "
                    "The match field keeps its value always."
                )
        if self.adopt_by and self.mode != "upsert":
            raise ValueError(f"{where}: adopt_by is about rows that would be created; mode: {self.mode} creates none.")
        able = [f for f, m in self.mappings() if isinstance(m, ColumnMapping)]
        for field in self.adopt_by:
            if field not in able:
                raise ValueError(
                    f"{where}: adopt_by names {field!r}, which is no field filled from a column.{nearest(field, able)}"
                )
        if self.on_gone == "recreate" and self.mode != "upsert":
            raise ValueError(f"{where}: on_gone: recreate needs mode: upsert; mode: {self.mode} creates none again.")
        if self.first_run == "adopt" and self.mode not in ("upsert", "update"):
            raise ValueError(
                f"{where}: first_run: adopt needs mode: upsert or update; mode: {self.mode} writes no record that is "
                "there already."
            )
        match = self.fields.get(self.match) if self.match is not None else None
        if match is not None and (len(self.key) != 1 or columns_of(match) != set(self.key)):
            raise ValueError(f"{where}: the match field {self.match} is filled from the key; take it out of fields.")
        comparable = self.comparable()
        for field in self.drift.fields if self.drift is not None else ():
            if field not in comparable:
                raise ValueError(
                    f"{where}: drift names {field!r}, which is no field filled from a column, a constant or a parent."
                    f"{nearest(field, comparable)}"
                )
        return self

    @property
    def since(self) -> ChangedSince | None:
        """`changed_since` in full form."""
        return in_full(self.changed_since)

    @property
    def source(self) -> str:
        """The model as a person names it: dbt model, table, or `query`."""
        return self.model or self.table or "query"

    def mappings(self) -> Iterator[tuple[str, FieldMapping]]:
        """The fields with their mappings in full form, in YAML's order, the match field left out."""
        return iter(self._in_full)

    @cached_property
    def _in_full(self) -> tuple[tuple[str, FieldMapping], ...]:
        # Made once, and not validated once more: it is asked for hundreds of times while a location loads.
        return tuple(
            (field, ColumnMapping.model_construct(column=mapping) if isinstance(mapping, str) else mapping)
            for field, mapping in self.fields.items()
            if field != self.match
        )

    def columns(self) -> set[str]:
        """Every model column this sync reads."""
        return set(self.key).union(*(columns_of(m) for _, m in self.mappings()))

    def slots(self) -> dict[str, dict[str, ParentLookup]]:
        """Field that points to a sync's record -> slot -> lookup.

        A slot holds a reference to one parent. A field has one slot, of its own name; one that may point to several
        parents has one for each, named ``field.parent``, of which a row that goes fills at most one.
        """
        return self._slots

    @cached_property
    def _slots(self) -> dict[str, dict[str, ParentLookup]]:
        # Made once: the graph of a sequence asks every sync for it again and again.
        found: dict[str, dict[str, ParentLookup]] = {}
        for field, mapping in self.mappings():
            if isinstance(mapping, ParentLookup):
                found[field] = {field: mapping}
            elif isinstance(mapping, ParentsLookup):
                found[field] = {f"{field}.{lookup.parent}": lookup for lookup in mapping.lookups()}
        return found

    def parent_lookups(self) -> dict[str, ParentLookup]:
        """Slot -> lookup of another sync's record, or of this one's."""
        return {slot: lookup for lookups in self.slots().values() for slot, lookup in lookups.items()}

    def field_of(self, slot: str) -> str:
        """The field that a slot belongs to."""
        return next((field for field, lookups in self.slots().items() if slot in lookups), slot)

    def parents(self) -> dict[str, list[str]]:
        """Parent sync -> the slots that point to it, itself included for a self-reference."""
        found: dict[str, list[str]] = {}
        for slot, m in self.parent_lookups().items():
            found.setdefault(m.parent, []).append(slot)
        return found

    def waits_for(self) -> list[str]:
        """The other syncs that must run before this one: parents by a lookup that is not deferred."""
        found = {m.parent: None for m in self.parent_lookups().values() if not m.deferred and m.parent != self.name}
        return list(found)

    def filled_later(self) -> dict[str, ParentLookup]:
        """Slot -> a lookup that a row may go without, and `finish` fills in: deferred ones, and self-references,
        whose loops are broken."""
        return {f: m for f, m in self.parent_lookups().items() if m.deferred or m.parent == self.name}

    def comparable(self) -> list[str]:
        """The fields whose acknowledged value is known afterwards.

        Which record was found for a lookup is not kept, the match field never changes by an update, and a field that
        we only fill may hold what somebody else wrote.
        """
        filled = self.filled_if_empty()
        return [f for f, m in self.mappings() if not isinstance(m, RecordLookup) and f not in filled]

    @property
    def once_at_most(self) -> bool:
        """Whether a row may never be sent again unless it is known that it was not written: it has no match field."""
        return self.match is None

    @property
    def removes(self) -> bool:
        """Whether finish has anything to remove for this sync."""
        return self.mode == "delete" or self.removed != "keep"

    def emptied(self) -> list[str]:
        """The fields that a record loses when its row leaves the model: `removed: clear`."""
        if self.removed != "clear":
            return []
        # What somebody else wrote into a field that we only fill is not ours to empty.
        ours = [f for f, _ in self.mappings() if f not in self.filled_if_empty()]
        return [f for f, _ in self.mappings() if f in (self.clear_fields or ours)]

    def filled_if_empty(self) -> list[str]:
        """The fields that are sent only where the record holds nothing."""
        return [f for f, m in self.mappings() if isinstance(m, ColumnMapping) and m.write == "if_empty"]

    def is_sensitive(self, field: str) -> bool:
        """Whether a field's value must be masked wherever a person could read it."""
        if field in self.sensitive:
            return True
        mapping = self.fields.get(field)
        return mapping is not None and bool(columns_of(mapping) & set(self.sensitive))
