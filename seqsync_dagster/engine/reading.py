"""How much of its model a run reads: all of it, or with `changed_since` what changed since the last settled run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from seqsync_dagster.engine.report import Scan
from seqsync_dagster.engine.site import Work
from seqsync_dagster.errors import ConfigurationError
from seqsync_dagster.ledger.fingerprint import policy_digest
from seqsync_dagster.ledger.recent import Stamps
from seqsync_dagster.ledger.registry import Registered
from seqsync_dagster.sequence.since import ChangedSince
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.column_types import read_type
from seqsync_dagster.warehouse.source import ModelSource


@dataclass(frozen=True)
class Reading:
    """What one run of a sync with `changed_since` reads."""

    stamps: Stamps
    of: str
    """Names the column, its type and the relation; a mark of another one says nothing."""
    mark: str | None
    """The latest stamp that a settled run has seen, as ISO 8601 text."""
    since: str | None
    """Rows from this stamp on are read; None: the whole model is."""
    began: datetime
    now: str
    """The same moment, as it would stand in the column."""
    last_full: datetime | None
    """When the last settled full scan began."""
    why: str
    """Why the whole model is read, when it is."""

    def seen(self, latest: datetime | None) -> Mapping[str, Any]:
        """Columns of ``syncs`` that are true once what was read is settled. `latest`: of the stamps read."""
        found = None if latest is None else _as_text(latest, self.stamps)
        if self.since is None:
            return {"since_of": self.of, "since_mark": found, "full_scan_at": self.began}
        # A row that was the latest may have gone.
        return {"since_mark": max(filter(None, (found, self.mark)), default=None)}

    def told(self, rows: int) -> Scan:
        """For people: what was read."""
        return Scan(
            self.since is None, rows, self.since, self.began if self.since is None else self.last_full, self.why
        )


def choose_reading(
    work: Work, source: ModelSource, type_: str, known: Registered | None, *, reading_all: str | None
) -> Reading | None:
    """What a run reads; None for a sync without `changed_since`, which always reads everything.

    `type_`: of the column. `reading_all`: why everything must be read, where that is known already.
    Raises `ConfigurationError` when the column is neither a date nor a timestamp.
    """
    sync, since = work.sync, work.sync.since
    if since is None or sync.full_scan is None:
        return None
    kind = read_type(type_).kind
    if kind not in ("date", "datetime"):
        raise ConfigurationError(
            f"sync {sync.name}: changed_since names {since.column!r}, which is of type {type_} in {source.label}. It "
            "must be a date or a timestamp: cast it in the model. Nothing was sent."
        )
    name = type_.lower()
    zoned = kind == "datetime" and (name.startswith("timestamptz") or "with time zone" in name)
    stamps = Stamps(since.column, type_, zoned)
    began = datetime.now(UTC)
    of = _named(since, type_, source)
    last_full = None if known is None or known.full_scan_at is None else known.full_scan_at.astimezone(UTC)
    mark = None if known is None or known.since_of != of else known.since_mark
    why = reading_all or _why_everything(work, known, of, mark, last_full, began)
    now = began if zoned else began.astimezone(ZoneInfo(sync.source_timezone or "UTC")).replace(tzinfo=None)
    return Reading(
        stamps=stamps,
        of=of,
        mark=mark,
        since=_start(since, mark, kind == "date") if mark is not None and not why else None,
        began=began,
        now=now.date().isoformat() if kind == "date" else now.isoformat(),
        last_full=last_full,
        why=why or "",
    )


def _named(since: ChangedSince, type_: str, source: ModelSource) -> str:
    relation = hashlib.sha256(f"{source.schema} {source.table} {source.query}".encode()).hexdigest()[:16]
    return f"{since.column} {type_} {relation}"


def _why_everything(
    work: Work, known: Registered | None, of: str, mark: str | None, last_full: datetime | None, now: datetime
) -> str | None:
    sync: SyncSpec = work.sync
    assert sync.full_scan is not None
    if work.options.partial:
        return "the run is for some rows only"
    if known is None or last_full is None:
        return "it is the first one"
    if known.since_of != of:
        return "the model, or the column of changed_since, is another one"
    if mark is None:
        return f"no row had a {sync.since.column if sync.since else 'stamp'} so far"
    if known.policy_digest != policy_digest(sync):
        return "what becomes of rows that wait or left has changed"
    if sync.full_scan.latest(now) > last_full:
        return f"it is due by {sync.full_scan.cron} ({sync.full_scan.timezone})"
    return None


def _start(since: ChangedSince, mark: str, of_dates: bool) -> str:
    """Where reading starts. Never a fraction of a second late: columns may be coarser than our clocks."""
    start = (datetime.fromisoformat(mark) - since.overlap).replace(microsecond=0)
    return start.date().isoformat() if of_dates else start.isoformat()


def _as_text(latest: datetime | date, stamps: Stamps) -> str:
    if not isinstance(latest, datetime):
        latest = datetime(latest.year, latest.month, latest.day)
    # Of one length, so that marks compare as texts.
    return (latest.astimezone(UTC) if stamps.zoned else latest).isoformat(timespec="microseconds")
