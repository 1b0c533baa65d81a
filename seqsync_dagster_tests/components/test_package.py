"""The package's public names, and what importing it costs."""

from __future__ import annotations

import logging
import subprocess
import sys

import dagster as dg

import seqsync_dagster
from seqsync_dagster.components import private


def test_exported_names_resolve() -> None:
    assert seqsync_dagster.__all__ == sorted(seqsync_dagster.__all__)
    for name in seqsync_dagster.__all__:
        component = getattr(seqsync_dagster, name)
        assert issubclass(component, dg.Component)
        assert component.__name__ == name
    assert not hasattr(seqsync_dagster, "SyncSequences")


def test_dagster_finds_the_component_types() -> None:
    from dagster.components.core.package_entry import discover_package_objects

    found = {key.name for key in discover_package_objects(["seqsync_dagster"])}
    assert found == set(seqsync_dagster.__all__)


def imported(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_rooms_below_do_without_dagster() -> None:
    assert "dagster" not in imported("import seqsync_dagster.telemetry.following, seqsync_dagster.sequence.spec")


def test_loading_a_sequence_imports_nothing_heavy() -> None:
    heavy = {"pandas", "pyarrow", "simple_salesforce", "duckdb", "dbt", "dagster_dbt", "psycopg", "opentelemetry"}
    statement = "from seqsync_dagster import SalesforceConnection, SyncSequence, Warehouse"
    assert imported(statement) & heavy == set()


def test_private_names_of_dagster(instance: dg.DagsterInstance) -> None:
    """A child runs on the output of an asset that is not recorded as materialised."""

    @dg.asset
    def parent() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(metadata={private.HIDE: True})

    @dg.asset(deps=[parent])
    def child() -> None: ...

    done = dg.materialize([parent, child], instance=instance)
    assert done.success
    assert [e.asset_key for e in done.get_asset_materialization_events()] == [child.key]
    assert instance.get_latest_materialization_event(parent.key) is None

    assert {status.value for status in private.COMPLETED} == {"SUCCEEDED", "FAILED"}
    assert private.OpSpec(name="x").name == "x"
    assert private.is_event(logging.makeLogRecord({"dagster_event": object()}))
    assert not private.is_event(logging.makeLogRecord({}))
    assert {**private.TableMetadataSet(row_count=3)} == {"dagster/row_count": 3}
    assert issubclass(private.TableMetadataSet, private.NamespacedMetadataSet)
