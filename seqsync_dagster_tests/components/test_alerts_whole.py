"""Alerts of a whole sequence: warehouse, state, HTTP, org and channels are real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from seqsync_dagster_tests.emulator_process import Api, EmulatorProcess, emulator
from seqsync_dagster_tests.notify.listener import Listener, listening

from .location import EMULATED, Location, location, run
from .test_drift import org, sql

__all__ = ["emulator", "org"]

SEQUENCE = """
type: seqsync_dagster.SyncSequence
attributes:
  name: crm
  destination: salesforce
  dbt: null
  alerts:
    - to: {env: TEST_OPS_URL}
      when: [failed, rejected, drift, full_resync, recovered]
    - webhook: {url: {env: TEST_HOOK_URL}, secret: {env: TEST_HOOK_SECRET}}
      when: full_resync
      events: [started, plan_ready, finished]
  syncs:
    - name: contacts
      table: crm.contacts
      key: id
      object: Contact
      match: External_Id__c
      sensitive: email
      drift: {}
      fields: {LastName: name, Email: email}
"""


@pytest.fixture
def made() -> Iterator[Location]:
    with location(salesforce=EMULATED, crm=SEQUENCE) as made:
        sql(
            made.root,
            "CREATE SCHEMA crm",
            "CREATE TABLE crm.contacts AS SELECT 'C' || i id, 'name ' || i AS name, 'p' || i || '@example.com' email "
            "FROM range(30) r(i)",
            "UPDATE crm.contacts SET email = 'private at home' WHERE id = 'C7'",
        )
        yield made


def test_a_sequence_tells_its_story(
    made: Location, org: EmulatorProcess, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with listening() as ops, listening() as hook:
        monkeypatch.setenv("TEST_OPS_URL", ops.apprise)
        monkeypatch.setenv("TEST_HOOK_URL", hook.url)
        monkeypatch.setenv("TEST_HOOK_SECRET", "key")
        defs = made.load()

        first = run(defs, instance)
        assert ops.titles == ["crm/contacts: rows are refused"]
        assert "Refused rows: 1; new ones: 1 of 30 sent." in ops.messages[0]
        assert "INVALID_EMAIL_ADDRESS" in ops.messages[0] and "(row c7)" in ops.messages[0].lower()
        assert f"Run: {first.run_id}" in ops.messages[0]
        assert _steps(hook) == [
            ("step.started", "contacts"),
            ("step.plan_ready", "contacts"),
            ("step.finished", "contacts"),
            ("step.started", "finish"),
            ("step.finished", "finish"),
        ]
        assert hook.events[1]["counts"]["planned"] == 30
        assert hook.events[2]["counts"] | {"created": 29, "rejected": 1} == hook.events[2]["counts"]

        record = {"attributes": {"type": "Contact"}, "id": org.by_external_id("Contact")["C3"]["Id"]}
        [reply] = Api(org.url).patch("composite/sobjects", json={"records": [record | {"LastName": "another"}]}).json()
        assert reply["success"]
        run(defs, instance, job="crm_drift")
        assert ops.titles[1:] == ["crm/contacts.drift: records differ from what was sent"]
        assert "Rows: 29 checked, 1 changed" in ops.messages[1]

        sql(made.root, "UPDATE crm.contacts SET email = 'p7@example.com' WHERE id = 'C7'")
        run(defs, instance, config={"full_resync": True})
        assert ops.titles[2:] == ["crm/contacts: full resync", "crm/contacts: recovered (rows are refused)"]
        assert "Every row is due: the run asked for a full resync." in ops.messages[2]
        assert [e["conditions"][0]["name"] for e in hook.events if e["type"] == "alert.raised"] == ["full_resync"]

        run(defs, instance, job="crm_drift")
        assert ops.titles[4:] == ["crm/contacts.drift: recovered (records differ from what was sent)"]
        assert b"private at home" not in b"".join(got.body for got in (*ops.got, *hook.got))


def _steps(hook: Listener) -> list[tuple[str, str]]:
    return [(e["type"], e["sync"]) for e in hook.events if e["type"].startswith("step.")]
