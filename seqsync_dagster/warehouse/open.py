"""A warehouse, and the connection on which one sync's ledger is kept.

Only what differs between engines is hidden here: how a row is hashed, how Arrow
goes in and out, where a ledger stands, what a lock looks like. Everything else
is one SQLAlchemy Core program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError

from seqsync_dagster.errors import ConfigurationError, ModelMissing, WarehouseError
from seqsync_dagster.sequence.strict import nearest
from seqsync_dagster.warehouse.settings import WarehouseSettings
from seqsync_dagster.warehouse.source import ModelSource

T = TypeVar("T")

#: How many of a model's rows are looked at to foresee whether it has changed. Few enough for a processor's cache,
#: since the whole ledger is compared with them.
SAMPLE_ROWS = 20_000
#: Rows from which on a sample costs less than it saves.
SAMPLED_FROM = 200_000


@dataclass(frozen=True)
class Numbered:
    """Rows in an order of their own."""

    rows: sa.Select[Any]
    number: str
    """The column of `rows` that numbers them from 1."""
    count: int
    others: sa.Select[Any] | None = None
    """Rows of the same columns, without a number."""


class Room(Protocol):
    """An open connection to one sync's ledger, its parents' ledgers and, until released, the warehouse."""

    connection: sa.Connection
    schema: str
    """Schema of the sync's own state tables."""
    hash_name: str
    """Names the row hash and its version: fingerprints of different names cannot be compared."""

    def model(self, source: ModelSource, columns: Sequence[str]) -> sa.FromClause:
        """The model with exactly these columns; `ModelMissing` when it or one of them is not there."""
        ...

    def column_types(self, select: sa.Select[Any]) -> dict[str, str]:
        """Column -> the engine's own name of its type."""
        ...

    def state_schema_of(self, sync: str) -> str | None:
        """Schema where another sync's state tables stand; None when it has none yet."""
        ...

    def sample(self, source: ModelSource, columns: Sequence[str]) -> sa.FromClause | None:
        """About `SAMPLE_ROWS` of the model's rows, read without reading the others; None where that cannot be
        had (a view, a query) or is not worth its while (fewer than `SAMPLED_FROM` rows)."""
        ...

    def frugally(self, act: Callable[[], T]) -> T:
        """Do something with little memory, for what is bound by the destination and not by this machine.

        `act` is a transaction as a whole, or touches temporary tables only: it is rolled back and done again with
        more memory when little does not do.
        """
        ...

    def paging(self) -> None:
        """From here on ranges of a plan are read, and outcomes appended: nothing is worth being kept in memory."""
        ...

    def release_model(self) -> None:
        """Let go of the warehouse, so that dbt can write again. Commits."""
        ...

    def fetch(self, select: sa.Select[Any]) -> pa.Table:
        """A result as Arrow, exact types kept."""
        ...

    def part(self, numbered: Numbered) -> Sequence[sa.Select[Any]]:
        """Selects of these rows in the order of their numbers, none of them too large to be sorted.

        May commit: only temporary tables are touched.
        """
        ...

    def write(self, table: sa.TableClause, numbered: Numbered) -> None:
        """(Re)create a table of these rows: they lie in the order of their number, so that ranges of it are read fast.

        May commit where nobody else can have the ledger open; what makes the table count is written after it.
        """
        ...

    def load(self, table: sa.TableClause, rows: pa.Table) -> None:
        """Append Arrow rows whose columns carry the table's names."""
        ...


class Warehouse(Protocol):
    """Opens rooms. Holds no connection between them."""

    backend: str
    place: str
    """What tells this warehouse and its state from others; no secrets."""

    def may_hold(self, sequence: str, sync: str) -> bool:
        """False when the ledger of a sync is certainly not there. Asks no database."""
        ...

    def open(
        self, sequence: str, sync: str, *, others: Iterable[str] = (), glances: Iterable[str] = (), model: bool = False
    ) -> AbstractContextManager[Room]:
        """A room for one sync. `others`: syncs whose ledgers it must read; `glances`: whose it reads unless they are
        being written just now. `model`: the warehouse too.

        Raises `WarehouseLocked` when another process keeps a needed DuckDB file,
        `WarehouseError` when the warehouse cannot be reached.
        """
        ...

    def close(self) -> None:
        """Release pooled connections."""
        ...


def open_warehouse(settings: WarehouseSettings, base: Path) -> tuple[Warehouse, str]:
    """The warehouse of these settings, and its journal's URL. Relative paths start at `base`.

    Raises `ConfigurationError` for a URL that cannot be used.
    """
    url, directory, journal = settings.resolve(base)
    if directory is not None:
        from seqsync_dagster.warehouse.duckdb import DuckDBWarehouse

        return DuckDBWarehouse(
            Path(url.database or ""), directory, settings.state.schema_, settings.state.memory_mb
        ), journal
    try:
        from seqsync_dagster.warehouse.postgres import PostgresWarehouse
    except ImportError as error:
        raise ConfigurationError(
            "warehouse: PostgreSQL needs psycopg: pip install 'seqsync_dagster[postgres]'."
        ) from error
    return PostgresWarehouse(url, settings.state.schema_), journal


