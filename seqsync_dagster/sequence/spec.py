"""What a sequence is, as it stands in YAML. Typed, immutable, and ignorant of SQL, HTTP and Dagster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from seqsync_dagster.sequence.defaults import with_defaults
from seqsync_dagster.sequence.graph import check
from seqsync_dagster.sequence.strict import Strict, nearest

IfMissing = Literal["hold", "send_empty", "reject"]

#: Longest sequence or sync name: both become part of table names, and PostgreSQL cuts those at 63 bytes.
MAX_NAME = 24
_NAME = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=_NAME, max_length=MAX_NAME)]


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class ColumnMapping(Strict):
    """A model column's value."""

    column: Annotated[str, Field(description="Column of the model.")]
    nulls: Annotated[
        Literal["clear", "ignore"],
        Field(description="What a null does to the field: `clear` empties it, `ignore` leaves it as it is."),
    ] = "clear"


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

    _tuple = field_validator("from_", mode="before")(_as_tuple)


class RecordLookup(Strict):
    """A record that no sync writes, found in the destination by one of its fields."""

    lookup: Annotated[str, Field(description="Destination object to search, e.g. `User`.")]
    by: Annotated[str, Field(description="Field of that object to search by, e.g. `Email`.")]
    from_: Annotated[str, Field(alias="from", description="Column of this model that holds the value to find.")]
    if_missing: Annotated[
        IfMissing,
        Field(description="When no record, or more than one, is found: `hold` the row, `send_empty`, or `reject` it."),
    ] = "hold"
    nulls: Annotated[
        Literal["clear", "ignore"],
        Field(description="What an empty reference does to the field: `clear` empties it, `ignore` leaves it."),
    ] = "clear"


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
            "{parent: SYNC, from: COLUMN}, {lookup: OBJECT, by: FIELD, from: COLUMN}"
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
            "the row or the mapping changes, or a run names it in `only_keys`. Refusals for want of a lock, or of a "
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
    match: Annotated[str, Field(description="Destination field (external id) that the key is matched on.")]
    mode: Annotated[
        Literal["upsert", "update"],
        Field(description="`upsert` creates and updates; `update` never creates."),
    ] = "upsert"
    removed: Annotated[
        Literal["keep", "delete"],
        Field(description="What becomes of a record whose row left the model. Only records we created."),
    ] = "keep"
    delete_adopted: Annotated[
        bool, Field(description="`removed: delete` also deletes records that were there before us.")
    ] = False
    fields: Annotated[dict[str, Mapping], Field(description="Destination field <- where its value comes from.")]
    sensitive: Annotated[
        tuple[str, ...], Field(description="Model columns whose values are masked in tables, logs and metadata.")
    ] = ()
    owners: Annotated[tuple[str, ...], Field(description="E-mail addresses or `team:name`.")] = ()
    errors: Annotated[Errors | None, Field(description="Instead of the sequence's.")] = None
    guards: Annotated[Guards | None, Field(description="Instead of the sequence's.")] = None
    drift: Annotated[
        Drift | None,
        Field(description="Check whether records were changed or deleted in the destination; `{}` for the defaults."),
    ] = None

    _tuples = field_validator("key", "deps", "after", "sensitive", "owners", mode="before")(_as_tuple)

    @model_validator(mode="after")
    def _whole(self) -> SyncSpec:
        where = f"sync {self.name!r}"
        named = [n for n in ("model", "table", "query") if getattr(self, n)]
        if len(named) != 1:
            raise ValueError(
                f"{where}: say where its rows come from with exactly one of model, table, query; "
                f"found {' and '.join(named) or 'none'}."
            )
        if not self.key:
            raise ValueError(f"{where}: key names the model's primary key column(s); it is empty.")
        if not self.fields:
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
        match = self.fields.get(self.match)
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

    def comparable(self) -> list[str]:
        """The fields whose acknowledged value is known afterwards.

        Which record was found for a lookup is not kept, and the match field never changes by an update.
        """
        return [f for f, m in self.mappings() if not isinstance(m, RecordLookup)]

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
            return {mapping.from_}
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
    errors: Errors = Errors()
    guards: Guards = Guards()
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
