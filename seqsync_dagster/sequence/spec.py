"""What a sequence is, as it stands in YAML. Typed, immutable, and ignorant of SQL, HTTP and Dagster."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from seqsync_dagster.sequence.alerts import Alert, Alerts
from seqsync_dagster.sequence.defaults import with_defaults
from seqsync_dagster.sequence.durations import Duration
from seqsync_dagster.sequence.graph import check
from seqsync_dagster.sequence.limits import Errors, Guards
from seqsync_dagster.sequence.strict import Strict
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.sequence.triggers import Trigger
from seqsync_dagster.sequence.words import Name, Zone, as_tuple


class SequenceSpec(Strict):
    """A sequence: syncs that run in the order their references demand, as one Dagster job."""

    name: Annotated[Name, Field(description="Name of the sequence and of its job.")]
    description: Annotated[str | None, Field(description="Shown with the job.")] = None
    owners: Annotated[tuple[str, ...], Field(description="E-mail addresses or `team:name`.")] = ()
    tags: Annotated[
        dict[str, str], Field(default_factory=dict, description="Tags of the job and of every sync in Dagster.")
    ]
    links: Annotated[
        dict[str, str],
        Field(
            default_factory=dict, description="Pages that every sync links to, by their names: {runbook: https://...}."
        ),
    ]
    fresh_within: Annotated[
        Duration | None,
        Field(description="Dagster shows a sync as stale when its last run is longer ago, e.g. `26h`. Default: never."),
    ] = None
    show_objects: Annotated[
        bool,
        Field(
            description="Show the destination's objects (`salesforce/Contact`) as external assets below the syncs. "
            "Switch off where assets of these keys are there already."
        ),
    ] = True
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
    errors: Annotated[Errors, Field(description="What becomes of the rest when a sync fails, or rows are refused.")] = (
        Errors()
    )
    guards: Annotated[Guards, Field(description="Limits that a plan must keep to before anything of it is sent.")] = (
        Guards()
    )
    alerts: Annotated[
        Alerts,
        # Decides about no row, and must not be kept where plans and digests are.
        Field(exclude=True, description="Who is told when something goes wrong with any of the syncs, and afterwards."),
    ] = ()
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

    _tuples = field_validator("owners", mode="before")(as_tuple)

    @field_validator("defaults", mode="after")
    @classmethod
    def _without_addresses(cls, defaults: dict[str, Any]) -> dict[str, Any]:
        # The syncs have them; here they would stand as they were written, with their secrets.
        return {name: value for name, value in defaults.items() if name != "alerts"}

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
        for sync in self.syncs:
            if sync.name == name:
                return sync
        raise KeyError(name)

    def errors_of(self, sync: SyncSpec) -> Errors:
        """What the sync says of errors, and what the sequence says where the sync is silent."""
        if sync.errors is None:
            return self.errors
        return self.errors.model_copy(update={n: getattr(sync.errors, n) for n in sync.errors.model_fields_set})

    def alerts_of(self, sync: str) -> tuple[Alert, ...]:
        """The sequence's alerts, and the sync's own. `sync` may also be ``finish``."""
        own = next((s.alerts for s in self.syncs if s.name == sync), ())
        return (*self.alerts, *own)

    def guards_of(self, sync: SyncSpec) -> Guards:
        """The sync's own guards, else the sequence's."""
        return sync.guards or self.guards
