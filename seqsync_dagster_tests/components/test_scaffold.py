"""`dg scaffold defs seqsync_dagster.SyncSequence`: what it writes loads and runs; warehouse and org are real."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import dagster as dg
import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from seqsync_dagster.components.scaffolding import SequenceScaffolder, SequenceScaffoldParams
from seqsync_dagster_tests.emulator_process import EmulatorProcess, module_emulator  # noqa: F401

from .location import EMULATED, PAIR, Location, location, run

TYPE = "seqsync_dagster.SyncSequence"
ACCOUNTS = """\
# Check key: account_id is a guess.
type: seqsync_dagster.SyncSequence
attributes:
  name: crm2
  destination: salesforce
  warehouse: warehouse
  dbt: null
  # When it runs by itself:
  # runs_on:
  #   - {cron: "0 * * * *", timezone: Europe/Paris}   # builds the dbt models, then syncs
  #   - {models: all}                                 # the models were built elsewhere: syncs only
  syncs:
    - name: accounts
      table: crm.accounts
      key: account_id
      object: Account
      match: External_Id__c
      # removed: delete      # what becomes of a record whose row leaves the model (default: keep)
      # sensitive: [email]   # columns that are sent, and masked in every table, log and metadata
      fields:
        Name: account_name
        NumberOfEmployees: number_of_employees
        # Customer_Since__c: customer_since   # VARCHAR does not fit date: cast it in the model
        # ParentId: {parent: accounts, from: parent_account_id}   # a record of this very sync
        # OwnerId: {lookup: User, by: Email, from: owner_email}   # a record that no sync writes
        # Columns without a field of their name: Fur Colour
