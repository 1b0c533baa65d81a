"""Step 1: what an earlier, interrupted run left is brought to its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import sqlalchemy as sa

from seqsync_dagster.destinations.protocol import Answered, Progress
from seqsync_dagster.engine.apply import frames, request_of, stage_outcomes, take
from seqsync_dagster.engine.settling import discard_plan, settle_interrupted
from seqsync_dagster.engine.site import Work, checked_account
from seqsync_dagster.errors import ResultsUnclear
from seqsync_dagster.journal import OpenRun, OpenSend, Scope
from seqsync_dagster.ledger import registry
from seqsync_dagster.ledger.tables import StateTables
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.open import Room


def recover(work: Work) -> None:
    """Find out what became of rows in flight, and settle what the destination has said.

    Raises `DestinationStillBusy` when the destination is still at work on them.
    """
    site = work.site
    for run in site.journal.open_runs(Scope(site.sequence.name, work.sync.name)):
        with site.warehouse.open(site.sequence.name, work.sync.name) as room:
            _recover_run(work, room, run)
        site.journal.close_run(work.lease, run.run_id)


def _recover_run(work: Work, room: Room, run: OpenRun) -> None:
    tables = work.tables(room.schema)
    registry.migrate(room.connection, tables)
    known = registry.read(room.connection, tables, work.site.sequence.name, work.sync.name)
    room.connection.commit()
    if known is None or known.plan_run_id != run.run_id:
        # Killed before its plan counted, or after it was settled: there is nothing to bring to an end.
        if known is not None and known.plan_run_id is None:
            # Of a plan that was half written; it has values, sensitive ones too.
            discard_plan(work.above(known), room, tables)
        return
    work = work.above(known)
    if known.plan_spec is not None:
        # The plan is brought to its end as the sync it was made for, whatever the YAML says by now.
        work = replace(work, sync=SyncSpec.model_validate_json(known.plan_spec))
        tables = work.tables(room.schema)
    registry.add_plan_columns(room.connection, tables)
    if not run.sends:
        discard_plan(work, room, tables)
        return
    unfinished = [s for s in run.sends if not s.finished]
    stage_outcomes(work, room, tables, run.run_id, anew=True)
    if unfinished:
        checked_account(work, known)
        work.log(f"run {run.run_id} was interrupted while rows were in flight: asking what became of them")
    # Not noted in the journal: should this run be killed before it has settled, the next one asks again.
    unknown = [s for s in unfinished if not _answered(work, room, tables, run.run_id, s)]
    stage_outcomes(work, room, tables, run.run_id, anew=True)
    settled = room.connection.execute(sa.select(sa.func.count()).select_from(tables.outcome)).scalar_one()
    in_flight = [(s.first_seq, s.last_seq) for s in unknown]
    settle_interrupted(work, room, tables, run.run_id, run.plan_id, in_flight=in_flight)
    work.log(f"run {run.run_id} was interrupted; {settled} outcomes of it are settled now, the rest is due again")


def _lacking(send: OpenSend) -> list[str]:
    """The fields that its rows went without."""
    fields = send.request.get("lacking", [])
    return [str(f) for f in fields] if isinstance(fields, list) else []


def _answered(work: Work, room: Room, tables: StateTables, run_id: str, send: OpenSend) -> bool:
    """Whether the destination knows what became of all rows of a send: those without an outcome were not written."""
    operation = str(send.request["operation"])
    rows_in_flight = send.last_seq - send.first_seq + 1
    request = request_of(work.sync, operation, rows_in_flight, _lacking(send))

    def rows() -> Iterator[pd.DataFrame]:
        yield from frames(work, room, tables, operation, send.first_seq, send.last_seq)

    try:
        for event in work.site.destination.resume(send.token, request, rows()):
            take(work, room, tables, run_id, event)
            if isinstance(event, Progress):
                work.log(f"{work.sync.name}: {event.text}")
            elif isinstance(event, Answered):
                return True
    except ResultsUnclear as unclear:
        # The next run would be told the same: what is known is settled, and the other rows may have been written.
        work.log(f"{work.sync.name}: {unclear}")
    return False
