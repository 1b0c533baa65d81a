"""What this package uses of Dagster beyond its public names: imported here only, pinned by a test.

`HIDE` is a metadata key. An output that carries it lets the children of an asset run while the
asset itself is not recorded as materialised, which no public name does. `decl` reads the YAML
files of a code location.
"""

from __future__ import annotations

from dagster._core.definitions.metadata.metadata_set import NamespacedMetadataSet, TableMetadataSet
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION as HIDE
from dagster._core.log_manager import has_log_record_event as is_event
from dagster._core.storage.asset_check_execution_record import (
    COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES as COMPLETED,
)
from dagster.components.core import decl
from dagster.components.resolved.core_models import OpSpec

__all__ = ["COMPLETED", "HIDE", "NamespacedMetadataSet", "OpSpec", "TableMetadataSet", "decl", "is_event"]