"""


@pytest.fixture(scope="module")
def project(module_emulator: EmulatorProcess) -> Iterator[Location]:  # noqa: F811
    """A project as `dg` knows them, with a warehouse and an org that can be reached."""
    with pytest.MonkeyPatch.context() as patch, location(salesforce=EMULATED) as made:
        patch.setenv("TEST_SALESFORCE_URL", module_emulator.url)
        patch.syspath_prepend(str(made.project()))
        engine = sa.create_engine(f"duckdb:///{made.root}/warehouse.duckdb", poolclass=NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE SCHEMA crm")
            connection.exec_driver_sql(
                "CREATE TABLE crm.accounts AS SELECT 'A' || i AS account_id, 'name ' || i AS account_name, "
                "i AS number_of_employees, 'x' AS customer_since, NULL::VARCHAR AS parent_account_id, "
                "'jo@example.com' AS owner_email, 'red' AS \"Fur Colour\" FROM range(3) r(i)"
            )
            connection.exec_driver_sql(
                "CREATE VIEW crm.contacts AS SELECT 'C1' AS \"no\", 'Ada' AS first_name, 'A1' AS account_id"
            )
        engine.dispose()
        yield made


def defs_of(project: Location) -> Path:
    return next((project.root / "src").iterdir()) / "defs"


@contextmanager
def scaffolded(project: Location, **given: Any) -> Iterator[str]:
    """What the scaffolder writes into defs/crm2, while it stands there."""
    target = defs_of(project) / "crm2"
    target.mkdir()
    params = SequenceScaffoldParams.model_validate(given)
    SequenceScaffolder().scaffold(dg.ScaffoldRequest(TYPE, target, "yaml", project.root, params))
    try:
        yield (target / "defs.yaml").read_text()
    finally:
        (target / "defs.yaml").unlink()
        target.rmdir()


def refusal(project: Location, **given: Any) -> str:
    with pytest.raises(click.ClickException) as refused, scaffolded(project, **given):
        pass
    assert not (defs_of(project) / "crm2").exists(), "nothing is left behind"
    return refused.value.message


def test_what_dg_writes_loads_and_runs(
    project: Location,
    module_emulator: EmulatorProcess,  # noqa: F811
    instance: dg.DagsterInstance,
) -> None:
    given = ["--table", "crm.accounts", "--object", "account"]
    done = subprocess.run(
        [Path(sys.executable).with_name("dg"), "scaffold", "defs", TYPE, "crm2", *given],
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "DAGSTER_DISABLE_TELEMETRY": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    file = defs_of(project) / "crm2" / "defs.yaml"
    try:
        assert file.read_text() == ACCOUNTS
        assert run(project.load(), instance, job="crm2").success
    finally:
        file.unlink()
        file.parent.rmdir()
    records = module_emulator.by_external_id("Account")
    assert {k: (r["Name"], r["NumberOfEmployees"]) for k, r in records.items()} == {
        f"A{i}": (f"name {i}", i) for i in range(3)
    }


def test_looking_at_a_model_makes_no_state(project: Location) -> None:
    state = project.root / "seqsync_state"
    before = set(state.iterdir()) if state.exists() else set()
    with scaffolded(project, table="crm.contacts", object="Contact", key=["no"], name="people"):
        pass
    assert (set(state.iterdir()) if state.exists() else set()) == before


def test_what_others_write_and_what_is_lacking_stands_in_comments(project: Location) -> None:
    file = project.write("crm", PAIR)
    try:
        with scaffolded(project, table="crm.contacts", object="Contact", key=["no"]) as text:
            project.load()
    finally:
        file.unlink()
        file.parent.rmdir()
    assert text.splitlines()[0] == "# crm/contacts writes Contact too: give a field to one of them only."
    # A bare `no` is false.
    assert "      key: 'no'\n" in text
    assert text.endswith(
        "        FirstName: first_name\n"
        "        # AccountId: {parent: accounts, from: account_id}   "
        "# crm/accounts writes Account: put both in one sequence\n"
        "        # LastName:   # Contact requires it: name a column, or {constant: ...}\n"
    )


def test_where_nothing_can_be_reached_the_file_loads_and_says_so(
    project: Location, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEST_SALESFORCE_URL", "http://127.0.0.1:9")
    with scaffolded(project, table="crm.accounts", object="Account") as guessed:
        project.load()
    assert "        # Guessed: compare them with the object's own names" in guessed
    assert "        NumberOfEmployees: number_of_employees\n" in guessed
    assert guessed.endswith("        # Columns without a field of their name: parent_account_id\n")
    assert "The destination could not be asked" in capsys.readouterr().err
    with scaffolded(project, table="crm.nowhere", object="Account") as empty:
        project.load()
    assert "# crm.nowhere could not be looked at: its columns are not known.\n" in empty
    assert "crm.nowhere is not in the warehouse. Was it built?" in capsys.readouterr().err
    assert "        # Put your own here: destination field <- column." in empty
    monkeypatch.delenv("TEST_SALESFORCE_URL")
    with scaffolded(project, table="crm.accounts", object="Account") as unset:
        project.load()
    assert unset == guessed
    assert "the environment variable TEST_SALESFORCE_URL, which is not set" in capsys.readouterr().err


def test_what_cannot_be_is_said_and_nothing_is_written(project: Location) -> None:
    assert refusal(project).startswith("--model (or --table) and --object missing, and there is no terminal to ask on.")
    assert "there is no seqsync_dagster.DbtProject in defs/" in refusal(project, model="crm_accounts", object="Account")
    given: dict[str, Any] = {"table": "crm.accounts", "object": "Account"}
    assert "Did you mean 'Account'?" in refusal(project, **given | {"object": "Acount"})
    assert "Did you mean 'account_id'?" in refusal(project, **given, key=["acount_id"])
    assert "Did you mean 'External_Id__c'?" in refusal(project, **given, match="ExternalId__c")
    assert "Did you mean 'salesforce'?" in refusal(project, **given, destination="saleforce")
    no_key = refusal(project, table="crm.contacts", object="Workspace__c")
    assert "looks like its primary key. Give it with --key. Columns: no, first_name, account_id." in no_key
    assert "cannot be a sequence's name" in refusal(project, **given, name="Crm 2")
    wrong = project.write("other", "type: seqsync_dagster.SalesforceConnection\nattributes: {uri: x}\n")
    try:
        assert f"{wrong}:2: unknown name 'uri'" in refusal(project, **given, destination="other")
        assert "--destination is missing. Folder of the destination (other, salesforce)." in refusal(project, **given)
    finally:
        wrong.unlink()
        wrong.parent.rmdir()


def test_on_a_terminal_it_asks(project: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("crm.accounts\nAccount\n\n\n"))
    with scaffolded(project) as text:
        assert text == ACCOUNTS.replace("# Check key: account_id is a guess.\n", "")
