"""The drift check: what the destination acknowledged against what it holds now."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from seqsync_dagster.destinations.protocol import DEST_ID
from seqsync_dagster.engine.differing import differing_fields
from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.engine.recover import recover
from seqsync_dagster.engine.report import DriftReport, DriftSample
from seqsync_dagster.engine.rest import forget_rest
from seqsync_dagster.engine.site import Site, Work, checked_account
from seqsync_dagster.errors import LedgerLost, StateError
from seqsync_dagster.journal import Scope
from seqsync_dagster.ledger import drift as records
from seqsync_dagster.ledger import registry
from seqsync_dagster.ledger.fingerprint import OUT_OF_STEP, Model, mapping_digest
from seqsync_dagster.ledger.registry import Registered
from seqsync_dagster.ledger.rows import MASK
from seqsync_dagster.sequence.limits import Drift, Limit
from seqsync_dagster.warehouse.open import Room, check_types, reraise
from seqsync_dagster.warehouse.source import ModelSource

#: Records per page: what is held in memory at a time.
PAGE = 10_000
#: Samples per field.
SAMPLES = 10
_LOGGED_EVERY = 10


@dataclass
class _Tally:
    checked: int = 0
    compared: int = 0
    changed: int = 0
    deleted: int = 0
    by_field: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[DriftSample]] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    made_due: int = 0
    made_gone: int = 0
    withheld: Limit | None = None
    """The guard that keeps missing records from becoming `gone`."""


def check_drift(
    site: Site,
    sync_name: str,
    source: ModelSource,
    *,
    run_id: str,
    holder: str,
    remembered: bool,
    log: Callable[[str], None],
) -> DriftReport:
    """Read back the records that one sync's ledger says were acknowledged, and tell what differs.

    The arguments are those of `run_sync`. Writes nothing unless the sync says
    `drift: {heal: true}`; sends nothing at all.

    Raises a subclass of `SeqsyncError` for everything that stopped it; `LeaseHeld`
    while a run of the sync is under way, whose rows would look like drift.
    """
    began = time.monotonic()
    sync = site.sequence.sync(sync_name)
    spec = sync.drift or Drift()
    calls, tally = site.destination.calls.total, _Tally()
    fields = [f for f in sync.comparable() if not spec.fields or f in spec.fields]
    with site.journal.acquire(Scope(site.sequence.name, sync_name), holder) as lease:
        work = Work(site, sync, RunOptions(), f"{run_id}.{uuid.uuid4().hex[:8]}", holder, lease, log)
        if spec.heal:
            recover(work)
        with site.warehouse.open(site.sequence.name, sync_name, model=True) as room:
            try:
                if spec.heal:
                    registry.migrate(room.connection, work.tables(room.schema))
                known = _known(work, room, remembered)
                if known is not None:
                    _check(work.above(known), room, source, known, fields, spec.heal, tally)
            except DBAPIError as error:
                raise reraise(error, f"sync {sync_name}: the warehouse could not compare") from None
    compared = [f for f in fields if f not in tally.unreadable]
    return DriftReport(
        sequence=site.sequence.name,
        sync=sync_name,
        checked=tally.checked,
        compared=tally.compared,
        changed=tally.changed,
        deleted=tally.deleted,
        by_field=dict(sorted(tally.by_field.items(), key=lambda item: (-item[1], item[0]))),
        samples=tuple(s for found in tally.samples.values() for s in found),
        left_out=tuple(f for f, _ in sync.mappings() if f not in compared),
        made_due=tally.made_due,
        made_gone=tally.made_gone,
        summary=_summary(sync_name, tally),
        api_calls=site.destination.calls.total - calls,
        seconds=time.monotonic() - began,
    )


def _known(work: Work, room: Room, remembered: bool) -> Registered | None:
    """What is known of the sync; None when nothing was acknowledged yet."""
    tables = work.tables(room.schema)
    known = registry.read(room.connection, tables, work.site.sequence.name, work.sync.name)
    ran = known is not None and known.org_id is not None
    there = ran and sa.inspect(room.connection).has_table(tables.ledger.name, schema=tables.ledger.schema)
    if (ran or remembered) and not there:
        raise LedgerLost(
            f"sync {work.sync.name}: its ledger is not there, but the sync is known to have run, so nobody can say "
            "what was acknowledged. Bring the state back (see `state:` in the warehouse's YAML), or run the sync with "
            "rebuild_ledger: true."
        )
    return known if known is not None and known.mapping_digest is not None else None


def _check(
    work: Work, room: Room, source: ModelSource, known: Registered, fields: Sequence[str], heal: bool, tally: _Tally
) -> None:
    sync, connection = work.sync, room.connection
    tables = work.tables(room.schema)
    columns = sorted(sync.columns())
    relation = room.model(source, columns)
    model = Model(relation, room.column_types(sa.select(*[relation.c[c] for c in columns])))
    check_types(source, model.types)
    if (known.mapping_digest, known.hash_name) != (mapping_digest(sync, model.types), room.hash_name):
        raise StateError(
            f"sync {sync.name}: its mapping, a type of its model, or the engine's row hash changed since its records "
            "were acknowledged, so they cannot be compared. Run the sync, then check again."
        )
    checked_account(work, known)
    expected = room.frugally(lambda: records.write_expected(room, model, sync, tables, fields))
    if heal:
        records.create_drifted(connection)
        connection.commit()
    # Reading back takes its time; the values to compare with stand in temporary tables by now.
    room.release_model()
    room.paging()
    for number, (part, first, last) in enumerate(records.expected_pages(room, expected, PAGE), start=1):
        page = _once(room.fetch(records.expected_page(part, sync, fields, first, last)))
        # No transaction stays open while the destination answers.
        connection.commit()
        drifted = _compare(work, page, fields, tally)
        if heal and drifted.num_rows:
            room.load(records.drifted_table(), drifted)
            connection.commit()
        work.lease.check()
        if number % _LOGGED_EVERY == 0 and last < expected.rows:
            work.log(f"{sync.name}: {last} of {expected.rows} records read back")
    if heal and tally.changed + tally.deleted:
        forget_rest(work.site, sync.name)
        room.frugally(lambda: _heal(work, room, tally))


def _once(page: pa.Table) -> pa.Table:
    """The page without the repetitions of a record, which follow each other."""
    numbers = page["n"].to_numpy()
    first = pa.array([True] * min(1, len(numbers)) + (numbers[1:] != numbers[:-1]).tolist(), pa.bool_())
    return page.filter(first).combine_chunks()


def _compare(work: Work, page: pa.Table, fields: Sequence[str], tally: _Tally) -> pa.Table:
    """Compare one page with the destination; the keys of what differs, for `drifted_table`."""
    sync, destination = work.sync, work.site.destination
    ids = page["dest_id"].combine_chunks().cast(pa.string())
    sent = page.select(range(page.num_columns - len(fields), page.num_columns)).rename_columns(list(fields))
    expected = destination.as_stored(sync.object, sent)
    tally.unreadable |= set(fields) - set(expected.column_names)
    found = list(destination.read_back(sync.object, fields, ids))
    empty = pa.schema([(DEST_ID, pa.string()), *[(f, pa.string()) for f in expected.column_names]]).empty_table()
    held = pa.concat_tables([empty, *[t.select(empty.column_names) for t in found]]).combine_chunks()
    where = pc.index_in(ids, value_set=held[DEST_ID].combine_chunks())
    held = held.take(where)
    gone, known = pc.is_null(where), page["compared"].combine_chunks()
    known = pc.and_(known, pc.invert(gone))
    changed = pa.array([False] * len(ids), pa.bool_())
    for name, meant, got, differs in differing_fields(sync, sent, expected, held):
        differs = pc.and_(known, differs)
        count = pc.sum(differs).as_py() or 0
        if count:
            tally.by_field[name] = tally.by_field.get(name, 0) + count
            changed = pc.or_(changed, differs)
            _sample(work, tally, name, page.append_column("meant", meant).append_column("got", got), differs)
    deleted = pc.sum(gone).as_py() or 0
    if deleted:
        texts = page.append_column("meant", ids).append_column("got", pa.array(["not there"] * len(ids)))
        _sample(work, tally, "", texts, gone)
    tally.checked += len(ids)
    tally.compared += pc.sum(known).as_py() or 0
    tally.changed += pc.sum(changed).as_py() or 0
    tally.deleted += deleted
    drifted = pa.table({"match_key": page["match_key"].combine_chunks(), "gone": gone})
    return drifted.filter(pc.or_(changed, gone))


def _sample(work: Work, tally: _Tally, name: str, page: pa.Table, which: pa.Array) -> None:
    samples = tally.samples.setdefault(name, [])
    some = page.select(["key", "dest_id", "meant", "got"]).filter(which).slice(0, SAMPLES - len(samples))
    masked = work.sync.is_sensitive(name)
    for row in some.to_pylist():
        meant, got = (MASK if masked else v and v[:200] for v in (row["meant"], row["got"]))
        url = work.site.destination.record_url(work.sync.object, row["dest_id"])
        samples.append(DriftSample(row["key"], name, meant, got, row["dest_id"], url))


def _heal(work: Work, room: Room, tally: _Tally) -> None:
    """Changed records are due again, deleted ones are `gone`: in one transaction, fenced like every write of state."""
    connection, tables = room.connection, work.tables(room.schema)
    names = (work.site.sequence.name, work.sync.name)
    # A user who lost sight of an object's records sees none of them: that many do not vanish by themselves.
    limit = work.site.sequence.guards_of(work.sync).max_removed
    if limit is not None and limit.exceeded(tally.deleted, tally.checked):
        tally.withheld = limit
    work.lease.check()
    registry.claim(connection, tables, *names, work.epoch)
    records.make_due(connection, tables)
    tally.made_due = tally.changed
    if tally.withheld is None:
        records.mark_gone(connection, tables, *names, work.run_id, datetime.now(UTC))
        tally.made_gone = tally.deleted
    # A model whose checksum is the settled one would be taken for unchanged.
    registry.update(connection, tables, *names, **dict[str, Any](OUT_OF_STEP))
    connection.commit()


def _summary(name: str, tally: _Tally) -> str:
    if not tally.checked:
        return f"{name}: nothing was acknowledged yet, so there is nothing to compare."
    text = f"{name}: {tally.checked} records looked for, {tally.compared} of them compared: "
    if not tally.changed + tally.deleted:
        return text + "nothing drifted."
    text += f"{tally.changed} changed and {tally.deleted} deleted in the destination."
    if tally.made_due:
        text += f" The next run sends {tally.made_due} again."
    if tally.made_gone:
        text += f" {tally.made_gone} are marked as gone: the next run looks for them once more, by match."
    if tally.withheld is not None:
        text += (
            f" None was marked as gone: {tally.deleted} of {tally.checked} missing is more than the guard max_removed "
            f"({tally.withheld}) allows. May the user of the connection still see these records?"
        )
    return text
