"""The columns of a relation, as a person who only looks gets them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from seqsync_dagster.errors import ModelMissing, WarehouseError
from seqsync_dagster.warehouse.column_types import read_type
from seqsync_dagster.warehouse.columns import columns_of
from seqsync_dagster.warehouse.settings import WarehouseSettings
from seqsync_dagster.warehouse.source import ModelSource
from seqsync_dagster_tests.postgres_server import postgres_server  # noqa: F401

TABLE = (
    'CREATE TABLE crm.accounts ("Fur ""Colour" varchar(20), employees bigint, revenue numeric(18, 2), share double '
    "precision, active boolean, since date, seen timestamp, moment timestamptz, tags json, parts integer[])"
)
KINDS = ["text", "integer", "decimal", "float", "boolean", "date", "datetime", "datetime", "text", "unknown"]


@pytest.fixture(params=["duckdb", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "duckdb":
        yield f"duckdb:///{tmp_path}/warehouse.duckdb"
        return
    server: Any = request.getfixturevalue("postgres_server")
    with server.fresh_database() as fresh:
        yield fresh


def test_columns_have_their_names_types_and_order(url: str, tmp_path: Path) -> None:
    engine = sa.create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA crm")
        connection.exec_driver_sql(TABLE)
        connection.exec_driver_sql("CREATE VIEW crm.firms AS SELECT employees AS staff FROM crm.accounts")
    settings = WarehouseSettings(url=url)
    found = columns_of(settings, tmp_path, ModelSource.of_table("crm.accounts"))
    assert list(found)[:3] == ['Fur "Colour', "employees", "revenue"]
    assert [read_type(type_).kind for type_ in found.values()] == KINDS
    assert (read_type(found["revenue"]).precision, read_type(found["revenue"]).scale) == (18, 2)
    assert list(columns_of(settings, tmp_path, ModelSource.of_table("crm.firms"))) == ["staff"]
    with pytest.raises(ModelMissing, match=r"crm\.nobody is not in the warehouse"):
        columns_of(settings, tmp_path, ModelSource.of_table("crm.nobody"))
    with engine.connect() as connection:
        assert "seqsync" not in sa.inspect(connection).get_schema_names()
    assert not (tmp_path / "seqsync_state").exists()


@pytest.mark.parametrize(
    "nowhere", ["duckdb:///nowhere.duckdb", "postgresql+psycopg://ana:pass-word@127.0.0.1:9/x?connect_timeout=1"]
)
def test_a_warehouse_that_is_not_there_is_said_without_its_password(nowhere: str, tmp_path: Path) -> None:
    with pytest.raises(WarehouseError) as refused:
        columns_of(WarehouseSettings(url=nowhere), tmp_path, ModelSource.of_table("crm.accounts"))
    assert "pass-word" not in str(refused.value)
