"""A plan that is made to be read: everything a run would do, and nothing of it done."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from seqsync_dagster.destinations.protocol import DEST_ID, SEQ
from seqsync_dagster.engine.apply import request_of
from seqsync_dagster.engine.guard import check_guards
from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.engine.planning import Planned, plan
from seqsync_dagster.engine.preflight.mapped import Write
from seqsync_dagster.engine.preflight.mapping import check_mapping
from seqsync_dagster.engine.report import Counts, FieldChange, PlannedRow, PlanReport
from seqsync_dagster.engine.reporting import problems
from seqsync_dagster.engine.reviewing import remembered_options
from seqsync_dagster.engine.settling import discard_plan
from seqsync_dagster.engine.site import Site, Work, checked_account
from seqsync_dagster.errors import GuardTripped, StateError
from seqsync_dagster.journal import Scope
from seqsync_dagster.ledger import registry, rows
from seqsync_dagster.ledger import reviewed as kept
from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.plan import plan_id
from seqsync_dagster.ledger.removals import count_due
from seqsync_dagster.ledger.rows import MASK, Group
from seqsync_dagster.ledger.tables import StateTables, ledger_of
from seqsync_dagster.warehouse.open import Room, reraise
from seqsync_dagster.warehouse.source import ModelSource

#: Rows shown of each operation.
SAMPLES = 10
#: A plan that nobody has sent by then is made anew.
EXPIRES_AFTER = timedelta(hours=24)


def review_sync(
    site: Site,
    sync_name: str,
    source: ModelSource,
    options: RunOptions,
    *,
    review_id: str,
    run_id: str,
    holder: str,
    remembered: bool,
    log: Callable[[str], None],
) -> PlanReport:
    """Plan what a run of one sync would do, keep it for `plan_id`, and tell it.

    The arguments are those of `run_sync`; `review_id` is the same for all syncs that are planned
    together, parents first: rows that wait for a parent which the review found would be created
    are told apart from those that stay held. Sends nothing; of the destination it reads what
    preflight and lookups need, and the records it shows.

    Raises a subclass of `SeqsyncError` for what would stop a run; not `GuardTripped`, which the report tells.
    """
    began = time.monotonic()
    sync, calls = site.sequence.sync(sync_name), site.destination.calls.total
    scope = Scope(site.sequence.name, sync_name)
    with site.journal.acquire(scope, holder) as lease:
        work = Work(site, sync, options, f"{run_id}.{uuid.uuid4().hex[:8]}", holder, lease, log)
        if site.journal.open_runs(scope):
            raise StateError(
                f"sync {sync_name}: an earlier run was cut short, and what became of its rows is not settled yet, so "
                "that no plan holds. Run the sync, which settles it first; then plan again."
            )
        parents = sync.waits_for()
        glances = [p for p in sync.parents() if p not in (sync_name, *parents)]
        with site.warehouse.open(site.sequence.name, sync_name, others=parents, glances=glances, model=True) as room:
            try:
                planned = plan(work, room, source, remembered, for_review=True)
                work = replace(work, raised_epoch=planned.epoch)
                report = room.frugally(lambda: _told(work, room, planned, review_id, parents))
            except DBAPIError as error:
                raise reraise(error, f"sync {sync_name}: the warehouse could not make the plan") from None
            finally:
                room.connection.rollback()
                _clean_up(work, room)
    return replace(report, api_calls=site.destination.calls.total - calls, seconds=time.monotonic() - began)


def _clean_up(work: Work, room: Room) -> None:
    # What planning has begun is not a run: nothing of it is to be recovered.
    scope = Scope(work.site.sequence.name, work.sync.name)
    if any(r.run_id == work.run_id for r in work.site.journal.open_runs(scope)):
        tables = work.tables(room.schema)
        known = registry.read(room.connection, tables, work.site.sequence.name, work.sync.name)
        discard_plan(work.above(known), room, tables)
        work.site.journal.close_run(work.lease, work.run_id)


def _told(work: Work, room: Room, planned: Planned, review_id: str, parents: Sequence[str]) -> PlanReport:
    site, sync, connection = work.site, work.sync, room.connection
    tables, name = work.tables(room.schema), site.sequence.name
    groups = rows.groups(connection, tables)
    risks = _preflight(work, planned, groups)
    account = checked_account(work, planned.known)
    follow = kept.keep(connection, tables, name, sync, _coming(work, room, parents, review_id))
    connection.commit()
    due = count_due(connection, tables)
    known = registry.read(connection, tables, name, sync.name)
    assert planned.compared is not None
    now = datetime.now(UTC)
    reviewed = kept.Reviewed(
        review_id=review_id,
        plan_id=plan_id(connection, tables, planned.digest),
        made_at=now,
        expires_at=now + EXPIRES_AFTER,
        mapping_digest=planned.digest,
        org_id=account.id,
        ledger_mark=kept.ledger_mark(known),
        options=remembered_options(work.options),
        model_rows=planned.compared.rows,
        differing=planned.compared.differing,
        rows=planned.counts.planned + follow + planned.counts.removals_due,
    )
    kept.remember(connection, tables, name, sync.name, work.holder, reviewed)
    connection.commit()
    counts = planned.counts
    creates = sum(g.rows for g in groups if g.operation == t.CREATE)
    # Rows that go have no word of the destination yet, and are no problem for it.
    found = [r for r in rows.problem_rows(connection, tables, sync, 100) if r["status"] != t.SEND]
    return PlanReport(
        sequence=name,
        sync=sync.name,
        review_id=review_id,
        plan_id=reviewed.plan_id,
        expires_at=reviewed.expires_at,
        counts=counts,
        creates=creates,
        updates=counts.planned - creates,
        follow=follow,
        stay_held=max(counts.held - follow, 0),
        removals=due + counts.removals_due,
        calls=_calls(work, groups, follow, due + counts.removals_due),
        guard=_guard(work, planned),
        resync_reason=planned.resync_reason,
        risks=tuple(risks),
        rows=tuple(_samples(work, room, tables, groups)),
        problems=problems(found),
        destination=f"{account.name} ({account.id})",
        summary=_summary(sync.name, counts, creates, follow, due + counts.removals_due),
        api_calls=0,
        seconds=0.0,
    )


def _preflight(work: Work, planned: Planned, groups: Sequence[Group]) -> list[str]:
    writes: set[Write] = {"create" if g.operation == t.CREATE else "update" for g in groups}
    return check_mapping(work.site.destination, replace(planned.mapped, writes=frozenset(writes))) if writes else []


def _coming(
    work: Work, room: Room, parents: Sequence[str], review_id: str
) -> dict[str, tuple[sa.TableClause, sa.TableClause | None]]:
    """Of each parent its ledger, and the keys that this review would create there."""
    sequence, found = work.site.sequence, {}
    for parent in parents:
        schema = room.state_schema_of(parent)
        if schema is None:
            continue
        tables = StateTables.of(sequence, sequence.sync(parent), schema)
        reviewed = kept.read(room.connection, tables, sequence.name, parent)
        same = reviewed is not None and reviewed.review_id == review_id
        ledger = ledger_of(sequence.name, parent, schema)
        if sa.inspect(room.connection).has_table(ledger.name, schema=schema):
            found[parent] = (ledger, kept.going_table(tables) if same else None)
    return found


def _calls(work: Work, groups: Sequence[Group], follow: int, removals: int) -> int:
    sync, destination = work.sync, work.site.destination

    def calls(operation: str, number: int) -> int:
        return destination.calls_for(request_of(sync, operation, number)) if number else 0

    going = sum(calls(g.operation, g.rows) for g in groups) + calls(t.CREATE, follow)
    return going + calls(t.CLEAR if sync.removed == "clear" else t.DELETE, removals)


def _guard(work: Work, planned: Planned) -> str | None:
    try:
        check_guards(
            work.sync.name,
            work.site.sequence.guards_of(work.sync),
            planned.change,
            plan_id=planned.plan_id,
            resync_reason=planned.resync_reason,
            asked=work.options.full_resync,
        )
    except GuardTripped as tripped:
        return str(tripped)
    return None


def _samples(work: Work, room: Room, tables: StateTables, groups: Sequence[Group]) -> Iterator[PlannedRow]:
    """The first rows of each operation, with what their records hold now."""
    for operation in (t.UPDATE, t.ADOPT, t.LINK, t.CREATE):
        group = next((g for g in groups if g.operation == operation), None)
        if group is None:
            continue
        last = min(group.last_seq, group.first_seq + SAMPLES - 1)
        page = room.fetch(rows.page(tables, work.sync, operation, group.first_seq, last))
        keys = dict(rows.keys_of(room.connection, tables, group.first_seq, last))
        room.connection.commit()
        yield from _compared(work, operation, page, [keys[n] for n in page[SEQ].to_pylist()])


def _compared(work: Work, operation: str, page: pa.Table, keys: Sequence[str]) -> Iterator[PlannedRow]:
    sync, destination = work.sync, work.site.destination
    fields = [f for f, _ in sync.mappings()]
    sent = page.select(fields)
    after = destination.as_stored(sync.object, sent)
    ids = (
        page[DEST_ID].combine_chunks().cast(pa.string()) if operation != t.CREATE else pa.nulls(len(page), pa.string())
    )
    before: dict[str, dict[str, str | None]] = {}
    if operation != t.CREATE:
        for table in destination.read_back(sync.object, fields, ids):
            before.update({r.pop(DEST_ID): r for r in table.to_pylist()})
    ignored = set(rows.ignored_nulls(sync))
    for n, (key, dest_id) in enumerate(zip(keys, ids.to_pylist(), strict=True)):
        there = before.get(dest_id or "", {})
        changes = []
        for field in fields:
            given = sent[field][n].as_py()
            new = after[field][n].as_py() if field in after.column_names else None if given is None else str(given)
            old = there.get(field)
            if (given is None and field in ignored) or ((field in there or operation == t.CREATE) and old == new):
                continue
            shown = [MASK if v is not None and sync.is_sensitive(field) else v for v in (old, new)]
            changes.append(FieldChange(field, *shown))
        url = destination.record_url(sync.object, dest_id) if dest_id else ""
        yield PlannedRow(key, operation, dest_id or "", url, tuple(changes))


def _summary(name: str, counts: Counts, creates: int, follow: int, removals: int) -> str:
    parts = [
        f"{n} {word}"
        for n, word in (
            (creates, "to create"),
            (counts.planned - creates, "to update"),
            (follow, "to follow once their parent is in"),
            (removals, "to remove"),
            (max(counts.held - follow, 0), "held"),
            (counts.waiting, "refused earlier and waiting"),
            (counts.refused, "refused"),
            (counts.invalid, "invalid"),
            (counts.unchanged, "unchanged"),
        )
        if n
    ]
    return f"{name}: {', '.join(parts) or 'no rows'}."
