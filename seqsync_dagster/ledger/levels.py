"""Self-references: which rows of a plan must go before which, level by level."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.delta import temporary
from seqsync_dagster.ledger.tables import Shape
from seqsync_dagster.sequence.mappings import ParentLookup
from seqsync_dagster.sequence.sync import SyncSpec

#: Temporary table: match_key and level of every row that can go, and the fields that a row goes without because
#: it is where a loop was broken (each followed by a comma, else null).
LEVELS = "seqsync_levels"

_JUDGED = "seqsync_judged"
#: Temporary tables, made only when rows are left over: child and parent of those rows, the rows below one that does
#: not go, and the lowest key among each row and those above it.
_EDGES = "seqsync_edges"
_STUCK = "seqsync_stuck"
_LOWEST = ("seqsync_lowest0", "seqsync_lowest1")


def own_lookups(sync: SyncSpec) -> dict[str, ParentLookup]:
    """By slot, the self-references that order a sync's rows."""
    return {f: m for f, m in Shape.of(sync).parents.items() if m.parent == sync.name and not m.deferred}


def write_levels(connection: sa.Connection, sync: SyncSpec) -> None:
    """Place every row that can go one level below the parents that go with it.

    One statement per level, so the cost is the depth of the hierarchy, not the
    number of rows. Rows that form a loop are placed by breaking it at its lowest
    key: that row goes without the reference. Rows left without a level hang on a
    row that does not go.
    """
    lookups = own_lookups(sync)
    if lookups:
        _Levels(connection, lookups, {slot: sync.field_of(slot) for slot in lookups}).write()


