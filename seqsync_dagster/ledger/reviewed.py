"""Plans that were made to be read: the differences they rest on are kept, so that exactly they can be sent later.

Kept are the differences and not the plan: sent another day, rows whose parent was created by the
same review find that parent's id, and everything else is judged again to the same plan.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.delta import DELTA, delta_table, temporary
from seqsync_dagster.ledger.registry import Registered, columns_of
from seqsync_dagster.ledger.tables import Shape, StateTables, lookup_column, parent_column, ref_column
from seqsync_dagster.sequence.sync import SyncSpec


@dataclass(frozen=True)
class Reviewed:
    """What is remembered of a plan that was made to be read."""

    review_id: str
    """Of the review as a whole: the same for all syncs that were planned together."""
    plan_id: str
    """Of this sync's plan, the rows that follow their parents left out."""
    made_at: datetime
    expires_at: datetime
    mapping_digest: str
    org_id: str
    ledger_mark: str
    options: Mapping[str, Any]
    model_rows: int | None
    differing: int
    rows: int
    """Rows that go at once, or after their parents."""


def reviewed_table(tables: StateTables, shape: Shape) -> sa.TableClause:
    """The kept differences."""
    columns = [sa.column(c.name, c.type) for c in delta_table(shape).c]
    return sa.table(_named(tables, "reviewed"), *columns, schema=tables.plan.schema)


def going_table(tables: StateTables) -> sa.TableClause:
    """Keys of the rows that a review found would be created: match_key, and whether they only follow a parent."""
    return sa.table(
        _named(tables, "going"),
        sa.column("match_key", sa.Text),
        sa.column("follows", sa.Boolean),
        schema=tables.plan.schema,
    )


def ledger_mark(known: Registered | None) -> str:
    """What is another one as soon as a run has settled anything in the ledger."""
    if known is None or known.org_id is None:
        return "new"
    settled = known.settled_at.astimezone(UTC).isoformat() if known.settled_at is not None else None
    # A ledger that was rebuilt, healed or sent since differs in one of them.
    return json.dumps([settled, known.checksum and known.checksum.total, known.arrivals])


def read(connection: sa.Connection, tables: StateTables, sequence: str, sync: str) -> Reviewed | None:
    """The sync's latest review; None when there is none."""
    p = tables.plans
    if not sa.inspect(connection).has_table(p.name, schema=p.schema):
        return None
    row = connection.execute(sa.select(p).where(p.c.sequence == sequence, p.c.sync == sync)).mappings().one_or_none()
    if row is None:
        return None
    return Reviewed(
        **{k: row[k] for k in ("review_id", "plan_id", "made_at", "expires_at", "mapping_digest", "org_id")},
        **{k: row[k] for k in ("ledger_mark", "model_rows", "differing", "rows")},
        options=json.loads(row["options"]),
    )


def keep(
    connection: sa.Connection,
    tables: StateTables,
    sequence: str,
    sync: SyncSpec,
    parents: Mapping[str, tuple[sa.TableClause, sa.TableClause | None]],
) -> int:
    """Keep the differences, and the keys of what would be created; returns how many rows follow their parents.

    Needs DELTA, and the plan written. `parents`: by sync, its ledger, and its keys that the same review found
    would be created.
    """
    forget(connection, tables, sequence, sync.name)
    shape, plan, going = Shape.of(sync), tables.plan, going_table(tables)
    kept = reviewed_table(tables, shape)
    connection.execute(sa.select(*delta_table(shape).c).into(kept.name, schema=kept.schema))
    creates = sa.and_(plan.c.status == t.SEND, plan.c.operation == t.CREATE, plan.c.match_key.is_not(None))
    created = sa.select(plan.c.match_key, sa.false().label("follows")).where(creates)
    connection.execute(created.into(going.name, schema=going.schema))
    followers = _followers(tables, sync, {**parents, sync.name: (tables.ledger, going)})
    count = 0
    while True:
        before = count
        connection.execute(sa.insert(going).from_select(["match_key", "follows"], followers))
        count = connection.execute(sa.select(sa.func.count()).where(going.c.follows)).scalar_one()
        # Only a hierarchy within the sync has followers of followers.
        if count == before or sync.name not in sync.parents():
            return count


