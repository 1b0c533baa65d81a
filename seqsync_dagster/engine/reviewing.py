"""Sending exactly the plan that somebody has read."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.engine.comparing import Comparison
from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.engine.site import Work, checked_account
from seqsync_dagster.errors import PlanOutdated, Unfulfillable
from seqsync_dagster.ledger import registry
from seqsync_dagster.ledger import reviewed as kept
from seqsync_dagster.ledger.plan import plan_id
from seqsync_dagster.ledger.reviewed import Reviewed
from seqsync_dagster.ledger.tables import StateTables
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.open import Room


def find_reviewed(work: Work, room: Room) -> tuple[Work, Reviewed]:
    """The plan that the run is asked to send, and the run with the options that the plan was made with.

    Raises `PlanOutdated` when it is not there, has expired, or the ledger or the org is another one by now, and
    `Unfulfillable` when the run has other options, too.
    """
    sync, wanted = work.sync, work.options.plan_id
    assert wanted is not None
    if replace(work.options, plan_id=None) != RunOptions():
        raise Unfulfillable(
            f"sync {sync.name}: plan_id sends a plan as it was read, with the options it was made with. Leave the "
            "other options out."
        )
    tables, names = work.tables(room.schema), (work.site.sequence.name, sync.name)
    reviewed = kept.read(room.connection, tables, *names)
    again = f"Nothing was sent. Run the job {work.site.sequence.name}_plan and read the new plan."
    if reviewed is None or wanted not in (reviewed.review_id, reviewed.plan_id):
        there = f"the plan that is kept is {reviewed.review_id}" if reviewed is not None else "none is kept"
        raise PlanOutdated(
            f"sync {sync.name}: there is no plan {wanted}: it was never made, was sent, or a later run made it out of "
            f"date; {there}. {again}"
        )
    if reviewed.expires_at.astimezone(UTC) < datetime.now(UTC):
        raise PlanOutdated(
            f"sync {sync.name}: plan {wanted} expired at {reviewed.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC. "
            f"{again}"
        )
    known = registry.read(room.connection, tables, *names)
    account = checked_account(work, known)
    if account.id != reviewed.org_id:
        raise PlanOutdated(
            f"sync {sync.name}: plan {wanted} was made for the org {reviewed.org_id}, the connection now leads to "
            f"{account.name} ({account.id}). {again}"
        )
    if kept.ledger_mark(known) != reviewed.ledger_mark:
        raise PlanOutdated(
            f"sync {sync.name}: the ledger moved since plan {wanted} was made: another run has sent or settled rows. "
            f"{again}"
        )
    if not kept.still_there(room.connection, tables, sync):
        raise PlanOutdated(f"sync {sync.name}: the mapping has changed since plan {wanted} was made. {again}")
    room.connection.commit()
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in reviewed.options.items()}
    return replace(work, options=RunOptions(**options)), reviewed


def remembered_options(options: RunOptions) -> dict[str, Any]:
    """Options as they are kept with a plan."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(options).items()}


def forget_reviewed(work: Work, room: Room) -> None:
    """Drop the plan that is kept to be read: the ledger has moved on, so nobody can have it sent any more."""
    kept.forget(room.connection, work.tables(room.schema), work.site.sequence.name, work.sync.name)
    room.connection.commit()


def take_up(work: Work, room: Room, tables: StateTables, reviewed: Reviewed, digest: str) -> Comparison:
    """Put the kept differences in the place of those just found, and say how many rows the model has newer."""
    if digest != reviewed.mapping_digest:
        raise PlanOutdated(
            f"sync {work.sync.name}: the mapping, or a type of the model, has changed since plan {reviewed.review_id} "
            f"was made. Nothing was sent. Run the job {work.site.sequence.name}_plan and read the new plan."
        )
    connection = room.connection
    newer = kept.newer(connection, tables, work.sync)
    if newer:
        work.log(
            f"{work.sync.name}: the model has {newer} rows that are newer than plan {reviewed.review_id}; "
            "they go with a later run."
        )
    kept.restore(connection, tables, work.sync)
    return Comparison(False, reviewed.differing, reviewed.model_rows, None)


def check_same(connection: sa.Connection, tables: StateTables, sync: SyncSpec, reviewed: Reviewed, digest: str) -> None:
    """Raise `PlanOutdated` when the plan just written is another one than was read."""
    going = kept.going_table(tables)
    followers = sa.select(going.c.match_key).where(going.c.follows)
    if plan_id(connection, tables, digest, without=followers) != reviewed.plan_id:
        raise PlanOutdated(
            f"sync {sync.name}: what plan {reviewed.review_id} would do is not what would happen now: records that "
            "it found in the destination, or its parents', have changed. Nothing was sent. Make the plan again."
        )
