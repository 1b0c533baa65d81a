"""A plan that is read before anything is sent, and then sent exactly as it was read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.engine.report import PlanReport
from seqsync_dagster.engine.review import review_sync
from seqsync_dagster.errors import ConfigurationError, PlanOutdated, SeqsyncError, StateError
from seqsync_dagster.sequence.graph import order
from seqsync_dagster.warehouse.source import ModelSource
from seqsync_dagster_tests.engine.test_sequence_run import small_company
from seqsync_dagster_tests.engine.world import ACCOUNTS, CONTACTS, WORKSPACES, World, crm


def review(world: World, options: RunOptions | None = None) -> dict[str, PlanReport]:
    """Every sync planned together, parents first."""
    reports = {}
    world.runs += 1
    for name in order(world.sequence):
        site = world.site()
        try:
            reports[name] = review_sync(
                site,
                name,
                ModelSource.of_table(world.sequence.sync(name).table or ""),
                options or RunOptions(),
                review_id=f"review{world.runs}",
                run_id=f"review{world.runs}",
                holder="test review",
                remembered=False,
                log=world.lines.append,
            )
        finally:
            site.destination.close()
            site.warehouse.close()
            site.journal.close()
    return reports


def send(world: World, reports: dict[str, PlanReport]) -> dict[str, Any]:
    return world.run_all(RunOptions(plan_id=reports["accounts"].review_id))


def everything(world: World) -> list[Any]:
    return [world.org.by_external_id(o) for o in ("Account", "Workspace__c", "Contact")]


def test_a_first_plan_says_what_would_go_at_once_and_what_after_its_parent_and_sends_nothing(world: World) -> None:
    small_company(world)
    world.insert("crm.contacts", [("C9", "Nobody", None, "A77", None), ("C8", "Half", None, "A1", "W77")])
    reports = review(world)
    told = {n: (r.creates, r.updates, r.follow, r.stay_held) for n, r in reports.items()}
    assert told == {"accounts": (3, 0, 0, 0), "workspaces": (0, 0, 2, 0), "contacts": (0, 0, 3, 2)}
    assert everything(world) == [{}, {}, {}]
    assert world.org.calls()["row_bearing"] == 0
    assert reports["contacts"].calls == 1
    assert [(p.key, p.status, p.code) for p in reports["contacts"].problems if p.key in ("C9", "C8")] == [
        ("C8", "held", "PARENT_MISSING"),
        ("C9", "held", "PARENT_MISSING"),
    ]
    first = reports["accounts"].rows[0]
    assert (first.key, first.operation, first.dest_id) == ("A1", "create", "")
    assert [(c.field, c.before, c.after) for c in first.changes] == [
        ("Name", None, "Acme"),
        ("Website", None, "acme.example"),
    ]
    assert "3 to create" in reports["accounts"].summary
    # Another plan is the same plan, and a run afterwards does what any first run does.
    again = review(world)
    assert {n: r.plan_id for n, r in again.items()} == {n: r.plan_id for n, r in reports.items()}
    assert {n: r.counts.created for n, r in world.run_all().items()} == {"accounts": 3, "workspaces": 2, "contacts": 3}


def test_a_plan_is_sent_exactly_as_it_was_read_though_the_model_moved_on(world: World) -> None:
    small_company(world)
    reports = review(world)
    world.sql(
        "UPDATE crm.accounts SET name = 'Too new' WHERE account_id = 'A1'",
        "DELETE FROM crm.contacts WHERE contact_id = 'C2'",
    )
    world.insert("crm.accounts", [("A4", "Also too new", None, None)])
    sent = send(world, reports)
    assert {n: r.counts.created for n, r in sent.items()} == {"accounts": 3, "workspaces": 2, "contacts": 3}
    accounts, workspaces, contacts = everything(world)
    assert accounts["A1"]["Name"] == "Acme"
    assert set(accounts) == {"A1", "A2", "A3"}
    assert contacts["C1"]["Workspace__c"] == workspaces["W1"]["Id"]
    assert any("accounts: the model has 2 rows that are newer" in line for line in world.lines)
    assert any("contacts: the model has 1 rows that are newer" in line for line in world.lines)
    # What is newer goes with the next run, and the plan cannot be sent twice.
    with pytest.raises(PlanOutdated, match="there is no plan review1"):
        world.run("accounts", RunOptions(plan_id=reports["accounts"].review_id))
    later = world.run("accounts")
    assert (later.counts.created, later.counts.updated) == (1, 1)
    assert everything(world)[0]["A1"]["Name"] == "Too new"


def test_before_and_after_are_shown_from_the_org_and_sensitive_values_are_not(world: World) -> None:
    small_company(world)
    world.run_all()
    account = everything(world)[0]["A1"]
    world.org.login().patch(f"sobjects/Account/{account['Id']}", json={"Website": "edited.example"}).raise_for_status()
    world.sql(
        "UPDATE crm.accounts SET website = 'new.example' WHERE account_id = 'A1'",
        "UPDATE crm.contacts SET email = 'x@example.com', last_name = 'Ohara' WHERE contact_id = 'C1'",
        "DELETE FROM crm.workspaces WHERE workspace_id = 'W2'",
    )
    reports = review(world)
    shown = {n: [(c.field, c.before, c.after) for row in r.rows for c in row.changes] for n, r in reports.items()}
    assert shown["accounts"] == [("Website", "edited.example", "new.example")]
    assert shown["contacts"] == [("LastName", "O'Brien", "Ohara"), ("Email", "***", "***")]
    assert account["Id"] in reports["accounts"].rows[0].url
    assert reports["workspaces"].removals == 1
    assert reports["workspaces"].updates == 0
    assert "x@example.com" not in repr(reports)


def test_rows_that_wait_are_no_newer_rows(world: World) -> None:
    small_company(world)
    world.insert("crm.contacts", [("C9", "Held", None, "A77", None), ("C8", "Refused", "no address", None, None)])
    world.run_all()
    world.sql("UPDATE crm.accounts SET name = 'Acme Inc' WHERE account_id = 'A1'")
    reports = review(world)
    world.sql("UPDATE crm.accounts SET name = 'Acme' WHERE account_id = 'A1'")
    assert send(world, reports)["accounts"].counts.updated == 1
    assert everything(world)[0]["A1"]["Name"] == "Acme Inc"
    newer = [line for line in world.lines if "newer than plan" in line]
    assert [line.split(" rows")[0] for line in newer] == ["accounts: the model has 1"]


def test_a_removal_that_was_read_is_done_by_finish(world: World) -> None:
    small_company(world)
    world.run_all()
    world.sql("DELETE FROM crm.workspaces WHERE workspace_id = 'W2'", "UPDATE crm.contacts SET workspace_id = NULL")
    sent = send(world, review(world))
    assert sent["contacts"].counts.updated == 2
    assert set(everything(world)[1]) == {"W1"}


def test_a_plan_that_fits_no_more_is_refused(world: World) -> None:
    small_company(world)
    world.run_all()
    world.sql("UPDATE crm.accounts SET name = 'Acme Inc' WHERE account_id = 'A1'")
    plan = RunOptions(plan_id=review(world)["accounts"].review_id)
    with pytest.raises(ConfigurationError, match="Leave the other options out"):
        world.run("accounts", replace(plan, full_resync=True))
    with pytest.raises(PlanOutdated, match="there is no plan nonsense"):
        world.run("accounts", RunOptions(plan_id="nonsense"))
    # Another mapping.
    before = world.sequence
    fields = {**ACCOUNTS["fields"], "Description": {"constant": "ours"}}  # type: ignore[dict-item]
    world.sequence = crm({**ACCOUNTS, "fields": fields}, WORKSPACES, CONTACTS)
    with pytest.raises(PlanOutdated, match="the mapping, or a type of the model, has changed since plan"):
        world.run("accounts", plan)
    world.sequence = before
    # The ledger moved: somebody sent a row.
    world.run("accounts", RunOptions(only_keys=("A1",)))
    with pytest.raises(PlanOutdated, match="there is no plan"):
        world.run("accounts", plan)
    assert world.run("accounts").counts.planned == 0


def test_a_guard_is_told_and_the_plan_that_was_read_passes_it(world: World) -> None:
    strict = {"max_updated": {"percent": 10, "min_rows": 0}}
    world.sequence = crm({**ACCOUNTS, "guards": strict}, WORKSPACES, CONTACTS)
    small_company(world)
    world.run_all()
    world.sql("UPDATE crm.accounts SET name = name || '!'")
    reports = review(world)
    guard = reports["accounts"].guard
    assert guard is not None
    assert "guard max_updated: 3 of 3 acknowledged records" in guard
    assert send(world, reports)["accounts"].counts.updated == 3


def test_what_would_stop_a_run_stops_a_plan_and_leaves_nothing_behind(world: World) -> None:
    small_company(world)
    wrong = {**ACCOUNTS, "fields": {"Name": "name", "Websit": "website"}}
    world.sequence = crm(wrong, WORKSPACES, CONTACTS)
    with pytest.raises(SeqsyncError, match="Website"):
        review(world)
    world.sequence = crm()
    assert review(world)["accounts"].creates == 3
    assert world.run("accounts").counts.created == 3


def test_no_plan_is_made_over_a_run_that_was_cut_short(world: World) -> None:
    small_company(world)
    world.settings |= {"collections_up_to": 0, "bulk_wait_s": 0.2}
    world.org.settings(bulk_delay_s=60)
    with pytest.raises(SeqsyncError):
        world.run("accounts")
    with pytest.raises(StateError, match="an earlier run was cut short"):
        review(world)
    world.org.settings(bulk_delay_s=0)


def test_a_plan_of_some_rows_is_sent_as_such(world: World) -> None:
    small_company(world)
    reports = review(world, RunOptions(only_keys=("A1",)))
    assert (reports["accounts"].creates, reports["workspaces"].creates) == (1, 0)
    report = world.run("accounts", RunOptions(plan_id=reports["accounts"].review_id))
    assert report.counts.created == 1
    assert set(everything(world)[0]) == {"A1"}
