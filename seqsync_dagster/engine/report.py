"""What a run tells about itself: the one thing that leaves the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Verdict = Literal["success", "partial", "over_limit"]


@dataclass(frozen=True)
class Counts:
    """Rows of the model, and of one run over them. Every count is of rows."""

    model: int = 0
    """Rows in the model; with `changed_since`, those that were read."""
    planned: int = 0
    """Rows the plan wanted to send."""
    created: int = 0
    """Records the destination says it created for us."""
    adopted: int = 0
    """Records that were there already when they became ours."""
    adopted_as_is: int = 0
    """Of these, records that held their rows' values: nothing was written."""
    updated: int = 0
    """Acknowledged records whose values we changed."""
    removed: int = 0
    """Records deleted by this run."""
    absent: int = 0
    """Rows of `mode: delete` whose record was not there, or not any more."""
    kept: int = 0
    """Rows that changed since their record was created, with `mode: insert`: never sent."""
    unchanged: int = 0
    """Rows whose values are what the destination acknowledged last time."""
    rejected: int = 0
    """Rows the destination refused in this run."""
    rejected_again: int = 0
    """Of these, rows refused before with the very same values."""
    refused: int = 0
    """Of the rejected rows, those that were never sent: `if_missing: reject`, or no record to update."""
    refused_again: int = 0
    """Of these, rows refused before with the very same values."""
    waiting: int = 0
    """Rows refused earlier that wait for a change of theirs or for their next try."""
    skipped: int = 0
    """Rows that an operator has skipped."""
    held_pending: int = 0
    """Rows held because their parent is known but has no destination id yet."""
    held_missing: int = 0
    """Rows held because their parent is not in its model, or no record was found for a lookup."""
    invalid_null: int = 0
    """Rows with a null key, never sent."""
    invalid_duplicate: int = 0
    """Rows that share their key with another row, never sent."""
    removals_due: int = 0
    """Records to be deleted, or emptied, by `finish`."""
    references_due: int = 0
    """Records with a reference that `finish` has still to fill in: deferred ones, and where a loop was broken."""
    removals_kept: int = 0
    """Rows that left the model while `removed: keep` leaves their records alone."""

    @property
    def held(self) -> int:
        """Rows held for whatever reason."""
        return self.held_pending + self.held_missing

    @property
    def invalid(self) -> int:
        """Rows never sent because of their key."""
        return self.invalid_null + self.invalid_duplicate

    @property
    def sent(self) -> int:
        """Rows the destination gave its word on in this run."""
        return self.created + self.adopted - self.adopted_as_is + self.updated + self.rejected - self.refused


@dataclass(frozen=True)
class Scan:
    """How much of its model a run of a sync with `changed_since` has read."""

    full: bool
    """The whole model was compared; only then are rows seen that left it."""
    rows: int
    """Rows of the model, or of the range of changes; rows that waited were read besides."""
    since: str | None
    """The changes from this one on were read, as the model's column has it; None: all."""
    last_full: datetime | None
    """When the last full scan began, this one counted."""
    why: str = ""
    """Why the scan was a full one, when it was."""

    def __str__(self) -> str:
        if self.full:
            return f"Full scan of {self.rows} rows: {self.why}."
        if self.since is None:
            return "Nothing was read."
        last = "" if self.last_full is None else f"; last full scan {self.last_full:%Y-%m-%d %H:%M} UTC"
        return f"Read {self.rows} rows changed since {self.since}{last}."


@dataclass(frozen=True)
class RowProblem:
    """One row that was not acknowledged. Sensitive values are masked already."""

    key: str
    status: str
    """``rejected``, ``held``, ``invalid``, ``waiting``, ``kept`` or ``skipped``."""
    code: str
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RowChange:
    """One row that was sent, for a sample. Sensitive values are masked already."""

    key: str
    operation: str
    """``created``, ``adopted``, ``updated`` or ``removed``."""
    dest_id: str
    url: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SyncReport:
    """What one run of one sync did. `run_sync` returns it only for a run that ended in order."""

    sequence: str
    sync: str
    plan_id: str
    counts: Counts
    verdict: Verdict
    """``success``: nothing rejected or held. ``partial``: within the limit. ``over_limit``: the run must be red."""
    summary: str
    """One sentence for a person, with the numbers that matter."""
    resync_reason: str | None
    """Why every row was due, when every row was."""
    problems: tuple[RowProblem, ...]
    """The first rows that were not acknowledged, at most 100."""
    changes: tuple[RowChange, ...]
    """The first rows that were sent, at most 20."""
    seconds: float
    rows_per_second: float
    api_calls: int
    row_bearing_calls: int
    destination: str
    """Organisation that was written to: name and id."""
    scan: Scan | None = None
    """With `changed_since`: how much of the model was read. None: all of it, or nothing was asked."""
    object_url: str = ""
    """Page that lists the object's records."""
    some_rows: bool = False
    """The run was for rows that somebody named; `counts` are of these alone."""


