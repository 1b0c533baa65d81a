"""Activates warehouse data into tools with hierarchical objects, as a Dagster code location.

The names below are the component types that YAML refers to, e.g. ``type: seqsync_dagster.SyncSequence``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqsync_dagster.components.dbt import DbtProject
    from seqsync_dagster.components.salesforce_component import SalesforceConnection
    from seqsync_dagster.components.sequence_component import SyncSequence
    from seqsync_dagster.components.warehouse_component import Warehouse

__all__ = ["DbtProject", "SalesforceConnection", "SyncSequence", "Warehouse"]

_HOMES = {
    "DbtProject": "dbt",
    "SalesforceConnection": "salesforce_component",
    "SyncSequence": "sequence_component",
    "Warehouse": "warehouse_component",
}


def __getattr__(name: str) -> Any:
    # Imported on demand: everything below `components` works, and loads fast, without Dagster.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.components.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    # Dagster finds a package's component types by listing its attributes.
    return sorted({*globals(), *__all__})