def checked_model(room: Room, source: ModelSource, columns: Sequence[str], catalog: str | None) -> sa.FromClause:
    """`source` with `columns`, after asking the warehouse whether they are there."""
    try:
        everything: sa.Select[Any]
        if source.query is not None:
            everything = sa.select(sa.text("*")).select_from(source.statement().columns().subquery("model"))
        else:
            everything = sa.select(sa.text("*")).select_from(source.selectable([], catalog))
        # A failed statement ends a PostgreSQL transaction, so it is tried in a savepoint; DuckDB has none.
        with room.connection.begin_nested() if room.connection.dialect.name == "postgresql" else nullcontext():
            present = list(room.connection.execute(everything.limit(0)).keys())
    except DBAPIError as error:
        raise ModelMissing(
            f"model {source.label}: the warehouse cannot read it: {first_line(error).rstrip('.')}."
            f"{_nearest_relation(room, source)} Was it built?"
        ) from None
    missing = [c for c in columns if c not in present]
    if missing:
        hints = "".join(f" {c!r}:{nearest(c, present)}" for c in missing if nearest(c, present))
        raise ModelMissing(
            f"model {source.label} has no column {', '.join(repr(c) for c in missing)}.{hints} "
            f"It has: {', '.join(present)}. Mend the mapping, or the model."
        )
    return source.selectable(list(columns), catalog)


#: Types that no destination field takes as they are, by the start of their name, and what a model can send instead.
_NOT_SENDABLE: Mapping[str, str] = {
    "INTERVAL": "a number, e.g. of seconds or days",
    "BLOB": "text, e.g. in base64",
    "BYTEA": "text, e.g. in base64",
    "STRUCT": "its parts, or JSON",
    "MAP": "text or JSON",
    "UNION": "text",
    "RECORD": "its parts, or JSON",
}


def check_types(source: ModelSource, types: Mapping[str, str]) -> None:
    """Raise `ConfigurationError` naming every mapped column of a type that cannot be sent, and what to do."""
    problems = []
    for column, type_ in types.items():
        instead = _NOT_SENDABLE.get(re.split(r"\W", type_.upper(), maxsplit=1)[0])
        if type_.endswith("]"):
            instead = "text or JSON"
        if instead is not None:
            problems.append(f"column {column!r} is of type {type_}: cast it in the model to {instead}")
    if problems:
        listed = "\n".join(f"  - {p}" for p in problems)
        raise ConfigurationError(
            f"model {source.label}: no destination field takes these columns as they are. Nothing was sent.\n{listed}"
        )


def lock_creation(connection: sa.Connection) -> None:
    """Until this transaction ends, nobody else creates shared state: two first runs would collide.

    With DuckDB each sync has a file of its own, and that file one writer.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7305718231)")


def _nearest_relation(room: Room, source: ModelSource) -> str:
    if source.table is None:
        return ""
    tables: sa.TableClause = sa.table("tables", sa.column("table_name"), schema="information_schema")
    try:
        names: list[str] = list(room.connection.execute(sa.select(tables.c.table_name).distinct()).scalars())
    except DBAPIError:
        return ""
    return nearest(source.table, [n for n in names if n != source.table])


#: DuckDB's words for what went wrong with a value, which it then quotes.
_ABOUT_VALUES = ("Conversion Error", "Constraint Error", "Invalid Input Error", "Out of Range Error")


def first_line(error: DBAPIError) -> str:
    """The engine's own words, without the statement that SQLAlchemy adds, and without the values that it quotes.

    Names of tables and columns stay: they are what a reader has to mend.
    """
    text = str(error.orig).strip() if error.orig else ""
    about_values = isinstance(error, DataError) or text.startswith(_ABOUT_VALUES)
    # To the last quote: a value may hold quotes itself, and line breaks.
    quoted = r"""(["'])(?:.*\1|.*)"""
    text = re.sub(quoted if about_values else rf"(?<=: ){quoted}", "***", text, flags=re.DOTALL)
    return text.splitlines()[0] if text else type(error).__name__


def qualified(table: sa.TableClause) -> str:
    """A table's quoted name for statements that SQLAlchemy does not write."""
    return f'"{table.schema}"."{table.name}"' if table.schema else f'"{table.name}"'


def pages(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    """Inclusive ranges of at most `size` numbers that cover `first`..`last`."""
    for start in range(first, last + 1, size):
        yield start, min(start + size - 1, last)


def reraise(error: DBAPIError, what: str) -> WarehouseError:
    """A database error in this package's terms, without passwords or values."""
    text = re.sub(r"://[^@\s]*@", "://***@", first_line(error))
    return WarehouseError(f"{what}: {text}")
