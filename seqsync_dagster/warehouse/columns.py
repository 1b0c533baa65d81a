"""The columns of a relation, for those who only want to look: no state is made, nothing is locked for long."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, NoSuchTableError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from seqsync_dagster.errors import ModelMissing, WarehouseError
from seqsync_dagster.warehouse.open import reraise
from seqsync_dagster.warehouse.settings import WarehouseSettings
from seqsync_dagster.warehouse.source import ModelSource


def columns_of(settings: WarehouseSettings, base: Path, source: ModelSource) -> dict[str, str]:
    """Column -> name of its type, in the relation's order.

    Raises `ModelMissing` when it is not there, `WarehouseError` when the warehouse does not answer, and
    `ConfigurationError` for settings that cannot be used.
    """
    url = settings.resolve(base)[0]
    options: dict[str, object] = {}
    if url.get_backend_name() == "duckdb":
        if not Path(url.database or "").exists():
            raise WarehouseError(f"there is no DuckDB file {url.database}")
        # Beside a dbt run, which may have it open for writing, this fails at once; it takes nothing from anybody.
        options = {"read_only": True}
    elif url.get_backend_name() == "postgresql":
        options = {"connect_timeout": 10}
    try:
        engine = sa.create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=options)
    except (SQLAlchemyError, ImportError) as error:
        raise WarehouseError(f"the warehouse's driver cannot be used: {type(error).__name__}") from None
    try:
        found = sa.inspect(engine).get_columns(source.table or "", schema=source.schema)
    except NoSuchTableError:
        found = []
    except DBAPIError as error:
        raise reraise(error, "the warehouse does not answer") from None
    finally:
        engine.dispose()
    if not found:
        raise ModelMissing(f"{source.label} is not in the warehouse. Was it built?")
    return {str(column["name"]): _name_of(column["type"]) for column in found}


def _name_of(type_: sa.types.TypeEngine[object]) -> str:
    try:
        return str(type_)
    except SQLAlchemyError:
        # A type that SQLAlchemy does not know has no text.
        return ""
