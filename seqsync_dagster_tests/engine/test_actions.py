"""What operators ask for single rows: sent now, not now, not at all; and who said so."""

from __future__ import annotations

from typing import Any

import pytest

from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.errors import ConfigurationError
from seqsync_dagster_tests.engine.test_recovery import killed_at
from seqsync_dagster_tests.engine.world import ACCOUNTS, CONTACTS, World, crm

PLAIN: dict[str, Any] = {
    **CONTACTS,
    "sensitive": [],
    "fields": {"LastName": "last_name", "AccountId": {"parent": "accounts", "from": "account_id"}},
}


def on(action: str, *keys: str) -> RunOptions:
    options: dict[str, Any] = {action: {"accounts": keys}}
    return RunOptions(**options)


def test_a_quarantined_row_is_requeued_and_goes_in_that_run(world: World) -> None:
    world.sequence = crm(ACCOUNTS, errors={"quarantine_after": 1})
    world.insert("crm.accounts", [("A1", None, None, None), ("A2", "fine", None, None)])
    world.run("accounts")
    assert world.run("accounts").counts.waiting == 1
    counts = world.run("accounts", on("requeue", " a1 ")).counts
    assert (counts.planned, counts.rejected, counts.rejected_again, counts.unchanged) == (1, 1, 1, 1)
    # Once: the next run lets it rest again.
    assert world.run("accounts").counts.waiting == 1
    [action] = world.state("accounts", "actions")
    assert (action["sequence"], action["sync"], action["key"], action["action"]) == ("crm", "accounts", "a1", "requeue")
    assert (action["run_id"], action["asked_by"]) == ("test3", "test run 3")
    assert action["asked_at"] is not None


def test_a_record_that_is_gone_is_created_again_when_requeued(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", None, None)])
    world.run("accounts")
    world.org.remove("Account", world.org.by_external_id("Account")["A1"]["Id"])
    world.sql("UPDATE crm.accounts SET name = 'b'")
    world.run("accounts")
    # Skipping does not hide that the record is gone.
    assert world.run("accounts", on("skip_once", "A1")).counts.skipped == 1
    assert world.ledger("accounts")["a1"]["state"] == "gone"
    assert world.run("accounts", on("requeue", "A1")).counts.created == 1
    assert world.org.by_external_id("Account")["A1"]["Name"] == "b"


def test_a_row_skipped_once_goes_when_its_values_change(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", None, None), ("A2", "b", None, None)])
    world.run("accounts")
    world.sql("UPDATE crm.accounts SET name = name || '!'")
    report = world.run("accounts", on("skip_once", "A1"))
    assert (report.counts.updated, report.counts.skipped, report.verdict) == (1, 1, "success")
    [problem] = report.problems
    assert (problem.key, problem.status, problem.code) == ("A1", "skipped", "SKIPPED")
    assert problem.message == (
        "skip_once was asked for by test run 2; it goes when its values change, or when a run requeues it"
    )
    assert "1 skipped by an operator" in report.summary
    assert world.ledger("accounts")["a1"]["state"] == "skipped"
    assert world.run("accounts").counts.skipped == 1
    assert world.run("accounts", RunOptions(full_resync=True)).counts.skipped == 1
    world.sql("UPDATE crm.accounts SET name = 'new' WHERE account_id = 'A1'")
    counts = world.run("accounts").counts
    assert (counts.updated, counts.skipped) == (1, 0)
    # A skipped row that is as the destination holds it waits for nothing.
    world.sql("UPDATE crm.accounts SET name = 'newer' WHERE account_id = 'A1'")
    world.run("accounts", on("skip_once", "A1"))
    world.sql("UPDATE crm.accounts SET name = 'new' WHERE account_id = 'A1'")
    counts = world.run("accounts").counts
    assert (counts.unchanged, counts.skipped, world.ledger("accounts")["a1"]["state"]) == (2, 0, "acknowledged")


def test_a_row_skipped_always_waits_for_its_release_and_holds_its_children(world: World) -> None:
    world.sequence = crm(ACCOUNTS, PLAIN)
    world.insert("crm.accounts", [("A1", "a", None, None), ("A2", "b", None, "A1"), ("A3", "c", None, None)])
    world.insert("crm.contacts", [("C1", "x", None, "A1", None), ("C3", "z", None, "A3", None)])
    counts = world.run("accounts", on("skip_always", "A1")).counts
    assert (counts.created, counts.skipped, counts.held_pending) == (1, 1, 1)
    contacts = world.run("contacts").counts
    assert (contacts.created, contacts.held_pending) == (1, 1)
    world.sql("UPDATE crm.accounts SET name = 'other' WHERE account_id = 'A1'")
    named = world.run("accounts", RunOptions(only_keys=("A1",)))
    assert (named.counts.skipped, named.some_rows) == (1, True)
    counts = world.run("accounts", on("requeue", "A1")).counts
    assert (counts.created, counts.skipped, counts.held) == (2, 0, 0)
    assert world.run("contacts").counts.created == 1
    assert [a["action"] for a in world.state("accounts", "actions")] == ["skip_always", "requeue"]


def test_wrong_keys_are_named_in_one_message_and_nothing_is_sent(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", None, None)])
    asked = RunOptions(requeue={"accounts": ["A1", "A8"]}, skip_once={"accounts": ["A9"]})
    with pytest.raises(ConfigurationError, match=r"has no row with the key requeue: a8; skip_once: a9\."):
        world.run("accounts", asked)
    with pytest.raises(ConfigurationError, match=r"a1 in more than one of requeue, skip_always\. Say one thing"):
        world.run("accounts", RunOptions(requeue={"accounts": ["A1"]}, skip_always={"accounts": ["a1"]}))
    with pytest.raises(ConfigurationError, match=r"requeue: 'acounts' is no sync of crm\. Did you mean 'accounts'\?"):
        world.run("accounts", RunOptions(requeue={"acounts": ["A1"]}))
    assert world.org.records("Account") == []
    assert world.state("accounts", "actions") == []


def test_what_was_asked_of_a_killed_run_is_done_by_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.sequence = crm(ACCOUNTS, errors={"quarantine_after": 1})
    world.insert("crm.accounts", [("A1", None, None, None)])
    world.run("accounts")
    world.run("accounts")

    killed_at("_carry_out", Asking(world, on("requeue", "A1")), "accounts", monkeypatch)  # type: ignore[arg-type]
    counts = world.run("accounts").counts
    assert (counts.planned, counts.rejected) == (1, 1)
    assert world.run("accounts").counts.waiting == 1


class Asking:
    """A world whose next run is asked for something."""

    def __init__(self, world: World, options: RunOptions) -> None:
        self.world, self.options = world, options

    def run(self, sync: str) -> Any:
        return self.world.run(sync, self.options)
