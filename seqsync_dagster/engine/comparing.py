"""How a model is compared with its ledger: by a checksum when it may be unchanged, else row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.engine.reading import Reading
from seqsync_dagster.engine.report import Scan
from seqsync_dagster.engine.site import Work
from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.actions import requeued
from seqsync_dagster.ledger.delta import add_exact_twins, differences, write_delta
from seqsync_dagster.ledger.fingerprint import Checksum, Model, checksum, fingerprint, policy_digest, total
from seqsync_dagster.ledger.recent import latest_stamp, lost_fingerprints, read_recent, write_delta_of_keys
from seqsync_dagster.ledger.registry import Registered
from seqsync_dagster.ledger.tables import Shape, StateTables
from seqsync_dagster.warehouse.open import Room
from seqsync_dagster.warehouse.source import ModelSource


@dataclass(frozen=True)
class Comparison:
    """What a comparison found."""

    unchanged: bool
    """The model is the one that was settled last, and nothing waits: no differences were written."""
    differing: int
    """Model rows in the differences."""
    rows: int | None
    """Rows of the model; None when the run looked at some of them only."""
    checksum: Checksum | None
    """Of the model as it was compared; None when that is not known for certain."""
    by_key: bool = False
    """The differences are all rows of some keys, and `rows` those that were read."""
    seen: Mapping[str, Any] = field(default_factory=dict)
    """Columns of ``syncs`` that are true once what was compared is settled, because it was."""
    scan: Scan | None = None


@dataclass(frozen=True)
class Against:
    """What the model is compared with, and how."""

    tables: StateTables
    known: Registered | None
    digest: str
    """Of the mapping as it is now."""
    case_sensitive: Mapping[str, bool]
    """Of the match fields, by sync."""
    arrivals: Mapping[str, int]
    """Destination ids that each parent's ledger has received so far."""
    full: bool
    """Every row is due."""
    stale: bool
    """Rows lost their fingerprint just now, to a parent's new id."""
    reading: Reading | None = None
    """How much of the model is read; None: all of it."""


def compare(work: Work, room: Room, source: ModelSource, model: Model, against: Against) -> Comparison:
    """Compare, and write the differences to the temporary table DELTA unless there can be none."""
    reading = against.reading
    if reading is None:
        return _compare_whole(work, room, source, model, against)
    if reading.since is not None:
        return _compare_recent(work, room, model, against, reading, reading.since)
    # Before the rows themselves, so that one that is added meanwhile is not taken for seen.
    latest = latest_stamp(room.connection, model, reading.stamps, reading.now)
    compared = _compare_whole(work, room, source, model, against)
    # Of a run for some rows only there is nothing to tell.
    scan = None if compared.rows is None else reading.told(compared.rows)
    return replace(compared, seen=reading.seen(latest), scan=scan)


def _compare_recent(work: Work, room: Room, model: Model, against: Against, reading: Reading, since: str) -> Comparison:
    sync, connection, tables = work.sync, room.connection, against.tables
    assert against.known is not None
    recent = read_recent(
        connection,
        model,
        sync,
        tables,
        reading.stamps,
        since,
        case_sensitive=against.case_sensitive[sync.name],
        now=reading.began,
        now_as_stamp=reading.now,
    )
    seen, scan = reading.seen(recent.latest), reading.told(recent.rows)
    if not recent.changed and not _anything_due(work, room, against, against.known):
        differing = recent.rows - recent.as_acknowledged
        return Comparison(True, differing, recent.rows, None, by_key=True, seen=seen, scan=scan)
    sensitive = against.case_sensitive
    others = write_delta_of_keys(connection, model, sync, tables, reading.stamps, since, case_sensitive=sensitive)
    differing = differences(connection, Shape.of(sync)).model_rows
    return Comparison(False, differing, others + differing, None, by_key=True, seen=seen, scan=scan)


def _anything_due(work: Work, room: Room, against: Against, known: Registered) -> bool:
    connection, tables = room.connection, against.tables
    return bool(
        work.options.actions_on(work.sync.name)
        or requeued(connection, tables, work.site.sequence.name, work.sync.name)
        or _anything_waits(connection, tables, known, against.arrivals)
        or lost_fingerprints(connection, tables)
    )


