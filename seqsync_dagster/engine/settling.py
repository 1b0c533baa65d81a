"""Step 5: outcomes fold into the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from seqsync_dagster.engine.report import Counts
from seqsync_dagster.engine.site import Work
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
    settle(
        room.connection,
        tables,
        Settlement(
            sequence=work.site.sequence,
            sync=work.sync,
            run_id=work.run_id,
            plan_id=plan_id,
            holder=work.holder,
            epoch=work.lease.epoch,
            started_at=work.started_at,
            now=datetime.now(UTC),
            completed=True,
            registry=registry,
            counts=asdict(counts),
            resync_reason=resync_reason,
        ),
    )
    work.site.journal.close_run(work.lease, work.run_id)


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
    settle(
        room.connection,
        tables,
        Settlement(
            sequence=work.site.sequence,
            sync=work.sync,
            run_id=run_id,
            plan_id=plan_id,
            holder=work.holder,
            epoch=work.lease.epoch,
            started_at=work.started_at,
            now=datetime.now(UTC),
            completed=False,
            in_flight=in_flight,
            registry={**OUT_OF_STEP, **(registry or {})},
        ),
    )
