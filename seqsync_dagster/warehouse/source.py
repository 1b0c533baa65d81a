"""What a sync reads."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa


@dataclass(frozen=True)
class ModelSource:
    """A relation in the warehouse, or a query over it. `label` is how a person names it."""

    label: str
    table: str | None = None
    schema: str | None = None
    query: str | None = None

    @classmethod
    def of_table(cls, name: str, label: str | None = None) -> ModelSource:
        """From ``table`` or ``schema.table``."""
        schema, _, table = name.rpartition(".")
        return cls(label=label or name, table=table, schema=schema or None)

    def statement(self) -> sa.TextClause:
        """The query, in a form that can stand between parentheses."""
        # No colon of it is a parameter, and a comment on its last line must not swallow what follows.
        return sa.text((self.query or "").strip().rstrip(";").replace(":", "\\:") + "\n")

    def selectable(self, columns: list[str], catalog: str | None) -> sa.FromClause:
        """The relation with these columns, in `catalog` where the engine attaches the warehouse under a name."""
        named: list[sa.ColumnClause[object]] = [sa.column(c) for c in columns]
        if self.query is not None:
            return self.statement().columns(*named).subquery("model")
        schema = self.schema
        if catalog is not None:
            schema = f"{catalog}.{schema or 'main'}"
        return sa.table(self.table or "", *named, schema=schema)
