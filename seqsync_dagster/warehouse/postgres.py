"""PostgreSQL: ledgers stand in a schema of the warehouse itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, TypeVar

import psycopg
import pyarrow as pa
import sqlalchemy as sa
from psycopg.types.string import TextLoader
from sqlalchemy.dialects.postgresql import OID
from sqlalchemy.exc import DBAPIError

from seqsync_dagster.errors import WarehouseError
from seqsync_dagster.warehouse.open import (
    SAMPLE_ROWS,
    SAMPLED_FROM,
    Numbered,
    checked_model,
    lock_creation,
    qualified,
    reraise,
)
from seqsync_dagster.warehouse.source import ModelSource

T = TypeVar("T")

_ARROW: dict[str, pa.DataType] = {
    "int2": pa.int64(),
    "int4": pa.int64(),
    "int8": pa.int64(),
    "float4": pa.float64(),
    "float8": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", tz="UTC"),
}


class PostgresWarehouse:
    """A PostgreSQL database."""

    backend = "postgresql"

    def __init__(self, url: sa.URL, schema: str) -> None:
        self.schema = schema
        self.where = url.render_as_string(hide_password=True)
        self.place = f"{self.where} {schema}"
        self.engine = sa.create_engine(
            url, pool_pre_ping=True, hide_parameters=True, connect_args={"connect_timeout": 10}
        )
        sa.event.listen(self.engine, "connect", _leave_json_alone)

    def may_hold(self, sequence: str, sync: str) -> bool:
        """See `Warehouse.may_hold`."""
        return True

    @contextmanager
    def open(
        self, sequence: str, sync: str, *, others: Iterable[str] = (), glances: Iterable[str] = (), model: bool = False
    ) -> Iterator[PostgresRoom]:
        """See `Warehouse.open`."""
        try:
            connection = self.engine.connect()
        except DBAPIError as error:
            raise WarehouseError(
                f"warehouse: no connection to {self.where}: {reraise(error, 'PostgreSQL says')}. Nothing was sent."
            ) from None
        with connection:
            connection.exec_driver_sql("SET TIME ZONE 'UTC'")
            lock_creation(connection)
            connection.exec_driver_sql(f'CREATE SCHEMA IF NOT EXISTS "{self.schema}"')
            connection.commit()
            yield PostgresRoom(connection, self.schema, sequence)

    def close(self) -> None:
        """Release pooled connections."""
        self.engine.dispose()


class PostgresRoom:
    """See `Room`."""

    hash_name = "postgresql-hash_record_extended/1"

    def __init__(self, connection: sa.Connection, schema: str, sequence: str) -> None:
        self.connection, self.schema, self.sequence = connection, schema, sequence

    def model(self, source: ModelSource, columns: Sequence[str]) -> sa.FromClause:
        """See `Room.model`."""
        return checked_model(self, source, columns, None)

    def column_types(self, select: sa.Select[Any]) -> dict[str, str]:
        """See `Room.column_types`."""
        return {d.name: d.type_display for d in _description(self.connection.execute(select.limit(0)))}

    def state_schema_of(self, sync: str) -> str | None:
        """See `Room.state_schema_of`."""
        name = f"{self.sequence}__{sync}__ledger"
        return self.schema if sa.inspect(self.connection).has_table(name, schema=self.schema) else None

    def sample(self, source: ModelSource, columns: Sequence[str]) -> sa.FromClause | None:
        """See `Room.sample`."""
        if source.table is None:
            return None
        pg_class = sa.table("pg_class", *map(sa.column, ("oid", "relkind", "reltuples")))
        name = sa.func.to_regclass(qualified(sa.table(source.table, schema=source.schema)))
        rows = self.connection.execute(
            sa.select(pg_class.c.reltuples).where(
                pg_class.c.oid == sa.cast(name, OID), pg_class.c.relkind.in_(["r", "m"])
            )
        ).scalar_one_or_none()
        if rows is None or rows < SAMPLED_FROM:
            return None
        return sa.tablesample(
            source.selectable(list(columns), None), sa.func.system(min(100.0, 100 * SAMPLE_ROWS / rows)), name="sampled"
        )

    def frugally(self, act: Callable[[], T]) -> T:
        """See `Room.frugally`. The server bounds its own memory."""
        return act()

    def paging(self) -> None:
        """See `Room.paging`."""

    def release_model(self) -> None:
        """See `Room.release_model`."""
        self.connection.commit()

    def fetch(self, select: sa.Select[Any]) -> pa.Table:
        """See `Room.fetch`."""
        result = self.connection.execute(select)
        description = _description(result)
        names = [d.name for d in description]
        rows = result.fetchall()
        arrays = [_array([r[i] for r in rows], d) for i, d in enumerate(description)]
        return pa.table(arrays, names=names)

    def part(self, numbered: Numbered) -> Sequence[sa.Select[Any]]:
        """See `Room.part`. PostgreSQL sorts on disk what does not fit in memory."""
        return (numbered.rows,)

    def write(self, table: sa.TableClause, numbered: Numbered) -> None:
        """See `Room.write`. Ranges are found by an index."""
        self.connection.exec_driver_sql(f"DROP TABLE IF EXISTS {qualified(table)}")
        in_order = numbered.rows.order_by(sa.column(numbered.number))
        self.connection.execute(in_order.into(table.name, schema=table.schema))
        if numbered.others is not None:
            columns = [sa.column(c.name, c.type) for c in numbered.others.selected_columns]
            into = sa.table(table.name, *columns, schema=table.schema)
            self.connection.execute(sa.insert(into).from_select([c.name for c in columns], numbered.others))
        self.connection.exec_driver_sql(f'CREATE INDEX ON {qualified(table)} ("{numbered.number}")')

    def load(self, table: sa.TableClause, rows: pa.Table) -> None:
        """See `Room.load`."""
        quoted = ", ".join(f'"{c}"' for c in rows.column_names)
        raw: psycopg.Connection[Any] = self.connection.connection.dbapi_connection  # type: ignore[assignment]
        self.connection.execute(sa.select(1))
        with raw.cursor() as cursor, cursor.copy(f"COPY {qualified(table)} ({quoted}) FROM STDIN") as copy:
            for batch in rows.to_batches(max_chunksize=10_000):
                columns = [c.to_pylist() for c in batch.columns]
                for row in zip(*columns, strict=True):
                    copy.write_row(row)


def _leave_json_alone(connection: Any, _: object) -> None:
    # JSON is sent as PostgreSQL prints it; the driver would make Python objects of it.
    for name in ("json", "jsonb"):
        connection.adapters.register_loader(name, TextLoader)


def _description(result: sa.CursorResult[Any]) -> Any:
    # psycopg's own columns know more (type name, precision) than the DB-API tuple they are typed as.
    return result.cursor.description if result.cursor is not None else ()


def _array(values: list[Any], column: Any) -> pa.Array:
    name = psycopg.adapters.types[column.type_code].name if column.type_code in _known_oids() else ""
    if name == "numeric":
        return _decimals(values, column)
    if name in _ARROW:
        return pa.array(values, _ARROW[name])
    return pa.array([None if v is None else v if isinstance(v, str) else str(v) for v in values], pa.string())


def _decimals(values: list[Any], column: Any) -> pa.Array:
    if column.precision and column.scale is not None and 0 < column.precision <= 76:
        make = pa.decimal128 if column.precision <= 38 else pa.decimal256
        return pa.array(values, make(column.precision, column.scale))
    # An unconstrained numeric has no scale of its own, so the widest value decides; NaN has no decimal form.
    finite = [None if v is None or not Decimal(v).is_finite() else v for v in values]
    return pa.array(finite) if any(v is not None for v in finite) else pa.array(finite, pa.decimal128(38, 9))


def _known_oids() -> set[int]:
    return {t.oid for t in psycopg.adapters.types}
