"""DuckDB: the ledger of each sync is a file of its own, and the warehouse is attached to it read-only.

A DuckDB transaction can write to one file only, so everything that must settle
together stands in the sync's file; and parallel syncs never wait for each other's lock.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from seqsync_dagster.errors import WarehouseError, WarehouseLocked
from seqsync_dagster.warehouse.open import (
    SAMPLE_ROWS,
    SAMPLED_FROM,
    Numbered,
    checked_model,
    first_line,
    pages,
    qualified,
)
from seqsync_dagster.warehouse.source import ModelSource

_CATALOG = "warehouse"

#: Megabytes for DuckDB where they are enough, tried in this order.
SPARE_MB: tuple[int, ...] = (64, 128)
#: Megabytes while pages of a plan are read.
PAGING_MB = 24
#: The name of every temporary table of parted rows starts with this.
_PART = "seqsync_part"
#: Parts are sorted as a whole, so they are of about this size; the average row is weighed on the first ones.
_PART_BYTES = 12 << 20
_WEIGHED_ROWS = 2_000
#: Every part costs a scan of the table it is taken from.
_FAN_OUT = 8
#: Rows of a record batch.
_FETCHED_ROWS = 10_000
#: Seconds to wait for a file that another process holds.
LOCK_WAIT_S = 20.0
T = TypeVar("T")


class DuckDBWarehouse:
    """A DuckDB file and the folder of the ledgers that belong to it."""

    backend = "duckdb"

    def __init__(self, file: Path, directory: Path, schema: str, memory_mb: int) -> None:
        self.file, self.directory, self.schema, self.memory_mb = file, directory, schema, memory_mb
        self.place = f"{file.absolute()} {directory.absolute()} {schema}"

    def may_hold(self, sequence: str, sync: str) -> bool:
        """See `Warehouse.may_hold`."""
        return self.ledger_file(sequence, sync).exists()

    def ledger_file(self, sequence: str, sync: str) -> Path:
        """Where the ledger of a sync stands."""
        return self.directory / f"{sequence}__{sync}.duckdb"

    @contextmanager
    def open(
        self, sequence: str, sync: str, *, others: Iterable[str] = (), glances: Iterable[str] = (), model: bool = False
    ) -> Iterator[DuckDBRoom]:
        """See `Warehouse.open`."""
        if model and not self.file.exists():
            raise WarehouseError(f"warehouse: there is no DuckDB file {self.file}. Was dbt run, with this path?")
        self.directory.mkdir(parents=True, exist_ok=True)
        # NullPool: a pooled connection would keep the file's lock after close.
        engine = sa.create_engine(
            f"duckdb:///{self.ledger_file(sequence, sync)}", poolclass=NullPool, hide_parameters=True
        )
        connection = self._patiently(engine.connect, self.ledger_file(sequence, sync))
        try:
            connection.exec_driver_sql("SET preserve_insertion_order = false")
            # DuckDB takes 80% of the machine unless told otherwise. Beyond its limit it spills beside the ledger, so
            # that memory does not grow with rows.
            connection.exec_driver_sql(f"SET memory_limit = '{self.memory_mb}MB'")
            connection.exec_driver_sql("SET TimeZone = 'UTC'")
            connection.exec_driver_sql(f'CREATE SCHEMA IF NOT EXISTS "{self.schema}"')
            connection.commit()
            room = DuckDBRoom(connection, self.schema, self.memory_mb)
            for other in others:
                file = self.ledger_file(sequence, other)
                if file.exists():
                    alias = f"of_{other}"
                    self._attach(connection, file, alias)
                    room.attached[other] = alias
            for other in glances:
                file = self.ledger_file(sequence, other)
                if file.exists() and self._attached_at_once(connection, file, f"of_{other}"):
                    room.attached[other] = f"of_{other}"
            if model:
                self._attach(connection, self.file, _CATALOG)
                room.model_attached = True
            yield room
        finally:
            connection.close()
            engine.dispose()

    def _attach(self, connection: sa.Connection, file: Path, alias: str) -> None:
        self._patiently(lambda: _attach_once(connection, file, alias), file)

    def _attached_at_once(self, connection: sa.Connection, file: Path, alias: str) -> bool:
        try:
            _attach_once(connection, file, alias)
        except DBAPIError as error:
            if "lock" not in str(error.orig).lower():
                raise WarehouseError(f"warehouse: DuckDB cannot open {file}: {first_line(error)}") from None
            return False
        return True

    def _patiently(self, attempt: Callable[[], T], file: Path) -> T:
        # DuckDB fails at once when another process holds the file; writers such as dbt are usually gone in seconds.
        until = time.monotonic() + LOCK_WAIT_S
        pause = 0.05
        while True:
            try:
                return attempt()
            except DBAPIError as error:
                text = str(error.orig)
                if "lock" not in text.lower():
                    raise WarehouseError(f"warehouse: DuckDB cannot open {file}: {first_line(error)}") from None
                if time.monotonic() > until:
                    holder = text[text.find("(PID") :].split(")")[0] + ")" if "(PID" in text else ""
                    raise WarehouseLocked(
                        f"warehouse: the DuckDB file {file} is held open by another process {holder}; waited "
                        f"{LOCK_WAIT_S:.0f} s. Nothing was sent. Close that program (a dbt run, a notebook, "
                        "the duckdb shell) and start the run again."
                    ) from None
                time.sleep(pause)
                pause = min(pause * 2, 1.0)

    def close(self) -> None:
        """Nothing is kept open between rooms."""


def _attach_once(connection: sa.Connection, file: Path, alias: str) -> None:
    path = str(file).replace("'", "''")
    try:
        connection.exec_driver_sql(f"ATTACH '{path}' AS \"{alias}\" (READ_ONLY)")
        connection.commit()
    except DBAPIError:
        connection.rollback()
        raise


class DuckDBRoom:
    """See `Room`."""

    def __init__(self, connection: sa.Connection, schema: str, memory_mb: int) -> None:
        self.connection, self.schema, self.memory_mb = connection, schema, memory_mb
        self.catalog: str = connection.exec_driver_sql("SELECT current_catalog()").scalar_one()
        self.attached: dict[str, str] = {}
        self.model_attached = False
        self._spare: tuple[int, ...] = SPARE_MB
        # DuckDB's hash() may change with any minor version (duckdb#17596).
        self.hash_name = f"duckdb-hash/{'.'.join(duckdb.__version__.split('.')[:2])}"

    def model(self, source: ModelSource, columns: Sequence[str]) -> sa.FromClause:
        """See `Room.model`."""
        if source.query is not None:
            # Names in a query mean the warehouse; only the state schema still means the sync's own file.
            self.connection.exec_driver_sql(f"SET search_path = '{_CATALOG}.main,{self.catalog}.{self.schema}'")
        return checked_model(self, source, columns, _CATALOG)

    def column_types(self, select: sa.Select[Any]) -> dict[str, str]:
        """See `Room.column_types`."""
        return {r[0]: r[1] for r in self.connection.exec_driver_sql(f"DESCRIBE {self._sql(select)}")}

    def state_schema_of(self, sync: str) -> str | None:
        """See `Room.state_schema_of`."""
        alias = self.attached.get(sync)
        return f"{alias}.{self.schema}" if alias else None

    def sample(self, source: ModelSource, columns: Sequence[str]) -> sa.FromClause | None:
        """See `Room.sample`."""
        if source.table is None:
            return None
        tables = sa.func.duckdb_tables().table_valued("database_name", "schema_name", "table_name", "estimated_size")
        rows = self.connection.execute(
            sa.select(tables.c.estimated_size).where(
                tables.c.database_name == _CATALOG,
                tables.c.schema_name == (source.schema or "main"),
                tables.c.table_name == source.table,
            )
        ).scalar_one_or_none()
        if rows is None or rows < SAMPLED_FROM:
            return None
        return sa.tablesample(
            source.selectable(list(columns), _CATALOG),
            sa.func.system(sa.text(f"{min(100.0, 100 * SAMPLE_ROWS / rows):.4f} percent")),
            name="sampled",
        )

    def frugally(self, act: Callable[[], T]) -> T:
        """See `Room.frugally`."""
        while self._spare:
            # Every thread holds row groups of its own while it writes, some 30 MB of rows of 200 bytes.
            self._limit(self._spare[0], threads=1)
            try:
                return act()
            except DBAPIError as error:
                if "Out of Memory" not in str(error.orig):
                    raise
                self.connection.rollback()
                # What is done next in this room has as many rows.
                self._spare = self._spare[1:]
        self._limit(self.memory_mb, threads=1)
        return act()

    def paging(self) -> None:
        """See `Room.paging`."""
        self._limit(PAGING_MB, threads=1)

    def _limit(self, megabytes: int, threads: int) -> None:
        self.connection.exec_driver_sql(f"SET memory_limit = '{megabytes}MB'")
        self.connection.exec_driver_sql(f"SET threads = {threads}")

    def release_model(self) -> None:
        """See `Room.release_model`."""
        if self.model_attached:
            self.connection.exec_driver_sql(f'USE "{self.catalog}"')
            self.connection.commit()
            self.connection.exec_driver_sql(f'DETACH "{_CATALOG}"')
            self.connection.commit()
            self.model_attached = False

    def fetch(self, select: sa.Select[Any]) -> pa.Table:
        """See `Room.fetch`."""
        # By default it makes room for a million rows in every column.
        return self._raw().execute(self._sql(select)).to_arrow_table(_FETCHED_ROWS)

    def part(self, numbered: Numbered) -> Sequence[sa.Select[Any]]:
        """See `Room.part`.

        DuckDB cannot sort wide rows in less memory than they take: 400,000 rows of 3 KB failed with 512 MB. So
        rows are parted by ranges of their number, as a radix sort does, until a part is small enough to be sorted.
        """
        return [select for select, _ in self._parts(numbered)]

    def _parts(self, numbered: Numbered) -> Iterator[tuple[sa.Select[Any], str | None]]:
        """Selects, and the temporary table that each reads, for who has no use for it afterwards."""
        few = numbered.rows.where(numbered.rows.selected_columns[numbered.number] <= _WEIGHED_ROWS).subquery("u")
        weight = sa.func.avg(sa.func.strlen(sa.cast(sa.text("u"), sa.Text)))
        row_bytes: float = self.connection.execute(sa.select(weight).select_from(few)).scalar_one() or 1
        at_once = int(max(1_000, min(200_000, _PART_BYTES / row_bytes)))
        if numbered.count <= at_once:
            yield numbered.rows, None
            return
        self._drop_parts()
        yield from self._parted(numbered.rows, numbered.number, (1, numbered.count), at_once)

    def _drop_parts(self) -> None:
        # Left over when parting needed more memory than there was.
        tables = sa.func.duckdb_tables().table_valued("table_name", "temporary")
        names = sa.select(tables.c.table_name).where(
            tables.c.temporary, sa.func.starts_with(tables.c.table_name, _PART)
        )
        left: Sequence[str] = self.connection.execute(names).scalars().all()
        for name in left:
            self._drop(name)

    def _parted(
        self, rows: sa.Select[Any], number: str, numbers: tuple[int, int], at_once: int
    ) -> Iterator[tuple[sa.Select[Any], str]]:
        first, last = numbers
        step = at_once * ceil(ceil((last - first + 1) / at_once) / _FAN_OUT)
        for start, end in pages(first, last, step):
            part = f"{_PART}_{start}_{end}"
            # A join among the rows is made a range at a time, too: as a whole it would not fit either.
            within = rows.where(rows.selected_columns[number].between(start, end))
            self.connection.execute(within.into(part, temporary=True))
            # What one transaction makes and drops stays in memory until its end.
            self.connection.commit()
            taken = sa.select(*sa.table(part, *[sa.column(c.name, c.type) for c in rows.selected_columns]).c)
            if end - start < at_once:
                yield taken, part
            else:
                yield from self._parted(taken, number, (start, end), at_once)
                self._drop(part)

    def _drop(self, temporary_table: str) -> None:
        self.connection.exec_driver_sql(f'DROP TABLE "{temporary_table}"')
        self.connection.commit()

    def write(self, table: sa.TableClause, numbered: Numbered) -> None:
        """See `Room.write`."""
        self.connection.exec_driver_sql(f"DROP TABLE IF EXISTS {qualified(table)}")
        # Compressing a row group needs all of it in memory, outside the limit: 500 MB for rows of 3 KB.
        self.connection.exec_driver_sql("SET force_compression = 'uncompressed'")
        self.connection.execute(numbered.rows.limit(0).into(table.name, schema=table.schema))
        if numbered.others is not None:
            self.connection.exec_driver_sql(f"INSERT INTO {qualified(table)} {self._sql(numbered.others)}")
        for select, part in self._parts(numbered):
            in_order = select.order_by(sa.column(numbered.number))
            self.connection.exec_driver_sql(f"INSERT INTO {qualified(table)} {self._sql(in_order)}")
            if part is not None:
                # A part that is kept holds memory that cannot spill.
                self.connection.commit()
                self._drop(part)
        self.connection.exec_driver_sql("SET force_compression = 'auto'")

    def load(self, table: sa.TableClause, rows: pa.Table) -> None:
        """See `Room.load`."""
        raw = self._raw()
        quoted = ", ".join(f'"{c}"' for c in rows.column_names)
        self.connection.execute(sa.select(1))  # so that SQLAlchemy's transaction has begun before the raw insert
        raw.register("seqsync_rows", rows)
        raw.execute(f"INSERT INTO {qualified(table)} ({quoted}) SELECT {quoted} FROM seqsync_rows")
        raw.unregister("seqsync_rows")

    def _raw(self) -> Any:
        return self.connection.connection.dbapi_connection

    def _sql(self, select: sa.Select[Any]) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return str(select.compile(self.connection, compile_kwargs={"literal_binds": True}))
