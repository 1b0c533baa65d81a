"""What a sequence puts up with: guards, errors, drift."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from seqsync_dagster.sequence.strict import Strict
from seqsync_dagster.sequence.words import as_tuple


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

    _tuple = field_validator("fields", mode="before")(as_tuple)
