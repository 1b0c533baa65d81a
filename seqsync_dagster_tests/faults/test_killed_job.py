"""The whole `dagster job execute` is killed, as a machine that goes down would do it, and run again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from seqsync_dagster_tests.components.location import Location, location, run
from seqsync_dagster_tests.emulator_process import EmulatorProcess

#: More than go through Collections, so that a Bulk job is under way when the process dies.
ROWS = 2_500
SALESFORCE = """
type: seqsync_dagster.SalesforceConnection
attributes:
  url: {env: TEST_SALESFORCE_URL}
  client_id: demo
  client_secret: demo-secret
"""
CRM = """
type: seqsync_dagster.SyncSequence
attributes:
  name: crm
  destination: salesforce
  dbt: null
  syncs:
    - name: accounts
      table: crm.accounts
      key: account_id
      object: Account
      match: External_Id__c
      fields: {Name: name, ParentId: {parent: accounts, from: parent_id}}
    - name: contacts
      table: crm.contacts
      key: contact_id
      object: Contact
      match: External_Id__c
      fields: {LastName: last_name, AccountId: {parent: accounts, from: account_id}}
"""


def _write_models(file: Path) -> None:
    with duckdb.connect(str(file)) as db:
        db.execute(
            "CREATE SCHEMA crm;"
            "CREATE TABLE crm.accounts AS SELECT 'A' || i AS account_id, 'Account ' || i AS name, "
            f"CASE WHEN i % 10 > 0 THEN 'A' || (i - i % 10) END AS parent_id FROM range({ROWS}) r(i);"
            "CREATE TABLE crm.contacts AS SELECT 'C' || i AS contact_id, 'Contact ' || i AS last_name, "
            f"'A' || (i * 7 % {ROWS}) AS account_id FROM range({ROWS}) r(i)"
        )


class _Job:
    """`dagster job execute` of a location, in a process group of its own."""

    def __init__(self, made: Location, home: Path, url: str) -> None:
        self.package = next((made.root / "src").iterdir())
        (self.package / "__init__.py").touch()
        (self.package / "definitions.py").write_text(
            "from pathlib import Path\nimport dagster as dg\n"
            "@dg.definitions\ndef defs():\n"
            "    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
        )
        self.environment = {**os.environ, "DAGSTER_HOME": str(home), "TEST_SALESFORCE_URL": url}

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "dagster", "job", "execute", "-m", f"{self.package.name}.definitions"]
        process = subprocess.Popen(
            [*command, "-j", "crm"],
            cwd=self.package.parent,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        with process:
            yield process

    def killed_when_it_says(self, pattern: str) -> None:
        with self.started() as process:
            assert process.stdout is not None
            seen = []
            for line in process.stdout:
                seen.append(line)
                if re.search(pattern, line):
                    break
            else:
                pytest.fail(f"never said {pattern!r}:\n{''.join(seen[-30:])}")
            os.killpg(process.pid, signal.SIGKILL)


def _ends(defs: dg.Definitions, home: Path, url: str) -> None:
    """The job in this process, which knows as little of the killed ones as another would, and is there already."""
    with dg.DagsterInstance.from_config(str(home)) as instance, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_SALESFORCE_URL", url)
        done = run(defs, instance)
    assert done.success, [str(e.event_specific_data) for e in done.all_events if e.is_step_failure]


def test_a_killed_job_run_again_leaves_each_record_once(tmp_path: Path, emulator: EmulatorProcess) -> None:
    emulator.settings(bulk_rows_per_s=400)
    with location(salesforce=SALESFORCE, crm=CRM) as made:
        _write_models(made.root / "warehouse.duckdb")
        job = _Job(made, tmp_path, emulator.url)
        job.killed_when_it_says("accounts: .*Bulk job")
        emulator.settings(bulk_rows_per_s=2_000)
        job.killed_when_it_says("contacts: .*Bulk job")
        emulator.settings(bulk_rows_per_s=None)
        defs = made.load()
        _ends(defs, tmp_path, emulator.url)
        emulator.reset_calls()
        _ends(defs, tmp_path, emulator.url)
    assert emulator.calls()["row_bearing"] == 0
    accounts, contacts = emulator.records("Account"), emulator.records("Contact")
    for records, letter in ((accounts, "A"), (contacts, "C")):
        assert Counter(r["External_Id__c"] for r in records) == Counter(f"{letter}{i}" for i in range(ROWS))
    ids = {r["External_Id__c"]: r["Id"] for r in accounts}
    assert all(c["AccountId"] == ids[f"A{int(c['External_Id__c'][1:]) * 7 % ROWS}"] for c in contacts)
    assert all(a["ParentId"] for a in accounts if not a["External_Id__c"].endswith("0"))
