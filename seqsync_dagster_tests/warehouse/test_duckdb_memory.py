"""What takes more memory than little is done again with more."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from seqsync_dagster.warehouse import duckdb
from seqsync_dagster.warehouse.open import open_warehouse
from seqsync_dagster.warehouse.settings import WarehouseSettings

#: Distinct lists cannot spill, so this needs about 60 MB.
HUNGRY = "CREATE TABLE kept AS SELECT list(md5(i::text)) AS l FROM range(400000) r(i)"


def test_a_step_that_runs_out_of_memory_is_done_again_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duckdb, "SPARE_MB", (24,))
    settings = WarehouseSettings.model_validate({"url": f"duckdb:///{tmp_path}/wh.duckdb", "state": {"memory_mb": 512}})
    warehouse, _ = open_warehouse(settings, tmp_path)
    tries = []
    with warehouse.open("crm", "accounts") as room:

        def act() -> int:
            tries.append(1)
            room.connection.exec_driver_sql("CREATE TABLE noted AS SELECT 1")
            room.connection.exec_driver_sql(HUNGRY)
            room.connection.commit()
            return len(tries)

        assert room.frugally(act) == 2
        assert room.connection.exec_driver_sql("SELECT count(*) FROM noted").scalar_one() == 1
        with pytest.raises(DBAPIError, match="noted"):
            room.frugally(act)
    assert len(tries) == 3
