"""Where models and state are, from settings and the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqsync_dagster.errors import ConfigurationError, WarehouseError
from seqsync_dagster.warehouse.open import open_warehouse
from seqsync_dagster.warehouse.settings import WarehouseSettings


def settings(**given: object) -> WarehouseSettings:
    return WarehouseSettings.model_validate(given)


def test_state_stands_beside_a_duckdb_file_unless_told_otherwise(tmp_path: Path) -> None:
    url, directory, journal = settings(url="duckdb:///data/wh.duckdb").resolve(tmp_path)
    assert url.database == str(tmp_path / "data" / "wh.duckdb")
    assert directory == tmp_path / "data" / "seqsync_state"
    assert journal == f"sqlite:///{directory}/journal.sqlite"
    _, directory, journal = settings(
        url="duckdb:///wh.duckdb", state={"directory": "elsewhere", "journal": "postgresql+psycopg://h/j"}
    ).resolve(tmp_path)
    assert (directory, journal) == (tmp_path / "elsewhere", "postgresql+psycopg://h/j")


def test_postgresql_keeps_everything_in_itself(tmp_path: Path) -> None:
    url, directory, journal = settings(url="postgresql://u:secret@h/d").resolve(tmp_path)
    assert url.drivername == "postgresql+psycopg"
    assert directory is None
    assert journal == "postgresql+psycopg://u:secret@h/d"


def test_the_environment_is_read_when_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings(url={"env": "WAREHOUSE_URL_FOR_TEST"})
    with pytest.raises(ConfigurationError, match="WAREHOUSE_URL_FOR_TEST, which is not set"):
        made.resolve(tmp_path)
    monkeypatch.setenv("WAREHOUSE_URL_FOR_TEST", "duckdb:///x.duckdb")
    assert made.resolve(tmp_path)[0].database == str(tmp_path / "x.duckdb")


@pytest.mark.parametrize("url", ["nonsense", "mysql://u:secret@h/d", "duckdb:///:memory:", "duckdb://"])
def test_a_url_of_no_use_is_refused_without_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        settings(url=url).resolve(tmp_path)
    assert "secret" not in str(refused.value)


def test_a_pod_without_a_volume_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings(url="duckdb:///wh.duckdb")
    made.refuse_ephemeral()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(ConfigurationError, match=r"state: \{directory: \.\.\.\}"):
        made.refuse_ephemeral()
    settings(url="duckdb:///wh.duckdb", state={"directory": "/mnt/state"}).refuse_ephemeral()


def test_an_unreachable_postgresql_is_said_without_its_password(tmp_path: Path) -> None:
    made, _ = open_warehouse(settings(url="postgresql://u:secret@127.0.0.1:1/d"), tmp_path)
    with pytest.raises(WarehouseError, match="no connection to") as refused, made.open("crm", "accounts"):
        pass
    assert "secret" not in str(refused.value)
