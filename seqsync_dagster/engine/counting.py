"""How many rows a plan concerns, and of what kind: for the report, and for the guards."""

from __future__ import annotations

import sqlalchemy as sa

from seqsync_dagster.engine.comparing import Comparison
from seqsync_dagster.engine.guard import PlannedChange
from seqsync_dagster.engine.report import Counts
from seqsync_dagster.engine.site import Work
from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.plan import plan_counts
from seqsync_dagster.ledger.tables import StateTables


def count_fingerprints(connection: sa.Connection, tables: StateTables) -> int:
    """Rows of the ledger that equal a row of the model, as far as was acknowledged."""
    ledger = tables.ledger
    return connection.execute(sa.select(sa.func.count(ledger.c.fingerprint)).select_from(ledger)).scalar_one()


def count_plan(
    connection: sa.Connection, tables: StateTables, work: Work, compared: Comparison
) -> tuple[Counts, PlannedChange]:
    """The plan's rows, as the report tells them and as the guards measure them."""
    by = plan_counts(connection, tables)

    def of(status: str, operation: str | None = None) -> int:
        return sum(n for (s, o), n in by.items() if s == status and (operation is None or o == operation))

    ledger = tables.ledger
    # Rows that lost their fingerprint to a new parent have records all the same. Two statements: an engine that keeps
    # columns apart need not read ids and states of the many that have one.
    records = sa.and_(ledger.c.dest_id.is_not(None), ledger.c.state.not_in([t.LEFT, t.REMOVAL_DUE]))
    acknowledged = count_fingerprints(connection, tables)
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
