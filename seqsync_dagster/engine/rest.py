"""Step 0: is there anything to do? Told from the journal alone, so that no warehouse wakes up for a no.

A sync is at rest when its last run compared the whole model with the ledger and left nothing that a later run could
do by itself: the model was not built since, nothing in YAML has changed, no refused row is due, no parent has got a new
id, no looked-up record is awaited.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.engine.planning import Planned
from seqsync_dagster.engine.report import Counts, Scan, SyncReport
from seqsync_dagster.engine.reporting import summary, verdict
from seqsync_dagster.engine.site import Site, Work
from seqsync_dagster.journal.rests import Rest
from seqsync_dagster.ledger import registry
from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.removals import count_due
from seqsync_dagster.ledger.tables import StateTables
from seqsync_dagster.warehouse.open import Room


def at_rest(site: Site, sync_name: str, build: str | None, options: RunOptions) -> SyncReport | None:
    """What a run that finds nothing to do tells; None when the warehouse has to be asked.

    `build` names the materialisation of the model that would be compared; None: it is not known.
    """
    began = time.monotonic()
    if build is None or options != RunOptions():
        return None
    sequence, sync = site.sequence, site.sequence.sync(sync_name)
    rests = site.journal.rests_of(sequence.name).all()
    rest = rests.get(sync_name)
    now = datetime.now(UTC)
    if rest is None or rest.build != build or rest.digest != _digest(site):
        return None
    if now - rest.compared_at >= timedelta(hours=sequence.recheck_after_hours):
        return None
    if rest.due_at is not None and rest.due_at <= now:
        return None
    there = {p: rests[p].arrivals if p in rests else None for p in rest.parents}
    if there != dict(rest.parents) or not site.warehouse.may_hold(sequence.name, sync_name):
        return None
    counts = Counts(**rest.counts)
    limit = sequence.errors_of(sync).max_rejected
    found = verdict(counts, limit)
    return SyncReport(
        sequence=sequence.name,
        sync=sync_name,
        plan_id="-",
        counts=counts,
        verdict=found,
        summary=f"{summary(sync_name, counts, found, limit)} Its model was not built again since "
        f"{rest.compared_at:%Y-%m-%d %H:%M} UTC, so nothing was asked.",
        resync_reason=None,
        problems=(),
        changes=(),
        seconds=time.monotonic() - began,
        rows_per_second=0.0,
        api_calls=0,
        row_bearing_calls=0,
        destination="",
        scan=None if sync.full_scan is None else Scan(False, 0, None, None),
    )


def finish_at_rest(site: Site) -> bool:
    """Whether `finish` would find nothing to do, as far as the journal knows."""
    rests = site.journal.rests_of(site.sequence.name).all()
    digest = _digest(site)
    return all(
        s.name in rests and rests[s.name].digest == digest and not rests[s.name].finish_due for s in site.sequence.syncs
    )


def forget_rest(site: Site, sync_name: str) -> None:
    """Something is done to a sync's ledger, or is about to be."""
    site.journal.rests_of(site.sequence.name).forget(sync_name)


def note_rest(work: Work, room: Room, build: str | None, planned: Planned, counts: Counts) -> None:
    """After a run that compared the whole model: keep that there is nothing more to do, if so."""
    if build is None or work.options.partial or planned.arrivals is None:
        return
    connection, tables = room.connection, work.tables(room.schema)
    known = registry.read(connection, tables, work.site.sequence.name, work.sync.name)
    full_scan, scan = work.sync.full_scan, planned.compared.scan if planned.compared is not None else None
    certain = known is not None and known.checksum is not None
    if full_scan is not None:
        certain = scan is not None and known is not None and known.since_mark is not None
    if known is None or not certain or _awaited(connection, tables):
        # Without a checksum, or a mark, it is not certain that model and ledger agree.
        return
    ledger = tables.ledger
    # A record that is gone is looked for once more.
    tried_again = sa.select(sa.func.min(ledger.c.retry_at)).where(ledger.c.state.in_([t.REJECTED, t.GONE]))
    due: datetime | None = connection.execute(tried_again).scalar_one()
    if full_scan is not None and known.full_scan_at is not None:
        scan_due = full_scan.after(known.full_scan_at)
        due = scan_due if due is None else min(due, scan_due)
    rest = Rest(
        build=build,
        digest=_digest(work.site),
        compared_at=datetime.now(UTC),
        due_at=due,
        arrivals=known.arrivals,
        parents=planned.arrivals,
        finish_due=_finish_due(work, connection, tables, counts),
        counts=_resting(counts),
    )
    connection.rollback()
    work.site.journal.rests_of(work.site.sequence.name).note(work.sync.name, rest)


def _finish_due(work: Work, connection: sa.Connection, tables: StateTables, counts: Counts) -> bool:
    # The parent of a deferred lookup may get another id at any time, and this sync does not wait for it.
    deferred = any(m.deferred for m in work.sync.parent_lookups().values())
    return deferred or counts.references_due > 0 or count_due(connection, tables) > 0


def _awaited(connection: sa.Connection, tables: StateTables) -> bool:
    # Whether somebody created the looked-up record meanwhile, only the destination knows.
    ledger = tables.ledger
    awaited = sa.or_(
        ledger.c.state == t.UNRESOLVED, sa.and_(ledger.c.state == t.HELD, ledger.c.code == "LOOKUP_MISSING")
    )
    return connection.execute(sa.select(sa.func.count()).select_from(ledger).where(awaited)).scalar_one() > 0


def _resting(counts: Counts) -> Mapping[str, int]:
    """The counts of a run right after this one, which finds nothing to do."""
    after = Counts(
        model=counts.model,
        waiting=counts.waiting + counts.rejected,
        held_pending=counts.held_pending,
        held_missing=counts.held_missing,
        invalid_null=counts.invalid_null,
        invalid_duplicate=counts.invalid_duplicate,
        kept=counts.kept,
        skipped=counts.skipped,
        references_due=counts.references_due,
    )
    waiting = after.waiting + after.held + after.invalid + after.kept + after.skipped
    # With changed_since, what waits may not be among the rows that were read.
    return asdict(replace(after, unchanged=max(after.model - waiting, 0)))


def _digest(site: Site) -> str:
    # Of the whole sequence: what one sync does may hang on another's mapping.
    text = f"{site.sequence.model_dump_json(by_alias=True)} {site.warehouse.place}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
