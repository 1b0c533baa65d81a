"""The warehouse as a component."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import BaseModel

from seqsync_dagster.components import environments
from seqsync_dagster.components.yaml_source import YamlSource, as_written
from seqsync_dagster.errors import ConfigurationError
from seqsync_dagster.warehouse.settings import WarehouseSettings

if TYPE_CHECKING:
    from seqsync_dagster.warehouse.open import Warehouse as OpenWarehouse


@dataclass
class Warehouse(dg.Component):
    """The warehouse that holds the models, and the place of the state that belongs to it.

    Sequences name it by its folder in `defs/`. Nothing is opened at load; a value in the
    environment is read when a run needs it. A relative path starts at the project's root folder.

    .. code-block:: yaml

        # defs/warehouse/defs.yaml
        type: seqsync_dagster.Warehouse
        attributes:
          url: {env: SEQSYNC_WAREHOUSE_URL, default: "duckdb:///dbt_project/warehouse.duckdb"}
          state:
            directory: /var/lib/seqsync      # with DuckDB; default: seqsync_state beside the file

    What differs between environments stands under their names; `SEQSYNC_ENVIRONMENT` says which one this is:

    .. code-block:: yaml

        attributes:
          url: {env: WAREHOUSE_URL}
          environments:
            dev: {state: {schema: seqsync_dev}}
            prod: {state: {schema: seqsync}}

    With PostgreSQL (`postgresql+psycopg://user@host/database`) ledgers and journal stand in the
    schema `seqsync` of the same database, unless `state.schema` and `state.journal` say otherwise.
    """

    settings: WarehouseSettings
    base: Path

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The attributes' schema, for editors."""
        return as_written(WarehouseSettings, environments.for_editors)

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Warehouse:
        """From YAML. Raises `ConfigurationError` with file and line of every mistake."""
        # A URL may hold a password.
        source = YamlSource.of(attributes, context, quote=False)
        settings, _ = environments.validate(source, WarehouseSettings)
        try:
            settings.refuse_ephemeral()
        except ConfigurationError as error:
            raise source.error(str(error)) from None
        return cls(settings=settings, base=context.project_root)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Nothing of its own: sequences use it."""
        return dg.Definitions()

    def open(self) -> tuple[OpenWarehouse, str]:
        """The warehouse, and the URL of its journal."""
        from seqsync_dagster.warehouse.open import open_warehouse

        return open_warehouse(self.settings, self.base)

    def journal_url(self) -> str:
        """Where the journal is. Opens nothing."""
        return self.settings.resolve(self.base)[2]
