"""A code location made of YAML texts, for tests: loaded, and run, by Dagster itself."""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster.components.testing import DefsFolderSandbox, create_defs_folder_sandbox

from seqsync_dagster.components.executors import LOOSE_IN_PROCESS

WAREHOUSE = """
type: seqsync_dagster.Warehouse
attributes:
  url: duckdb:///warehouse.duckdb
"""
SALESFORCE = """
type: seqsync_dagster.SalesforceConnection
attributes:
  url: {env: TEST_SALESFORCE_URL}
  client_id: id
  client_secret: {env: TEST_SALESFORCE_SECRET}
"""
#: A connection that the emulator lets in.
EMULATED = """
type: seqsync_dagster.SalesforceConnection
attributes:
  url: {env: TEST_SALESFORCE_URL}
  client_id: demo
  client_secret: demo-secret
"""
#: Two syncs, the second below the first; they read tables, so no dbt is needed.
PAIR = """
type: seqsync_dagster.SyncSequence
attributes:
  name: crm
  destination: salesforce
  dbt: null
  owners: team:revops
  syncs:
    - name: accounts
      table: crm.accounts
      deps: raw/accounts
      key: account_id
      object: Account
      match: External_Id__c
      fields:
        Name: name
        ParentId: {parent: accounts, from: parent_account_id}
    - name: contacts
      table: crm.contacts
      key: contact_id
      object: Contact
      match: External_Id__c
      removed: delete
      sensitive: email
      owners: jo@example.com
      description: People.
      fields:
        LastName: last_name
        Email: email
        LeadSource: {constant: Product}
        AccountId: {parent: accounts, from: account_id}
        OwnerId: {lookup: User, by: Email, from: owner_email}
"""

_numbers = itertools.count()


class Location:
    """Folders of YAML, as under `defs/`."""

    def __init__(self, sandbox: DefsFolderSandbox) -> None:
        self._sandbox = sandbox
        self.root: Path = sandbox.project_root
        #: Of the database that `WAREHOUSE` names; a test that writes another warehouse says so here.
        self.warehouse_url = f"duckdb:///{self.root}/warehouse.duckdb"
        (sandbox.defs_folder_path / "__init__.py").touch()

    def write(self, folder: str, text: str) -> Path:
        """A `defs.yaml` in `folder`; returns its path."""
        file = self._sandbox.defs_folder_path / folder / "defs.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip())
        return file

    def load(self) -> dg.Definitions:
        """Everything that was written."""
        with self._sandbox.build_all_defs() as defs:
            return dg.Definitions.merge(defs, dg.Definitions(executor=LOOSE_IN_PROCESS))

    def module(self) -> tuple[str, Path]:
        """The location as a module, for commands: its name, and the folder to start them in."""
        package = next((self.root / "src").iterdir())
        (package / "__init__.py").touch()
        (package / "definitions.py").write_text(
            "from pathlib import Path\nimport dagster as dg\n"
            "@dg.definitions\ndef defs():\n"
            "    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
        )
        return f"{package.name}.definitions", package.parent

    def project(self) -> Path:
        """The location as a project that `dg` knows; the folder to put on the path. Its root is `root`."""
        module, folder = self.module()
        (self.root / "pyproject.toml").write_text(
            '[tool.dg]\ndirectory_type = "project"\n'
            f'[tool.dg.project]\nroot_module = "{module.partition(".")[0]}"\ncode_location_target_module = "{module}"\n'
        )
        return folder

    @contextmanager
    def tree(self) -> Iterator[dg.ComponentTree]:
        """The components of all folders."""
        with self._sandbox.build_component_tree() as tree:
            yield tree

    def component(self, folder: str) -> dg.Component:
        """The component in one folder."""
        with self.tree() as tree:
            return tree.load_component(folder)


@contextmanager
def location(**folders: str) -> Iterator[Location]:
    """A location with a warehouse, a Salesforce connection and these folders."""
    with create_defs_folder_sandbox() as sandbox:
        made = Location(sandbox)
        for folder, text in ({"warehouse": WAREHOUSE, "salesforce": SALESFORCE} | folders).items():
            made.write(folder, text)
        yield made


def run(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    *,
    job: str = "crm",
    config: Mapping[str, Any] | None = None,
    select: list[dg.AssetKey] | None = None,
    again_from: str | None = None,
) -> dg.JobExecutionResult:
    """One run of a job by its own executor: `execute_in_process` would use a strict one of its own.

    `again_from`: id of a run to re-execute from its failure, as the web UI does.
    """
    # Dagster finds a job again by importing it.
    name = f"repository_{next(_numbers)}"
    setattr(sys.modules[__name__], name, defs.get_repository_def())
    again = ReconstructableRepository.for_module(__name__, name).get_reconstructable_job(job)
    return dg.execute_job(
        again,
        instance=instance,
        run_config=config,
        asset_selection=select,
        reexecution_options=dg.ReexecutionOptions.from_failure(again_from, instance) if again_from else None,
        raise_on_error=False,
    )