def _followers(
    tables: StateTables, sync: SyncSpec, parents: Mapping[str, tuple[sa.TableClause, sa.TableClause | None]]
) -> sa.Select[Any]:
    """Rows held by nothing but parents that are about to be created."""
    shape, plan, going = Shape.of(sync), tables.plan, going_table(tables)
    there: list[sa.ColumnElement[bool]] = []
    for n, (field, mapping) in enumerate(shape.parents.items()):
        if mapping.if_missing != "hold" or mapping.deferred:
            continue
        key = plan.c[parent_column(field)]
        ledger, coming = parents.get(mapping.parent, (None, None))
        arrives: list[sa.ColumnElement[bool]] = [key.is_(None)]
        if ledger is not None:
            parent = ledger.alias(f"parent{n}")
            arrives.append(sa.exists().where(parent.c.match_key == key, parent.c.dest_id.is_not(None)))
        if coming is not None:
            arrives.append(key.in_(sa.select(coming.alias(f"coming{n}").c.match_key)))
        there.append(sa.or_(*arrives))
    d = delta_table(shape)
    for field, lookup in shape.lookups.items():
        if lookup.if_missing == "hold":
            wanted = sa.exists().where(d.c.match_key == plan.c.match_key, d.c[lookup_column(field)].is_not(None))
            there.append(sa.or_(plan.c[ref_column(field)].is_not(None), sa.not_(wanted)))
    return sa.select(plan.c.match_key, sa.true()).where(
        # A parent that has never gone is not in its ledger either, as if it were not in its model.
        plan.c.status.in_([t.HELD_PENDING, t.HELD_MISSING]),
        sa.not_(sa.exists().where(going.alias("known").c.match_key == plan.c.match_key)),
        *there,
    )


def remember(
    connection: sa.Connection, tables: StateTables, sequence: str, sync: str, holder: str, r: Reviewed
) -> None:
    """Write down what `read` gives back."""
    connection.execute(
        sa.insert(tables.plans).values(
            sequence=sequence,
            sync=sync,
            holder=holder,
            **{k: getattr(r, k) for k in ("review_id", "plan_id", "made_at", "expires_at", "mapping_digest", "org_id")},
            **{k: getattr(r, k) for k in ("ledger_mark", "model_rows", "differing", "rows")},
            options=json.dumps(dict(r.options)),
        )
    )


def restore(connection: sa.Connection, tables: StateTables, sync: SyncSpec) -> None:
    """Make the kept differences those that a plan is made from."""
    shape = Shape.of(sync)
    temporary(connection, DELTA, sa.select(*reviewed_table(tables, shape).c))


def newer(connection: sa.Connection, tables: StateTables, sync: SyncSpec) -> int:
    """How many rows of the model differ from the ledger in another way than when the plan was made. Needs DELTA."""
    shape = Shape.of(sync)
    now, then = delta_table(shape), reviewed_table(tables, shape).alias("then")
    count = 0
    for one, other in ((now, then), (then, now)):
        missing = sa.and_(
            one.c.fingerprint.is_not(None),
            one.c.fingerprint.not_in(sa.select(other.c.fingerprint).where(other.c.fingerprint.is_not(None))),
        )
        # A changed row is in both, with its key; rows of one side only came or went.
        alone = missing if one is now else sa.and_(missing, one.c.match_key.not_in(_keys(now)))
        count += connection.execute(sa.select(sa.func.count()).select_from(one).where(alone)).scalar_one()
    return count


def _keys(d: sa.TableClause) -> sa.Select[Any]:
    return sa.select(d.c.match_key).where(d.c.fingerprint.is_not(None), d.c.match_key.is_not(None))


def forget(connection: sa.Connection, tables: StateTables, sequence: str, sync: str) -> None:
    """Drop what was kept: it was sent, or it fits the ledger no more."""
    for kind in ("reviewed", "going"):
        connection.execute(sa.text(f'DROP TABLE IF EXISTS "{tables.plan.schema}"."{_named(tables, kind)}"'))
    p = tables.plans
    connection.execute(sa.delete(p).where(p.c.sequence == sequence, p.c.sync == sync))


def still_there(connection: sa.Connection, tables: StateTables, sync: SyncSpec) -> bool:
    """Whether the kept differences are those of the mapping as it is now."""
    kept = reviewed_table(tables, Shape.of(sync))
    if not sa.inspect(connection).has_table(kept.name, schema=kept.schema):
        return False
    return set(columns_of(connection, kept)) == {c.name for c in kept.c}


def _named(tables: StateTables, kind: str) -> str:
    return f"{tables.plan.name.removesuffix('__plan')}__{kind}"