def _compare_whole(work: Work, room: Room, source: ModelSource, model: Model, against: Against) -> Comparison:
    sync, connection, tables = work.sync, room.connection, against.tables
    known, partial = against.known, work.options.partial
    counted: Checksum | None = None
    rows: int | None = None
    if known is not None and _may_be_unchanged(work, room, source, model, against, known):
        rows, sum_of_all = connection.execute(checksum(model, sync)).one()
        counted = Checksum(rows, sum_of_all)
        if known.checksum == counted:
            return Comparison(True, 0, rows, counted)
    elif not partial and not against.full:
        # Before the rows themselves, so that one that is added meanwhile is not taken for settled.
        rows = connection.execute(sa.select(sa.func.count()).select_from(model.relation)).scalar_one()
    write_delta(
        connection,
        model,
        sync,
        tables,
        case_sensitive=against.case_sensitive,
        full=against.full,
        only_keys=work.options.only_keys,
    )
    found = differences(connection, Shape.of(sync))
    if partial:
        return Comparison(False, found.model_rows, None, None)
    if rows is None:
        return Comparison(False, found.model_rows, found.model_rows, Checksum(found.model_rows, str(found.model_total)))
    ledger = tables.ledger
    held, held_total = connection.execute(
        sa.select(sa.func.count(ledger.c.fingerprint), total(ledger.c.fingerprint)).select_from(ledger)
    ).one()
    matching, matched = rows - found.model_rows, held - found.ledger_rows
    if matching > matched:
        add_exact_twins(connection, model, sync, against.case_sensitive)
        return Comparison(False, differences(connection, Shape.of(sync)).model_rows, rows, counted)
    if counted is None and matching == matched:
        # Each of the ledger's other fingerprints stands in the model once, so their sum is the sum of those rows.
        counted = Checksum(rows, str(int(held_total) - found.ledger_total + found.model_total))
    return Comparison(False, found.model_rows, rows, counted)


def _may_be_unchanged(
    work: Work, room: Room, source: ModelSource, model: Model, against: Against, known: Registered
) -> bool:
    """Whether a checksum is worth a scan of its own."""
    if work.options.partial or against.full or against.stale or known.checksum is None:
        return False
    if requeued(room.connection, against.tables, work.site.sequence.name, work.sync.name):
        return False
    if work.options.actions_on(work.sync.name):
        return False
    if (known.mapping_digest, known.policy_digest) != (against.digest, policy_digest(work.sync)):
        return False
    if _anything_waits(room.connection, against.tables, known, against.arrivals):
        return False
    return not _sample_differs(work, room, source, model, against.tables, known)


def _anything_waits(
    connection: sa.Connection, tables: StateTables, known: Registered, arrivals: Mapping[str, int]
) -> bool:
    ledger = tables.ledger
    due = [
        sa.and_(ledger.c.state == t.REJECTED, ledger.c.retry_at <= datetime.now(UTC)),
        ledger.c.state == t.UNRESOLVED,
        # To be looked for again by match, once.
        sa.and_(ledger.c.state == t.GONE, ledger.c.retry_at.is_not(None)),
        # Whether somebody created the looked-up record meanwhile, only the destination knows.
        sa.and_(ledger.c.state == t.HELD, ledger.c.code == "LOOKUP_MISSING"),
    ]
    if dict(known.parent_arrivals) != dict(arrivals):
        due.append(ledger.c.state == t.HELD)
    return connection.execute(sa.select(sa.func.count()).select_from(ledger).where(sa.or_(*due))).scalar_one() > 0


def _sample_differs(
    work: Work, room: Room, source: ModelSource, model: Model, tables: StateTables, known: Registered
) -> bool:
    """Whether some of the model's rows, taken at random, show that it has changed.

    A guess that decides about speed only: rows that wait differ from the ledger
    for good, so a sample shows some of them too.
    """
    relation = room.sample(source, sorted(work.sync.columns()))
    if relation is None or known.checksum is None:
        return False
    hashed = sa.select(fingerprint(Model(relation, model.types), work.sync).label("fp")).select_from(relation)
    sample, ledger = hashed.subquery("sample"), tables.ledger
    looked_at, matching = room.connection.execute(
        sa.select(sa.func.count(), sa.func.count(ledger.c.fingerprint)).select_from(
            sample.outerjoin(ledger, ledger.c.fingerprint == sample.c.fp)
        )
    ).one()
    waiting = sum(
        known.last_counts.get(n, 0)
        for n in (
            "waiting",
            "rejected",
            "held_pending",
            "held_missing",
            "invalid_null",
            "invalid_duplicate",
            "kept",
            "skipped",
        )
    )
    expected = looked_at * waiting / max(1, known.checksum.rows)
    return bool(looked_at - matching > 2 * expected + 2)
