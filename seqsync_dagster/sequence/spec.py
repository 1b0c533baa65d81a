"""What a sequence is, as it stands in YAML. Typed, immutable, and ignorant of SQL, HTTP and Dagster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from seqsync_dagster.sequence.defaults import with_defaults
from seqsync_dagster.sequence.graph import check
from seqsync_dagster.sequence.strict import Strict, nearest

IfMissing = Literal["hold", "send_empty", "reject"]

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


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class ColumnMapping(Strict):
    """A model column's value."""

    column: Annotated[str, Field(description="Column of the model.")]
    nulls: Annotated[
        Literal["clear", "ignore"],
        Field(description="What a null does to the field: `clear` empties it, `ignore` leaves it as it is."),
    ] = "clear"
    write: Annotated[
        Literal["always", "if_empty"],
        Field(
            description="`if_empty` sends the field only where the destination's record holds nothing in it, which is "
            "read before; a new record always gets it."
        ),
    ] = "always"


class ConstantMapping(Strict):
    """The same value for every record."""

    constant: Annotated[str | int | float | bool, Field(description="The value.")]


class ParentLookup(Strict):
    """The record of another sync of this sequence (or of this sync itself: a self-reference)."""

    parent: Annotated[str, Field(description="Name of the sync whose record the field points to.")]
    from_: Annotated[
        tuple[str, ...],
        Field(alias="from", description="Column(s) of this model that hold the parent's key, in its order."),
    ]
    if_missing: Annotated[
        IfMissing,
        Field(description="While the parent has no destination id: `hold` the row, `send_empty`, or `reject` it."),
    ] = "hold"

    nulls: Annotated[
        Literal["clear", "ignore"],
        Field(description="What an empty reference does to the field: `clear` empties it, `ignore` leaves it."),
    ] = "clear"
    deferred: Annotated[
        bool,
        Field(
            description="The sync does not wait for this parent: a row whose parent has no record yet goes without the "
            "field, and `finish` fills it in. For syncs that point at each other; the field must be one that may be "
            "empty and can be updated."
        ),
    ] = False

    _tuple = field_validator("from_", mode="before")(_as_tuple)


class RecordLookup(Strict):
    """A record that no sync writes, found in the destination by one of its fields."""

    lookup: Annotated[str, Field(description="Destination object to search, e.g. `User`.")]
    by: Annotated[str, Field(description="Field of that object to search by, e.g. `Email`.")]
    from_: Annotated[
        str | None, Field(alias="from", description="Column of this model that holds the value to find.")
    ] = None
    value: Annotated[
        str | None, Field(description="The value to find, the same for every record, instead of `from`.")
    ] = None
    if_missing: Annotated[
        IfMissing,
        Field(description="When no record, or more than one, is found: `hold` the row, `send_empty`, or `reject` it."),
    ] = "hold"
    nulls: Annotated[
        Literal["clear", "ignore"],
        Field(description="What an empty reference does to the field: `clear` empties it, `ignore` leaves it."),
    ] = "clear"

    @model_validator(mode="after")
    def _one_source(self) -> RecordLookup:
        if (self.from_ is None) == (self.value is None):
            raise ValueError(
                f"lookup: {self.lookup} needs exactly one of from (a column of the model) and value (the same for "
                "every record)."
            )
        if self.value is not None and not self.value.strip():
            raise ValueError(f"lookup: {self.lookup}: value is blank; say which {self.by} to find.")
        return self


def _mapping_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "name"
    if isinstance(value, dict):
        for kind in ("parent", "lookup", "constant", "column"):
            if kind in value:
                return kind
    for model, kind in (
        (ParentLookup, "parent"),
        (RecordLookup, "lookup"),
        (ConstantMapping, "constant"),
        (ColumnMapping, "column"),
    ):
        if isinstance(value, model):
            return kind
    return None


