"""Step 2: what differs, and what will be done about it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from seqsync_dagster.engine.actions import record_actions
from seqsync_dagster.engine.comparing import Against, Comparison, compare
from seqsync_dagster.engine.existing import Search, find_existing, note_shared
from seqsync_dagster.engine.guard import PlannedChange
from seqsync_dagster.engine.preflight import Mapped, check_mapping, first_writes, match_field
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
from seqsync_dagster.ledger.delta import delta_table, lookup_values, temporary
from seqsync_dagster.ledger.fingerprint import OUT_OF_STEP, Model, mapping_digest, policy_digest
from seqsync_dagster.ledger.levels import own_lookups
from seqsync_dagster.ledger.mapping_change import remembered_mapping, remembered_types, what_changed
from seqsync_dagster.ledger.plan import (
    FOUND,
    OWN_RECORD,
    PlanRequest,
    found_table,
    judge_rows,
    place_rows,
    plan_counts,
    plan_id,
    write_plan,
)
from seqsync_dagster.ledger.references import make_stale_due
from seqsync_dagster.ledger.registry import Registered
from seqsync_dagster.ledger.reviewed import Reviewed
from seqsync_dagster.ledger.tables import Shape, StateTables
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
            f"sync {sync.name}: its ledger is not there, but the sync is known to have run. Sending everything "
            "again could undo changes and would forget which records are ours. Nothing was sent. Bring the state "
            "back (see `state:` in the warehouse's YAML), or launch with rebuild_ledger: true, which matches every "
            "row again by its key."
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
    first = known is None or known.mapping_digest is None or not _fingerprints(connection, tables)
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
    economically(lambda: note_shared(search))
    room.release_model()
    _find_records(work, room, tables, known, mapped)
    write_asked(connection, tables, *names)
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
        values = {"plan_run_id": work.run_id, "plan_spec": spec, **(meaning if first else {})}
        registry.update(connection, tables, *names, **values)
        counts, change = _count(connection, tables, work, compared)
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


def _fingerprints(connection: sa.Connection, tables: StateTables) -> int:
    ledger = tables.ledger
    return connection.execute(sa.select(sa.func.count(ledger.c.fingerprint)).select_from(ledger)).scalar_one()


def _resync_reason(
    work: Work, room: Room, tables: StateTables, known: Registered | None, types: Mapping[str, str]
) -> str | None:
    if work.options.full_resync:
        return "the run asked for a full resync"
    if work.options.only_keys or known is None or known.mapping_digest is None:
        return None
    if not _fingerprints(room.connection, tables):
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


def _find_records(work: Work, room: Room, tables: StateTables, known: Registered | None, mapped: Mapped) -> None:
    """Ask the destination for the records that no sync writes, for the differing rows only."""
    shape = Shape.of(work.sync)
    named = work.sync.mode in ("update", "delete")
    if not shape.lookups and not named:
        return
    temporary(
        room.connection,
        FOUND,
        sa.select(
            sa.cast(sa.null(), sa.Text).label("field"),
            sa.cast(sa.null(), sa.Text).label("value"),
            sa.cast(sa.null(), sa.Text).label("dest_id"),
            sa.cast(sa.null(), sa.Integer).label("matches"),
            sa.cast(sa.null(), sa.Text).label("unusable"),
        ).where(sa.false()),
    )
    for field, lookup in shape.lookups.items():
        values = room.fetch(lookup_values(shape, field))["value"].combine_chunks()
        _find(work, room, known, mapped, field, lookup.lookup, lookup.by, values)
    if named:
        # A record that is gone is looked for once, and not here, unless the operator asks for it.
        by_operator = sa.literal(bool(work.options.only_keys) or work.options.full_resync)
        d, ledger = delta_table(shape), tables.ledger
        unknown = (
            sa.select(d.c.match_text.label("value"))
            .select_from(d.outerjoin(ledger, ledger.c.match_key == d.c.match_key))
            .where(
                d.c.fingerprint.is_not(None),
                d.c.match_text.is_not(None),
                ledger.c.dest_id.is_(None),
                sa.or_(ledger.c.state.is_distinct_from(t.GONE), by_operator),
            )
            .distinct()
        )
        values = room.fetch(unknown)["value"].combine_chunks()
        _find(work, room, known, mapped, OWN_RECORD, work.sync.object, str(work.sync.match), values)
    room.connection.commit()


def _find(
    work: Work,
    room: Room,
    known: Registered | None,
    mapped: Mapped,
    field: str,
    object: str,
    by: str,
    values: pa.Array,
) -> None:
    filling = None if field == OWN_RECORD else (work.sync.object, field)
    if not len(values):
        return
    checked_account(work, known)
    check_mapping(work.site.destination, mapped)
    for table in _distinct_records(work.site.destination.find(object, by, values, filling=filling)):
        room.load(found_table(), table.append_column("field", pa.array([field] * table.num_rows, pa.string())))


def _distinct_records(found: Iterator[pa.Table]) -> Iterator[pa.Table]:
    tables = [t_ for t_ in found if t_.num_rows]
    if not tables:
        return
    records = pa.concat_tables(tables, promote_options="default")
    value = pc.utf8_lower(pc.utf8_trim_whitespace(records["value"].cast(pa.string())))
    nothing = pa.nulls(records.num_rows, pa.string())
    why = records["unusable"].cast(pa.string()) if "unusable" in records.column_names else nothing
    pairs = pa.table({"value": value, "dest_id": records["dest_id"].cast(pa.string()), "unusable": why})
    usable = pairs.filter(pc.is_null(pairs["unusable"])).select(["value", "dest_id"])
    distinct = usable.group_by(["value", "dest_id"]).aggregate([])
    counted = distinct.group_by("value").aggregate([("dest_id", "min"), ("dest_id", "count")])
    yield pa.table(
        {
            "value": counted["value"],
            "dest_id": counted["dest_id_min"],
            "matches": counted["dest_id_count"].cast(pa.int32()),
            "unusable": pa.nulls(counted.num_rows, pa.string()),
        }
    )
    # Told only where no other record could be taken instead.
    rest = pairs.filter(pc.invert(pc.is_in(pairs["value"], value_set=counted["value"].combine_chunks())))
    told = rest.group_by("value").aggregate([("unusable", "min")])
    if told.num_rows:
        yield pa.table(
            {
                "value": told["value"],
                "dest_id": pa.nulls(told.num_rows, pa.string()),
                "matches": pa.array([0] * told.num_rows, pa.int32()),
                "unusable": told["unusable_min"],
            }
        )


def _count(
    connection: sa.Connection, tables: StateTables, work: Work, compared: Comparison
) -> tuple[Counts, PlannedChange]:
    by = plan_counts(connection, tables)

    def of(status: str, operation: str | None = None) -> int:
        return sum(n for (s, o), n in by.items() if s == status and (operation is None or o == operation))

    ledger = tables.ledger
    # Rows that lost their fingerprint to a new parent have records all the same. Two statements: an engine that keeps
    # columns apart need not read ids and states of the many that have one.
    records = sa.and_(ledger.c.dest_id.is_not(None), ledger.c.state.not_in([t.LEFT, t.REMOVAL_DUE]))
    acknowledged = _fingerprints(connection, tables)
    acknowledged += connection.execute(
        sa.select(sa.func.count()).select_from(ledger).where(ledger.c.fingerprint.is_(None), records)
    ).scalar_one()
    again = connection.execute(
        sa.select(sa.func.count())
        .select_from(tables.plan.join(ledger, ledger.c.match_key == tables.plan.c.match_key))
        .where(
            tables.plan.c.status == t.REFUSED,
            ledger.c.state == t.REJECTED,
            ledger.c.tried_fingerprint == tables.plan.c.fingerprint,
        )
    ).scalar_one()
    duplicates, twins = of(t.INVALID_DUPLICATE), 0
    if compared.rows is not None and duplicates and not compared.by_key:
        twins = _unchanged_twins(connection, tables)
    # Records that were found for rows are what an adoption may change, as acknowledged ones are for other runs.
    # One that gets its key only now is so much like a create that no guard limits it.
    adopted, adopting = of(t.ADOPTED), of(t.SEND, t.ADOPT)
    acknowledged += adopted + adopting
    unchanged = of(t.UNCHANGED)
    if compared.rows is not None:
        unchanged += compared.rows - compared.differing - twins
    counts = Counts(
        model=compared.differing if compared.rows is None else compared.rows,
        planned=of(t.SEND),
        adopted=adopted,
        adopted_as_is=adopted,
        unchanged=unchanged,
        absent=of(t.ABSENT),
        kept=of(t.KEPT),
        rejected=of(t.REFUSED),
        rejected_again=again,
        refused=of(t.REFUSED),
        refused_again=again,
        waiting=of(t.WAITING),
        skipped=of(t.SKIPPED),
        held_pending=of(t.HELD_PENDING),
        held_missing=of(t.HELD_MISSING),
        invalid_null=of(t.INVALID_NULL),
        invalid_duplicate=duplicates + twins,
        removals_due=of(t.REMOVAL),
        removals_kept=of(t.LEFT),
    )
    # Removals that wait for finish have not been spent yet, so they count as well.
    waiting = connection.execute(
        sa.select(sa.func.count())
        .select_from(ledger)
        .where(
            ledger.c.state == t.REMOVAL_DUE,
            sa.not_(sa.exists().where(tables.plan.c.match_key == ledger.c.match_key)),
        )
    ).scalar_one()
    if work.sync.mode == "delete":
        # Its ledger holds what was deleted, so the list itself is the measure: how much of it is new.
        return counts, PlannedChange(counts.model, 0, of(t.REMOVAL) + waiting)
    updates, removals = of(t.SEND, t.UPDATE) + adopting, of(t.REMOVAL) + waiting
    return counts, PlannedChange(
        acknowledged + waiting,
        updates,
        removals,
        found=adopted + adopting,
        linked=of(t.SEND, t.LINK),
        creates=of(t.SEND, t.CREATE),
        invalid=counts.invalid,
        model=counts.model,
    )


def _unchanged_twins(connection: sa.Connection, tables: StateTables) -> int:
    """Model rows that equal their ledger row but share their key with another, differing row."""
    plan, ledger = tables.plan, tables.ledger
    old = sa.table(
        "seqsync_delta", sa.column("old_fingerprint", sa.BigInteger), sa.column("fingerprint", sa.BigInteger)
    )
    gone = sa.exists().where(old.c.old_fingerprint == ledger.c.fingerprint)
    return connection.execute(
        sa.select(sa.func.count())
        .select_from(ledger)
        .where(
            ledger.c.fingerprint.is_not(None),
            sa.not_(gone),
            sa.not_(sa.exists().where(old.c.fingerprint == ledger.c.fingerprint)),
            ledger.c.match_key.in_(sa.select(plan.c.match_key).where(plan.c.status == t.INVALID_DUPLICATE)),
        )
    ).scalar_one()
