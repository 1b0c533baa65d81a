"""Step 2: what differs, and what will be done about it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from seqsync_dagster.engine.actions import record_actions
from seqsync_dagster.engine.comparing import Against, Comparison, compare
from seqsync_dagster.engine.counting import count_fingerprints, count_plan
from seqsync_dagster.engine.existing import Search, find_existing, note_shared
from seqsync_dagster.engine.guard import PlannedChange
from seqsync_dagster.engine.lookups import find_records
from seqsync_dagster.engine.preflight.mapped import Mapped, first_writes
from seqsync_dagster.engine.preflight.mapping import check_mapping, match_field
from seqsync_dagster.engine.reading import choose_reading
from seqsync_dagster.engine.rehash import without_taken_out
from seqsync_dagster.engine.report import Counts
from seqsync_dagster.engine.reviewing import check_same, take_up
from seqsync_dagster.engine.site import Work, checked_account
from seqsync_dagster.errors import LedgerLost, StateError
from seqsync_dagster.ledger import registry
from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.actions import write_asked
from seqsync_dagster.ledger.deferred import count_lacking, count_unfilled
from seqsync_dagster.ledger.fingerprint import OUT_OF_STEP, Model, mapping_digest, policy_digest
from seqsync_dagster.ledger.judging import PlanRequest, judge_rows
from seqsync_dagster.ledger.levels import own_lookups
from seqsync_dagster.ledger.mapping_change import remembered_mapping, remembered_types, what_changed
from seqsync_dagster.ledger.plan import place_rows, plan_id, write_plan
from seqsync_dagster.ledger.references import make_stale_due
from seqsync_dagster.ledger.registry import Registered
from seqsync_dagster.ledger.reviewed import Reviewed
from seqsync_dagster.ledger.tables import StateTables
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.open import Room, check_types, reraise
from seqsync_dagster.warehouse.source import ModelSource

T = TypeVar("T")


@dataclass(frozen=True)
class Planned:
    """A plan, written, and everything that its settling will need."""

    plan_id: str
    counts: Counts
    change: PlannedChange
    resync_reason: str | None
    known: Registered | None
    mapped: Mapped
    registry: Mapping[str, Any]
    """Columns of ``syncs`` that become true once the plan is settled."""
    nothing_to_do: bool
    """The model is the one that was settled last, and nothing waits: no plan was written."""
    epoch: int = 0
    """The run's epoch in the ledger."""
    compared: Comparison | None = None
    digest: str = ""
    """Of the mapping."""
    arrivals: Mapping[str, int] | None = None
    """Destination ids that each parent's ledger had received."""


def plan(
    work: Work,
    room: Room,
    source: ModelSource,
    remembered: bool,
    *,
    reviewed: Reviewed | None = None,
    for_review: bool = False,
) -> Planned:
    """Compare the model with the ledger and write the plan; releases the warehouse.

    `remembered`: the sync is known to have run before. `reviewed`: make this plan
    again, from the differences that were kept with it. `for_review`: write a plan
    though nothing differs. Raises `LedgerLost`,
    `ModelMissing`, `OtherDestination`, `PlanOutdated`, `WarehouseError`, and what the
    destination raises when it has to be asked.
    """
    try:
        return _plan(work, room, source, remembered, reviewed, for_review)
    except DBAPIError as error:
        raise reraise(error, f"sync {work.sync.name}: the warehouse could not make the plan") from None


