"""A dbt project that loads on a fresh clone and runs where it stands."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import DbtProject as DbtProjectFolder
from dagster_dbt import DbtProjectComponent

from seqsync_dagster.components.outcome import SEQUENCE, tag_run
from seqsync_dagster.components.private import OpSpec
from seqsync_dagster.warehouse.source import ModelSource

#: Files that a manifest is made of.
_PARSED = (".sql", ".yml", ".yaml", ".py", ".md")
#: Concurrency pool of dbt's step, unless `op: {pool: ...}` says another: a limit of 1 keeps two sequences from building
#: into one DuckDB file at the same time.
POOL = "dbt"
_BUILDABLE = ("model", "seed", "snapshot")


@dataclass
class DbtProject(DbtProjectComponent):
    """A dbt project whose models are assets and whose tests are asset checks.

    Everything that `dagster_dbt.DbtProjectComponent` takes, with two differences: the manifest is
    made by `dbt parse` whenever it is missing or older than the project's files, so that a fresh
    clone loads with any command; and dbt runs in the project's own folder and not in a copy of
    it, so that a relative DuckDB path means one file only.

    .. code-block:: yaml

        # defs/dbt/defs.yaml
        type: seqsync_dagster.DbtProject
        attributes:
          project: "{{ context.project_root }}/dbt_project"
    """

    def __post_init__(self) -> None:
        # Dagster names the op after the project; a job of the same name, such as a sequence, would clash with it.
        given = self.op or OpSpec()
        self.op = given.model_copy(update={"name": given.name or f"dbt__{self._name()}", "pool": given.pool or POOL})

    def _name(self) -> str:
        discriminator: str = self._project_manager.defs_state_discriminator
        return "".join(c if c.isalnum() else "_" for c in discriminator)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Assets and checks of the project."""
        self.prepare()
        # No state path: that would be a copy of the project.
        defs: dg.Definitions = self.build_defs_from_state(context, None)
        return defs

    def prepare(self) -> None:
        """Make the manifest when it is missing or outdated."""
        _find_dbt()
        project = self.dbt_project
        if _is_outdated(project) and project.preparer is not None:
            project.manifest_path.parent.mkdir(parents=True, exist_ok=True)
            project.preparer.prepare(project)

    def models(self) -> Mapping[str, Mapping[str, Any]]:
        """Name -> manifest node, of everything that dbt builds."""
        self.prepare()
        nodes: Mapping[str, Any] = self._validated_manifest["nodes"]
        return {n["name"]: n for n in nodes.values() if n["resource_type"] in _BUILDABLE}

    def source_of(self, model: str) -> ModelSource:
        """The relation that dbt builds for a model. Raises `KeyError` when there is no such model."""
        node = self.models()[model]
        return ModelSource(label=model, table=node["alias"], schema=node["schema"])

    def columns_of(self, model: str) -> Mapping[str, str]:
        """Column -> its type, as far as `dbt docs generate` or the project's own files tell; the type may be empty."""
        node = self.models()[model]
        try:
            text = (self.dbt_project.manifest_path.parent / "catalog.json").read_text(encoding="utf-8")
            known = json.loads(text)["nodes"][node["unique_id"]]["columns"]
        except (OSError, ValueError, LookupError):
            known = node.get("columns", {})
        listed = sorted(known.values(), key=lambda column: column.get("index") or 0)
        return {column["name"]: column.get("type") or column.get("data_type") or "" for column in listed}

    def execute(self, context: dg.AssetExecutionContext, dbt: Any) -> Iterator[Any]:
        """Run dbt for the selected assets."""
        try:
            yield from super().execute(context, dbt)
        except Exception:
            # A sequence's run is red now; its syncs alone would call it a success.
            if SEQUENCE in context.run.tags:
                tag_run(context, "failed")
            raise


def _find_dbt() -> None:
    # Dagster started as .venv/bin/dagster, without activating the environment, has no dbt on its path.
    if shutil.which("dbt") is None and (beside := Path(sys.executable).parent / "dbt").exists():
        os.environ["PATH"] = f"{beside.parent}{os.pathsep}{os.environ.get('PATH', '')}"


def _is_outdated(project: DbtProjectFolder) -> bool:
    manifest = project.manifest_path
    if not manifest.exists():
        return True
    if not os.access(manifest.parent, os.W_OK):
        # An image with the manifest baked in: it is what there is.
        return False
    made = manifest.stat().st_mtime
    skipped = {manifest.parent.name, "logs", "dbt_packages"}
    for folder, folders, files in os.walk(project.project_dir):
        folders[:] = [f for f in folders if f not in skipped and not f.startswith(".")]
        parsed = [f for f in files if f.endswith(_PARSED)]
        if any((Path(folder) / f).stat().st_mtime > made for f in parsed):
            return True
        # A deleted file leaves its trace in its folder; the project's own folder changes with every build.
        if parsed and Path(folder) != project.project_dir and Path(folder).stat().st_mtime > made:
            return True
    return False