Mapping = Annotated[
    Annotated[str, Tag("name")]
    | Annotated[ColumnMapping, Tag("column")]
    | Annotated[ConstantMapping, Tag("constant")]
    | Annotated[ParentLookup, Tag("parent")]
    | Annotated[RecordLookup, Tag("lookup")],
    Discriminator(
        _mapping_kind,
        custom_error_type="mapping_form",
        custom_error_message=(
            "a field is mapped to a column name, or to one of {column: ...}, {constant: ...}, "
            "{parent: SYNC, from: COLUMN}, {lookup: OBJECT, by: FIELD, from: COLUMN} or value: instead of from:"
        ),
    ),
]

FieldMapping = ColumnMapping | ConstantMapping | ParentLookup | RecordLookup


class Limit(Strict):
    """A share that must not be exceeded, judged only when enough rows are concerned."""

    percent: Annotated[float, Field(ge=0, le=100, description="Highest share allowed, in percent.")]
    min_rows: Annotated[
        int, Field(ge=0, description="Up to this many rows the limit does not apply, whatever the share.")
    ] = 0

    def exceeded(self, part: int, whole: int) -> bool:
        """Whether `part` rows of `whole` are over the limit."""
        return part > self.min_rows and part * 100 > self.percent * whole

    def __str__(self) -> str:
        return f"{self.percent:g}% (and more than {self.min_rows} rows)"


class Guards(Strict):
    """Limits that a plan must pass before anything is sent. `null` switches one off."""

    max_removed: Annotated[Limit | None, Field(description="Removals, as a share of the acknowledged records.")] = (
        Limit(percent=10, min_rows=50)
    )
    max_updated: Annotated[Limit | None, Field(description="Updates, as a share of the acknowledged records.")] = Limit(
        percent=50, min_rows=50
    )
    max_invalid: Annotated[
        Limit | None, Field(description="Rows with a null key or a key that another row has, as a share of the model.")
    ] = Limit(percent=10, min_rows=50)
    max_created: Annotated[
        Limit | None,
        Field(description="Creates, as a share of the acknowledged records; not in a first run. Default: no limit."),
    ] = None


class Errors(Strict):
    """When a sync fails, what then becomes of the syncs below it, and when a row is given up on."""

    fatal: Annotated[
        Literal["stop", "continue"],
        Field(
            description="When a run of the sync breaks off: `stop` makes the syncs below it wait until one of its runs "
            "ends in order; with `continue` they go on. The run is a failure either way."
        ),
    ] = "stop"
    rejected_rows: Annotated[
        Literal["stop", "hold_children"],
        Field(
            description="When more rows than `max_rejected`, or all, are refused: `stop` makes the syncs below wait "
            "until no more than that are; `hold_children` holds only the rows whose parent is missing. "
            "The run is a failure either way."
        ),
    ] = "hold_children"
    max_rejected: Annotated[Limit, Field(description="Rejected rows, as a share of the rows sent in the run.")] = Limit(
        percent=5, min_rows=20
    )
    quarantine_after: Annotated[
        int,
        Field(
            ge=1,
            description="Refusals of a row with the same values after which it is quarantined: not sent again until "
            "the row or the mapping changes, or a run names it in `requeue`. Refusals for want of a lock, or of a "
            "server, do not count as a reason. Tries are 1, 2, 4, 8, 16 and then 24 hours apart.",
        ),
    ] = 8


class Drift(Strict):
    """Compare the destination's records with what it acknowledged: the asset check `drift`.

    It reads the records back and reports those that somebody changed or deleted there. `drift: {}` switches
    it on as it is.
    """

    fields: Annotated[
        tuple[str, ...],
        Field(
            description="Fields to compare; default: every field that is filled from a column, a constant or a parent. "
            "Leave out what the destination rewrites by itself, e.g. fields that a flow sets."
        ),
    ] = ()
    heal: Annotated[
        bool,
        Field(
            description="Changed records are sent again by the next run; deleted ones become `gone` and wait for an "
            "operator. Default: report only."
        ),
    ] = False
    in_job: Annotated[
        bool,
        Field(
            description="Check at the end of every run of the sequence's job, too. Default: only with the job "
            "`<sequence>_drift`, or when the check is executed by itself."
        ),
    ] = False

    _tuple = field_validator("fields", mode="before")(_as_tuple)


