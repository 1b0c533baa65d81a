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
    own = [f for f, m in Shape.of(sync).parents.items() if m.parent == sync.name]
    if not own:
        return
    blocked = [sa.column(f"blocked_{f}", sa.Text) for f in own]
    judged = sa.table(_JUDGED, sa.column("match_key", sa.Text), sa.column("status", sa.Text), *blocked)
    levels = sa.table(LEVELS, sa.column("match_key", sa.Text), sa.column("level", sa.Integer))
    free = sa.and_(judged.c.status == t.SEND, *[judged.c[b.name].is_(None) for b in blocked])
    temporary(connection, LEVELS, sa.select(judged.c.match_key, sa.cast(0, sa.Integer).label("level")).where(free))
    placed = sa.select(levels.c.match_key)
    level = 0
    while True:
        level += 1
        ready = sa.and_(
            judged.c.status == t.SEND,
            sa.not_(sa.exists().where(levels.c.match_key == judged.c.match_key)),
            *[sa.or_(judged.c[b.name].is_(None), judged.c[b.name].in_(placed)) for b in blocked],
        )
        inserted = connection.execute(
            sa.insert(levels).from_select(
                ["match_key", "level"], sa.select(judged.c.match_key, sa.cast(level, sa.Integer)).where(ready)
            )
        )
        if not _any_at(connection, levels, level):
            inserted.close()
            return


def _any_at(connection: sa.Connection, levels: sa.TableClause, level: int) -> bool:
    # The row count of an insert is not known on every engine, so it is asked for.
    return bool(connection.execute(sa.select(sa.func.count()).where(levels.c.level == level)).scalar_one())
