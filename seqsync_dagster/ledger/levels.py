"""Self-references: which rows of a plan must go before which, level by level."""

from __future__ import annotations

import sqlalchemy as sa

from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.delta import temporary
from seqsync_dagster.ledger.tables import Shape
from seqsync_dagster.sequence.spec import SyncSpec

#: Temporary table: match_key and level of every row that can go.
LEVELS = "seqsync_levels"

_JUDGED = "seqsync_judged"


def write_levels(connection: sa.Connection, sync: SyncSpec) -> None:
    """Place every row that can go one level below the parents that go with it.

    One statement per level, so the cost is the depth of the hierarchy, not the
    number of rows. Rows left without a level hang on a row that does not go,
    or on each other in a loop.
    """
    lookups = {f: m for f, m in Shape.of(sync).parents.items() if m.parent == sync.name}
    if not lookups:
        return
    blocked = {f: sa.column(t.blocked_column(f), sa.Text) for f in lookups}
    judged = sa.table(_JUDGED, sa.column("match_key", sa.Text), sa.column("status", sa.Text), *blocked.values())
    levels = sa.table(LEVELS, sa.column("match_key", sa.Text), sa.column("level", sa.Integer))
    goes = judged.c.status == t.SEND

    def free(field: str) -> sa.ColumnElement[bool]:
        column = judged.c[blocked[field].name]
        if lookups[field].if_missing != "send_empty":
            return column.is_(None)
        # The row goes without a parent that does not go.
        parent = judged.alias(f"parent_by_{list(lookups).index(field)}")
        return sa.or_(
            column.is_(None), sa.not_(sa.exists().where(parent.c.match_key == column, parent.c.status == t.SEND))
        )

    first = sa.select(judged.c.match_key, sa.cast(0, sa.Integer).label("level")).where(goes, *map(free, lookups))
    temporary(connection, LEVELS, first)
    placed = sa.select(levels.c.match_key)
    level = 0
    while True:
        level += 1
        ready = sa.and_(
            goes,
            sa.not_(sa.exists().where(levels.c.match_key == judged.c.match_key)),
            *[sa.or_(free(f), judged.c[blocked[f].name].in_(placed)) for f in lookups],
        )
        connection.execute(
            sa.insert(levels).from_select(
                ["match_key", "level"], sa.select(judged.c.match_key, sa.cast(level, sa.Integer)).where(ready)
            )
        )
        if not _any_at(connection, levels, level):
            return


def _any_at(connection: sa.Connection, levels: sa.TableClause, level: int) -> bool:
    # The row count of an insert is not known on every engine, so it is asked for.
    return bool(connection.execute(sa.select(sa.func.count()).where(levels.c.level == level)).scalar_one())
