"""Step 5: outcomes fold into the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.engine.report import Counts
from seqsync_dagster.engine.site import Work
from seqsync_dagster.ledger import registry as registry_table
from seqsync_dagster.ledger.fingerprint import OUT_OF_STEP
from seqsync_dagster.ledger.settle import Settlement, settle
from seqsync_dagster.ledger.tables import StateTables
from seqsync_dagster.warehouse.open import Room


def settle_completed(
    work: Work,
    room: Room,
    tables: StateTables,
    plan_id: str | None,
    *,
    counts: Counts,
    registry: Mapping[str, Any],
    resync_reason: str | None = None,
) -> None:
    """Settle a run that ended by itself, and close it in the journal."""
    work.lease.check()
    settlement = replace(
        _settlement(work, work.run_id, plan_id),
        completed=True,
        registry=registry,
        counts=asdict(counts),
        resync_reason=resync_reason,
    )
    room.frugally(lambda: settle(room.connection, tables, settlement))
    work.site.journal.close_run(work.lease, work.run_id)


def discard_plan(work: Work, room: Room, tables: StateTables) -> None:
    """Forget a plan of which nothing was sent: it has not passed its guards, or its reason has gone."""
    names = (work.site.sequence.name, work.sync.name)
    registry_table.claim(room.connection, tables, *names, work.epoch)
    registry_table.update(room.connection, tables, *names, plan_run_id=None, plan_spec=None)
    room.connection.execute(sa.text(f'DROP TABLE IF EXISTS "{tables.plan.schema}"."{tables.plan.name}"'))
    room.connection.execute(sa.delete(tables.outcome))
    room.connection.commit()


def settle_interrupted(
    work: Work,
    room: Room,
    tables: StateTables,
    run_id: str,
    plan_id: str | None,
    *,
    in_flight: Sequence[tuple[int, int]] = (),
    registry: Mapping[str, Any] | None = None,
) -> None:
    """Settle what is known of a run that did not end by itself; its unsent rows stay due."""
    work.lease.check()
    settlement = replace(
        _settlement(work, run_id, plan_id),
        in_flight=in_flight,
        registry={**OUT_OF_STEP, **(registry or {})},
    )
    room.frugally(lambda: settle(room.connection, tables, settlement))


def _settlement(work: Work, run_id: str, plan_id: str | None) -> Settlement:
    """Of a run that did not end by itself, until told otherwise."""
    return Settlement(
        sequence=work.site.sequence,
        sync=work.sync,
        run_id=run_id,
        plan_id=plan_id,
        holder=work.holder,
        epoch=work.epoch,
        started_at=work.started_at,
        now=datetime.now(UTC),
        completed=False,
    )