def _plan(
    work: Work, room: Room, source: ModelSource, remembered: bool, reviewed: Reviewed | None, for_review: bool
) -> Planned:
    sync, options, connection = work.sync, work.options, room.connection
    tables = work.tables(room.schema)
    names = (work.site.sequence.name, sync.name)
    registry.migrate(connection, tables)
    if options.rebuild_ledger and sync.once_at_most:
        raise StateError(
            f"sync {sync.name}: rebuild_ledger matches every row again by its key, and this sync has no match field: "
            "every record would be created once more. Nothing was sent. Bring the ledger back; or, where that is what "
            "you want, give the sync a new name."
        )
    if options.rebuild_ledger:
        registry.drop_ledger(connection, tables, *names)
    known = registry.read(connection, tables, *names)
    if known is not None and known.org_id is not None:
        _refuse_other_target(sync, known)
    lost = known is None and remembered
    if known is not None and known.org_id is not None:
        lost = not sa.inspect(connection).has_table(tables.ledger.name, schema=tables.ledger.schema)
    if lost and not options.rebuild_ledger:
        raise LedgerLost(
            f"sync {sync.name}: its ledger is not there, but the sync is known to have run, here or in another "
            "environment that shares its history of runs. Sending everything again could undo changes and would forget "
            "which records are ours. Nothing was sent. Bring the state back (see `state:` in the warehouse's YAML), or "
            "launch with rebuild_ledger: true, which matches every row again by its key."
        )
    columns = sorted(sync.columns())
    stamp = [] if sync.since is None else [sync.since.column]
    relation = room.model(source, sorted({*columns, *stamp}))
    types = room.column_types(sa.select(*relation.c))
    model = Model(relation, {c: types[c] for c in columns})
    check_types(source, model.types)
    digest = mapping_digest(sync, model.types)
    sent_types = remembered_types(known.mapping, known.mapping_digest) if known is not None else {}
    mapped = Mapped(work.site.sequence, sync, model.types, first_writes(sync), sent_types)
    new = known is None or known.org_id is None
    if new:
        account = checked_account(work, known)
        # Before the ledger is bound to this object and match field: they may be what is wrong.
        check_mapping(work.site.destination, mapped)
        # A key that the destination does not know is what the model says it is.
        case_sensitive = sync.match is None or match_field(work.site.destination, sync).case_sensitive
    else:
        assert known is not None
        case_sensitive = known.case_sensitive
    work = work.above(known)
    registry.create_tables(connection, tables, sync, known.mapping if known is not None else None)
    registry.claim(connection, tables, *names, work.epoch)
    if new:
        registry.update(
            connection,
            tables,
            *names,
            org_id=account.id,
            org_name=account.name,
            object=sync.object,
            match_field=sync.match,
            case_sensitive=case_sensitive,
        )
    connection.commit()
    parents = {p: _parent(work, room, p) for p in sync.parents() if p != sync.name}
    ledgers = {p: _ledger(work, room, p) for p in parents}
    waited_for = sync.waits_for()
    arrivals = {p: r.arrivals for p, r in parents.items() if r is not None and p in waited_for}
    if own_lookups(sync):
        arrivals[sync.name] = known.arrivals if known is not None else 0
    stale = 0
    # The policy says what finish looks after: a lookup that is deferred no more is this step's again.
    judged_alike = known is not None and known.policy_digest == policy_digest(sync)
    if known is not None and sync.mode != "insert" and (dict(known.parent_arrivals) != arrivals or not judged_alike):
        stale = make_stale_due(connection, tables, sync, ledgers)
        connection.commit()
    found_so = known
    if known is not None and not options.full_resync:
        known = without_taken_out(work, room, tables, source, known, model, for_review=for_review)
    reason = _resync_reason(work, room, tables, known, model.types)
    full = reason is not None
    first = known is None or known.mapping_digest is None or not count_fingerprints(connection, tables)
    if work.options.actions_on(sync.name):
        record_actions(work, connection, tables, model, case_sensitive)
    cases = {sync.name: case_sensitive, **{p: r.case_sensitive for p, r in parents.items() if r}}
    for unknown in (p for p, r in parents.items() if p not in waited_for and (r is None or r.org_id is None)):
        # Its keys are written down now, and finish compares them with those of the parent's ledger to be.
        other = work.site.sequence.sync(unknown)
        found = work.site.destination.describe(other.object).fields.get(other.match or "")
        cases[unknown] = found is not None and found.case_sensitive
    # A checksum says that nothing is to be done, and not what a plan to be read, or one that was read, consists of.
    reading = for_review or reviewed is not None
    # Where the differences are the whole model, there is little to join them to, and sending them takes far longer.
    whole = full or first or known is not found_so
    everything = "a plan that is read covers the whole model" if reading else reason
    if everything is None and whole:
        everything = "nothing is acknowledged so far" if first else "a field was taken out of the mapping"
    amount = choose_reading(work, source, types[stamp[0]] if stamp else "", known, reading_all=everything)
    against = Against(tables, known, digest, cases, arrivals, full, stale > 0 or reading, amount)

    def economically(act: Callable[[], T]) -> T:
        return room.frugally(act) if whole else act()

    compared = economically(lambda: compare(work, room, source, model, against))
    if reviewed is not None:
        compared = take_up(work, room, tables, reviewed, digest)
    elif compared.unchanged:
        room.release_model()
        assert known is not None and compared.rows is not None
        unfilled = _unfilled(connection, tables, sync, ledgers)
        if compared.seen:
            # Nothing is to be settled: what was seen is so now.
            registry.claim(connection, tables, *names, work.epoch)
            registry.update(connection, tables, *names, **compared.seen)
        connection.commit()
        return replace(_unchanged(known, mapped, compared, unfilled), arrivals=arrivals, compared=compared)
    search = Search(work, room, tables, known, mapped, case_sensitive, model)
    # What is done again with more memory is rolled back as a whole; what it starts from is not part of it.
    connection.commit()
    economically(lambda: note_shared(search))
    room.release_model()
    find_records(work, room, tables, known, mapped)
    write_asked(connection, tables, *names)
    connection.commit()
    request = PlanRequest(
        sync=sync,
        tables=tables,
        parent_ledgers=ledgers,
        whole=not options.only_keys and not compared.by_key,
        full=full,
        named=bool(options.only_keys),
        resync=options.full_resync,
        now=datetime.now(UTC) if reviewed is None else reviewed.made_at,
        limit=options.limit,
        by_key=compared.by_key,
    )
    economically(lambda: judge_rows(room, request))
    connection.commit()
    # After that the room may have been told to make do with little.
    whole |= find_existing(search)
    prepared = economically(lambda: place_rows(room, request))
    connection.commit()
    work.site.journal.begin(work.lease, work.run_id)
    # What fingerprints mean stands beside the first of them, so that a kill cannot part the two.
    meaning = {
        "mapping_digest": digest,
        "mapping": remembered_mapping(sync, model.types),
        "hash_name": room.hash_name,
    }
    spec = sync.model_dump_json(by_alias=True, exclude_unset=True)

    def write() -> tuple[Counts, PlannedChange, str]:
        registry.claim(connection, tables, *names, work.epoch)
        write_plan(room, request, prepared)
        registry.claim(connection, tables, *names, work.epoch)
        values = {"plan_run_id": work.run_id, "plan_spec": spec, **(meaning if first else {})}
        registry.update(connection, tables, *names, **values)
        counts, change = count_plan(connection, tables, work, compared)
        lacking = count_lacking(connection, tables)
        counts = replace(counts, references_due=lacking + _unfilled(connection, tables, sync, ledgers))
        name = plan_id(connection, tables, digest)
        if reviewed is not None:
            check_same(connection, tables, sync, reviewed, digest)
        connection.commit()
        return counts, change, name

    counts, change, name = economically(write)
    work.site.journal.planned(work.lease, work.run_id, name)
    settled: dict[str, Any] = dict(OUT_OF_STEP)
    if not options.partial:
        settled |= {
            **meaning,
            "policy_digest": policy_digest(sync),
            "parent_arrivals": json.dumps(arrivals),
            **(compared.checksum.as_columns() if compared.checksum is not None else {}),
            **compared.seen,
        }
    return Planned(
        name,
        counts,
        change,
        reason,
        known,
        mapped,
        settled,
        nothing_to_do=False,
        epoch=work.epoch,
        compared=compared,
        digest=digest,
        arrivals=arrivals,
    )