class CronTrigger(Strict):
    """Run at the times of a cron expression."""

    cron: Annotated[str, Field(description="Five-field cron expression, e.g. `0 * * * *`.")]
    timezone: Annotated[str, Field(description="Zone the expression is meant in, e.g. `Europe/Paris`.")] = "UTC"


class ModelsTrigger(Strict):
    """Run when upstream models were materialised by something else than this sequence."""

    models: Annotated[Literal["all", "any"], Field(description="Wait for `all` models, or for `any`.")]


def _trigger_kind(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((k for k in ("cron", "models") if k in value), None)
    return "cron" if isinstance(value, CronTrigger) else "models" if isinstance(value, ModelsTrigger) else None


Trigger = Annotated[
    Annotated[CronTrigger, Tag("cron")] | Annotated[ModelsTrigger, Tag("models")],
    Discriminator(
        _trigger_kind,
        custom_error_type="trigger_form",
        custom_error_message="a trigger is {cron: EXPRESSION, timezone: ZONE} or {models: all | any}",
    ),
]


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
    owners: Annotated[tuple[str, ...], Field(description="E-mail addresses or `team:name`.")] = ()
    errors: Annotated[Errors | None, Field(description="Instead of the sequence's.")] = None
    guards: Annotated[Guards | None, Field(description="Instead of the sequence's.")] = None
    drift: Annotated[
        Drift | None,
        Field(description="Check whether records were changed or deleted in the destination; `{}` for the defaults."),
    ] = None

    _tuples = field_validator("key", "deps", "after", "adopt_by", "sensitive", "owners", "clear_fields", mode="before")(
        _as_tuple
    )

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
        if match is not None and (len(self.key) != 1 or _columns_of(match) != set(self.key)):
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
    def source(self) -> str:
        """The model as a person names it: dbt model, table, or `query`."""
        return self.model or self.table or "query"

    def mappings(self) -> Iterator[tuple[str, FieldMapping]]:
        """The fields with their mappings in full form, in YAML's order, the match field left out."""
        for field, mapping in self.fields.items():
            if field != self.match:
                # Not validated once more: this is asked for many times over.
                yield field, ColumnMapping.model_construct(column=mapping) if isinstance(mapping, str) else mapping

    def columns(self) -> set[str]:
        """Every model column this sync reads."""
        return set(self.key).union(*(_columns_of(m) for _, m in self.mappings()))

    def parent_lookups(self) -> dict[str, ParentLookup]:
        """Field -> lookup of another sync's record, or of this one's."""
        return {f: m for f, m in self.mappings() if isinstance(m, ParentLookup)}

    def parents(self) -> dict[str, list[str]]:
        """Parent sync -> the fields that point to it, itself included for a self-reference."""
        found: dict[str, list[str]] = {}
        for field, m in self.parent_lookups().items():
            found.setdefault(m.parent, []).append(field)
        return found

    def waits_for(self) -> list[str]:
        """The other syncs that must run before this one: parents by a lookup that is not deferred."""
        found = {m.parent: None for m in self.parent_lookups().values() if not m.deferred and m.parent != self.name}
        return list(found)

    def filled_later(self) -> dict[str, ParentLookup]:
        """The lookups that a row may go without, and `finish` fills in: deferred ones, and self-references, whose
        loops are broken."""
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
        return mapping is not None and bool(_columns_of(mapping) & set(self.sensitive))


def _columns_of(mapping: str | FieldMapping) -> set[str]:
    match mapping:
        case str():
            return {mapping}
        case ColumnMapping():
            return {mapping.column}
        case ParentLookup():
            return set(mapping.from_)
        case RecordLookup():
            return {mapping.from_} if mapping.from_ is not None else set()
        case ConstantMapping():
            return set()


class SequenceSpec(Strict):
    """A sequence: syncs that run in the order their references demand, as one Dagster job."""

    name: Annotated[Name, Field(description="Name of the sequence and of its job.")]
    description: Annotated[str | None, Field(description="Shown with the job.")] = None
    owners: Annotated[tuple[str, ...], Field(description="E-mail addresses or `team:name`.")] = ()
    runs_on: Annotated[tuple[Trigger, ...], Field(description="When the sequence runs by itself.")] = ()
    warehouse: Annotated[str, Field(description="Folder in `defs/` of the warehouse that holds the models.")] = (
        "warehouse"
    )
    destination: Annotated[str, Field(description="Folder in `defs/` of the connection to write to.")]
    dbt: Annotated[str | None, Field(description="Folder in `defs/` of the dbt project that builds the models.")] = (
        "dbt"
    )
    order: Annotated[
        Literal["lookups", "listed"],
        Field(
            description="`lookups`: a sync waits for the syncs that its lookups and `after` name, and runs beside the "
            "others. `listed`: it also waits for the one above it in the list."
        ),
    ] = "lookups"
    executor: Annotated[
        Literal["in_process", "multiprocess"] | None,
        Field(
            description="`in_process` runs one step after the other, `multiprocess` gives each step a process of its "
            "own, which takes seconds to start. Default: by the shape of the sequence."
        ),
    ] = None
    max_concurrent: Annotated[
        int | None, Field(ge=1, description="Most steps at a time, with `executor: multiprocess`. Default: 4.")
    ] = None
    recheck_after_hours: Annotated[
        float,
        Field(
            ge=0,
            description="While Dagster knows of no new build of a sync's dbt table and nothing else is due, runs ask "
            "neither warehouse nor destination. After so many hours they compare all the same, because somebody may "
            "have run dbt outside of Dagster; 0: always compare.",
        ),
    ] = 24
    errors: Errors = Errors()
    guards: Guards = Guards()
    source_timezone: Annotated[
        Zone | None,
        Field(
            description="Zone in which the models' timestamps without one are meant, unless a sync says another. "
            "Default: UTC."
        ),
    ] = None
    defaults: Annotated[
        dict[str, Any],
        Field(
            default_factory=dict,
            description="What the syncs share: anything that a sync can say but its name and its model. A sync's own "
            "word counts; `fields` are put together, and `sensitive` adds the columns that a sync maps.",
        ),
    ]
    syncs: Annotated[
        tuple[SyncSpec, ...],
        Field(
            description="The syncs, in any order; or `{from: syncs/*.yaml}`, with one file beside this one for each."
        ),
    ]

    _tuples = field_validator("owners", mode="before")(_as_tuple)

    @field_validator("syncs", mode="after")
    @classmethod
    def _in_its_zone(cls, syncs: tuple[SyncSpec, ...], info: ValidationInfo) -> tuple[SyncSpec, ...]:
        # A sync knows its zone by itself: it decides about what the sync sends.
        own = {"source_timezone": info.data.get("source_timezone")}
        return tuple(s if s.source_timezone is not None else s.model_copy(update=own) for s in syncs)

    @model_validator(mode="before")
    @classmethod
    def _shared(cls, data: Any) -> Any:
        return with_defaults(data, SyncSpec.model_fields)

    @model_validator(mode="after")
    def _whole(self) -> SequenceSpec:
        if not self.syncs:
            raise ValueError("syncs is empty; a sequence has at least one sync.")
        if self.max_concurrent is not None and self.executor != "multiprocess":
            raise ValueError("max_concurrent is for executor: multiprocess; say so, or take it out.")
        check(self)
        return self

    def sync(self, name: str) -> SyncSpec:
        """The sync of that name; `KeyError` when there is none."""
        return next(s for s in self.syncs if s.name == name)

    def errors_of(self, sync: SyncSpec) -> Errors:
        """What the sync says of errors, and what the sequence says where the sync is silent."""
        if sync.errors is None:
            return self.errors
        return self.errors.model_copy(update={n: getattr(sync.errors, n) for n in sync.errors.model_fields_set})

    def guards_of(self, sync: SyncSpec) -> Guards:
        """The sync's own guards, else the sequence's."""
        return sync.guards or self.guards