@dataclass(frozen=True)
class FieldChange:
    """One field of a planned row. Sensitive values are masked already."""

    field: str
    before: str | None
    """What the record holds now, as the destination writes it; None: empty, or there is no record yet."""
    after: str | None
    """What would be sent; None: the field would be emptied."""


@dataclass(frozen=True)
class PlannedRow:
    """One row that a run would send."""

    key: str
    operation: str
    """``create``, ``update``, or ``adopt``: an update of a record that was there before us."""
    dest_id: str
    url: str
    changes: tuple[FieldChange, ...]
    """Fields that would hold something else than now."""


@dataclass(frozen=True)
class PlanReport:
    """What a run of one sync would do. Nothing of it was done."""

    sequence: str
    sync: str
    review_id: str
    """Given as `plan_id` to a run of the sequence, it sends exactly this, and what was planned together with it."""
    plan_id: str
    expires_at: datetime
    counts: Counts
    """Of the plan: rows that would be created, updated or rejected are not known yet."""
    creates: int
    updates: int
    follow: int
    """Rows held now that would go with the same run, after the parents that it creates."""
    stay_held: int
    removals: int
    """Records that `finish` would delete, those due from earlier runs included."""
    calls: int
    """About how many API calls it would take."""
    guard: str | None
    """What a guard would say, and how to let the plan pass; None when it passes."""
    resync_reason: str | None
    risks: tuple[str, ...]
    """What preflight finds worth a look."""
    rows: tuple[PlannedRow, ...]
    """The first rows of each operation, at most ten."""
    problems: tuple[RowProblem, ...]
    """The first rows that would not go, at most 100."""
    destination: str
    summary: str
    api_calls: int
    """Calls that planning itself has made."""
    seconds: float


@dataclass(frozen=True)
class FinishReport:
    """What `finish` did: references filled in and removals, per sync in the order they were sent.

    With `removed: clear` a record is removed when its fields are empty.
    """

    sequence: str
    removed: Mapping[str, int]
    rejected: Mapping[str, int]
    kept_for_children: Mapping[str, int]
    """Removals that wait because a child's record still points at them."""
    problems: tuple[RowProblem, ...]
    """The first removals that were not acknowledged, at most 100 per round."""
    summary: str
    api_calls: int
    row_bearing_calls: int
    seconds: float
    referenced: Mapping[str, int] = field(default_factory=dict)
    """Records whose references were filled in."""
    references_rejected: Mapping[str, int] = field(default_factory=dict)
    """Records whose references the destination refused, or that have no parent while `if_missing: reject`."""
    references_held: Mapping[str, int] = field(default_factory=dict)
    """References that wait for their parent to get a record."""
    references_waiting: Mapping[str, int] = field(default_factory=dict)
    """Records whose references were refused earlier and wait for their next try."""
    reference_problems: tuple[RowProblem, ...] = ()
    """The first references that were not acknowledged, at most 100 of each sync."""
    references_over_limit: tuple[str, ...] = ()
    """Syncs of whose references too many were refused: the run must be red."""


@dataclass(frozen=True)
class DriftSample:
    """One field of one record that does not hold what was acknowledged. Sensitive values are masked already."""

    key: str
    field: str
    """Empty when the record itself is not there any more."""
    expected: str | None
    """As the destination writes it; None: empty."""
    found: str | None
    dest_id: str
    url: str


@dataclass(frozen=True)
class DriftReport:
    """How what a destination holds differs from what it acknowledged. Every count is of records."""

    sequence: str
    sync: str
    checked: int
    """Acknowledged records that were looked for."""
    compared: int
    """Of these, records whose values were compared: their rows are as they were acknowledged."""
    changed: int
    """Records of which a field holds something else."""
    deleted: int
    """Records that are not there any more: deleted, merged into another, or out of the user's sight."""
    by_field: Mapping[str, int]
    """Changed records per field, the most frequent field first."""
    samples: tuple[DriftSample, ...]
    """Up to ten per field, and ten deleted records."""
    left_out: tuple[str, ...]
    """Mapped fields that were not compared."""
    made_due: int
    """Changed records that the next run sends again."""
    made_gone: int
    """Deleted records that became `gone` in the ledger."""
    summary: str
    """One or two sentences for a person."""
    api_calls: int
    seconds: float

    @property
    def drifted(self) -> int:
        """Records changed or deleted."""
        return self.changed + self.deleted