class _Levels:
    """The tables that the statements of one sync speak of."""

    def __init__(
        self, connection: sa.Connection, lookups: Mapping[str, ParentLookup], fields: Mapping[str, str]
    ) -> None:
        self.connection, self.lookups, self.fields = connection, lookups, fields
        self.blocked = {f: sa.column(t.blocked_column(f), sa.Text) for f in lookups}
        self.judged = sa.table(
            _JUDGED, sa.column("match_key", sa.Text), sa.column("status", sa.Text), *self.blocked.values()
        )
        self.levels = sa.table(
            LEVELS, sa.column("match_key", sa.Text), sa.column("level", sa.Integer), sa.column("lacking", sa.Text)
        )
        self.edges = sa.table(_EDGES, sa.column("child", sa.Text), sa.column("parent", sa.Text))
        self.stuck = sa.table(_STUCK, sa.column("match_key", sa.Text))
        self.goes = self.judged.c.status == t.SEND

    def write(self) -> None:
        nothing = sa.cast(sa.null(), sa.Text).label("lacking")
        first = sa.select(self.judged.c.match_key, sa.cast(0, sa.Integer).label("level"), nothing)
        temporary(self.connection, LEVELS, first.where(self.goes, *map(self._free, self.lookups)))
        level = self._place(0)
        while self._left_over():
            if not self._break_loops(level):
                return
            level = self._place(level)

    def _free(self, field: str) -> sa.ColumnElement[bool]:
        """The row waits for no parent of this plan by this field."""
        column = self.judged.c[self.blocked[field].name]
        if self.lookups[field].if_missing != "send_empty":
            return column.is_(None)
        # The row goes without a parent that does not go.
        parent = self.judged.alias(f"parent_by_{list(self.lookups).index(field)}")
        return sa.or_(
            column.is_(None), sa.not_(sa.exists().where(parent.c.match_key == column, parent.c.status == t.SEND))
        )

    def _placed(self, field: str) -> sa.ColumnElement[bool]:
        return self.judged.c[self.blocked[field].name].in_(sa.select(self.levels.c.match_key))

    def _unplaced(self) -> sa.ColumnElement[bool]:
        return sa.not_(sa.exists().where(self.levels.c.match_key == self.judged.c.match_key))

    def _place(self, level: int) -> int:
        """Place what waits for nothing but placed rows, level by level; the first level that stayed empty."""
        ready = [sa.or_(self._free(f), self._placed(f)) for f in self.lookups]
        while True:
            level += 1
            rows = sa.select(self.judged.c.match_key, sa.cast(level, sa.Integer), sa.cast(sa.null(), sa.Text))
            self._insert(rows.where(self.goes, self._unplaced(), *ready))
            # The row count of an insert is not known on every engine, so it is asked for.
            if not self._count(self.levels, self.levels.c.level == level):
                return level

    def _insert(self, rows: sa.Select[*tuple[str, ...]]) -> None:
        self.connection.execute(sa.insert(self.levels).from_select(["match_key", "level", "lacking"], rows))

    def _left_over(self) -> bool:
        """Whether rows of loops, or below them, are left: they are in EDGES then, with their parents among them."""
        edges = sa.union(
            *[
                sa.select(
                    self.judged.c.match_key.label("child"), self.judged.c[self.blocked[f].name].label("parent")
                ).where(self.goes, self._unplaced(), sa.not_(self._free(f)), sa.not_(self._placed(f)))
                for f in self.lookups
            ]
        ).subquery("edges")
        temporary(self.connection, _EDGES, sa.select(edges))
        if not self._count(self.edges):
            return False
        children = sa.select(self.edges.c.child)
        # A parent that is not left over itself does not go: below it everything is stuck.
        lost = sa.select(self.edges.c.child.label("match_key")).where(self.edges.c.parent.not_in(children)).distinct()
        temporary(self.connection, _STUCK, lost)
        found, before = self._count(self.stuck), 0
        while found > before:
            above = sa.select(self.stuck.c.match_key)
            more = sa.select(self.edges.c.child).where(self.edges.c.parent.in_(above), self.edges.c.child.not_in(above))
            self.connection.execute(sa.insert(self.stuck).from_select(["match_key"], more.distinct()))
            found, before = self._count(self.stuck), found
        if found:
            self.connection.execute(
                sa.delete(self.edges).where(self.edges.c.child.in_(sa.select(self.stuck.c.match_key)))
            )
        return self._count(self.edges) > 0

    def _break_loops(self, level: int) -> bool:
        """Place the row with the lowest key of every loop that hangs on no other; whether there was one.

        Every row in EDGES has a parent there, so going up from it leads into a loop. The lowest key among a row and
        all above it is found by handing it down an edge at a time. Where a parent of a row finds that row's own key,
        the row is above its parent too: they are of one loop, whose lowest key it is.
        """
        lowest = self._lowest()
        above = lowest.alias("above")
        broken = (
            sa.select(self.edges.c.child)
            .select_from(self.edges.join(above, above.c.match_key == self.edges.c.parent))
            .where(above.c.lowest == self.edges.c.child)
        )
        lacking: sa.ColumnElement[str] = sa.literal("")
        for field in self.lookups:
            waits = sa.and_(sa.not_(self._free(field)), sa.not_(self._placed(field)))
            lacking = lacking.concat(sa.case((waits, f"{self.fields[field]},"), else_=""))
        rows = sa.select(self.judged.c.match_key, sa.cast(level, sa.Integer), lacking)
        self._insert(rows.where(self.judged.c.match_key.in_(broken)))
        return self._count(self.levels, self.levels.c.level == level) > 0

    def _lowest(self) -> sa.TableClause:
        tables = [sa.table(n, sa.column("match_key", sa.Text), sa.column("lowest", sa.Text)) for n in _LOWEST]
        old, new = tables
        own = sa.select(self.edges.c.child.label("match_key"), self.edges.c.child.label("lowest")).distinct()
        temporary(self.connection, old.name, own)
        while True:
            handed = sa.union_all(
                sa.select(old.c.match_key, old.c.lowest),
                sa.select(self.edges.c.child, old.c.lowest).select_from(
                    self.edges.join(old, old.c.match_key == self.edges.c.parent)
                ),
            ).subquery("handed")
            # Binary order: the same row is the lowest on every engine.
            least = sa.func.min(sa.collate(handed.c.lowest, "C")).label("lowest")
            temporary(self.connection, new.name, sa.select(handed.c.match_key, least).group_by(handed.c.match_key))
            changed = sa.select(sa.func.count()).select_from(old.join(new, new.c.match_key == old.c.match_key))
            if not self.connection.execute(changed.where(old.c.lowest != new.c.lowest)).scalar_one():
                return new
            old, new = new, old

    def _count(self, table: sa.TableClause, *where: sa.ColumnElement[bool]) -> int:
        return self.connection.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar_one()
