"""Large tables are written in order part by part."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from seqsync_dagster.warehouse import duckdb
from seqsync_dagster.warehouse.open import Numbered, open_warehouse
from seqsync_dagster.warehouse.settings import WarehouseSettings

TABLE = sa.table("in_order", schema="seqsync")


@pytest.mark.parametrize(("rows", "waiting"), [(0, 3), (1_000, 0), (1_001, 5), (8_000, 1), (20_500, 700)])
def test_rows_lie_in_the_order_of_their_number_and_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, waiting: int
) -> None:
    monkeypatch.setattr(duckdb, "_PART_BYTES", 1)  # parts of the least size: 1,000 rows
    settings = WarehouseSettings.model_validate({"url": f"duckdb:///{tmp_path}/wh.duckdb"})
    warehouse, _ = open_warehouse(settings, tmp_path)
    with warehouse.open("crm", "accounts") as room:
        room.connection.exec_driver_sql(
            f"CREATE TEMPORARY TABLE shuffled AS SELECT n, 'row ' || i AS v FROM (SELECT i, "
            f"CASE WHEN i <= {rows} THEN i END AS n FROM range(1, {rows + waiting} + 1) r(i)) ORDER BY hash(i)"
        )
        shuffled = sa.table("shuffled", sa.column("n", sa.BigInteger), sa.column("v", sa.Text))
        numbered = sa.select(shuffled).where(shuffled.c.n.is_not(None))
        others = sa.select(shuffled).where(shuffled.c.n.is_(None))
        room.write(TABLE, Numbered(numbered, "n", rows, others))
        room.connection.commit()
        left = room.connection.exec_driver_sql("SELECT table_name FROM duckdb_tables() WHERE temporary").scalars().all()
        wrong, numbered, unnumbered, distinct = room.connection.exec_driver_sql(
            "SELECT count(*) FILTER (WHERE n < before OR v <> 'row ' || n), count(n), count(*) - count(n), "
            "count(DISTINCT v) FROM (SELECT n, v, max(n) OVER (ORDER BY rowid) AS before FROM seqsync.in_order)"
        ).one()
    assert (wrong, numbered, unnumbered, distinct) == (0, rows, waiting, rows + waiting)
    assert left == ["shuffled"]


@pytest.mark.parametrize("rows", [0, 1_000, 1_001, 20_500])
def test_parts_can_be_read_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(duckdb, "_PART_BYTES", 1)
    settings = WarehouseSettings.model_validate({"url": f"duckdb:///{tmp_path}/wh.duckdb"})
    warehouse, _ = open_warehouse(settings, tmp_path)
    with warehouse.open("crm", "accounts") as room:
        room.connection.exec_driver_sql(
            f"CREATE TEMPORARY TABLE shuffled AS SELECT n FROM range(1, {rows} + 1) r(n) ORDER BY hash(n)"
        )
        shuffled = sa.table("shuffled", sa.column("n", sa.BigInteger))
        parts = room.part(Numbered(sa.select(shuffled), "n", rows))
        read = [sorted(room.connection.execute(part).scalars()) for part in parts]
    assert [n for part in read for n in part] == list(range(1, rows + 1))
    assert max(map(len, read)) <= 1_000