def _refuse_other_target(sync: SyncSpec, known: Registered) -> None:
    for what, then, now in (("object", known.object, sync.object), ("match", known.match_field, sync.match)):
        if then != now:
            raise StateError(
                f"sync {sync.name}: its ledger was kept for {what}: {then}, the YAML now says {what}: {now}. Nothing "
                "was sent. Give the sync a new name, so that it gets a ledger of its own; or, when the records are "
                "the same ones, launch with rebuild_ledger: true after putting the old ledger aside."
            )


def _resync_reason(
    work: Work, room: Room, tables: StateTables, known: Registered | None, types: Mapping[str, str]
) -> str | None:
    if work.options.full_resync:
        return "the run asked for a full resync"
    if work.options.only_keys or known is None or known.mapping_digest is None:
        return None
    if not count_fingerprints(room.connection, tables):
        return None
    if known.mapping_digest != mapping_digest(work.sync, types):
        return what_changed(known.mapping, known.mapping_digest, work.sync, types)
    if known.hash_name != room.hash_name:
        return f"fingerprints were computed by {known.hash_name}, this engine computes {room.hash_name}"
    return None


def _unfilled(
    connection: sa.Connection, tables: StateTables, sync: SyncSpec, ledgers: Mapping[str, sa.TableClause | None]
) -> int:
    """Records with a deferred reference that finish has still to fill in."""
    deferred = {f: m.parent for f, m in sync.parent_lookups().items() if m.deferred}
    if not deferred:
        return 0
    parents = {f: tables.ledger if p == sync.name else ledgers.get(p) for f, p in deferred.items()}
    return count_unfilled(connection, tables, sync, parents)


def _unchanged(known: Registered, mapped: Mapped, compared: Comparison, unfilled: int) -> Planned:
    last, rows = known.last_counts, compared.rows or 0
    counts = Counts(
        model=rows,
        references_due=unfilled,
        waiting=last.get("waiting", 0) + last.get("rejected", 0),
        held_pending=last.get("held_pending", 0),
        held_missing=last.get("held_missing", 0),
        kept=last.get("kept", 0),
        invalid_null=last.get("invalid_null", 0),
        invalid_duplicate=last.get("invalid_duplicate", 0),
        skipped=last.get("skipped", 0),
    )
    waiting = counts.waiting + counts.held + counts.invalid + counts.kept + counts.skipped
    # What waits may not be among rows that were read because they changed.
    counts = replace(counts, unchanged=rows - (compared.differing if compared.by_key else waiting))
    return Planned("-", counts, PlannedChange(0, 0, 0), None, known, mapped, {}, nothing_to_do=True)


def _parent(work: Work, room: Room, parent: str) -> Registered | None:
    schema = room.state_schema_of(parent)
    if schema is None:
        return None
    sequence = work.site.sequence
    tables = StateTables.of(sequence, sequence.sync(parent), schema)
    return registry.read(room.connection, tables, sequence.name, parent)


def _ledger(work: Work, room: Room, parent: str) -> sa.TableClause | None:
    schema = room.state_schema_of(parent)
    if schema is None:
        return None
    table = t.ledger_of(work.site.sequence.name, parent, schema)
    return table if sa.inspect(room.connection).has_table(table.name, schema=schema) else None
