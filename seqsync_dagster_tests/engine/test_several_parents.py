"""A field that points to a record of another sync from row to row: Task.WhatId to an account or a workspace."""

from __future__ import annotations

from typing import Any

import pytest

from seqsync_dagster.sequence.graph import order
from seqsync_dagster_tests.engine.test_drift import checked, edit
from seqsync_dagster_tests.engine.test_review import review
from seqsync_dagster_tests.engine.world import ACCOUNTS, CONTACTS, WORKSPACES, World, crm

WHAT = [{"parent": "accounts", "from": "account_id"}, {"parent": "workspaces", "from": "workspace_id"}]
WHO = [{"parent": "contacts", "from": "contact_id"}, {"parent": "leads", "from": "lead_id"}]
LEADS = {
    "name": "leads",
    "table": "crm.leads",
    "key": "lead_id",
    "object": "Lead",
    "match": "External_Id__c",
    "fields": {"LastName": "last_name", "Company": {"constant": "-"}},
}
PEOPLE = {**CONTACTS, "sensitive": [], "fields": {"LastName": "last_name"}}
TABLES = """
CREATE TABLE crm.leads (lead_id text, last_name text);
CREATE TABLE crm.tasks (task_id text, subject text, account_id text, workspace_id text, contact_id text, lead_id text)
"""


def tasks(what: dict[str, Any] | None = None, /, **more: Any) -> dict[str, Any]:
    return {
        "name": "tasks",
        "table": "crm.tasks",
        "key": "task_id",
        "object": "Task",
        "match": "External_Id__c",
        "fields": {"Subject": "subject", "WhatId": {"parents": WHAT, **(what or {})}},
        **more,
    }


@pytest.fixture
def office(world: World) -> World:
    """Two accounts and two workspaces; tasks about one of each, and about nothing."""
    world.sql(TABLES)
    world.sequence = crm({**ACCOUNTS, "removed": "delete"}, WORKSPACES, tasks(removed="delete"))
    world.insert("crm.accounts", [("A1", "a", None, None), ("A2", "b", None, None)])
    world.insert("crm.workspaces", [("W1", "v", "Free", "A1"), ("A2", "same key as an account", "Team", "A1")])
    rows = {"T1": ("a1 ", None), "T2": (None, "W1"), "T3": (None, None), "T4": (None, "A2"), "T5": ("A2", " ")}
    world.insert("crm.tasks", [(k, "call", a, w, None, None) for k, (a, w) in rows.items()])
    return world


def run_syncs(world: World) -> None:
    """Everything but finish."""
    for name in order(world.sequence):
        world.run(name)


def pointed_to(world: World, field: str = "WhatId") -> dict[str, str | None]:
    """Task -> object and key of what it points to, as the org has it."""
    keys: dict[str | None, str] = {}
    for obj in ("Account", "Workspace__c", "Contact", "Lead"):
        keys |= {r["Id"]: f"{obj} {r['External_Id__c']}" for r in world.org.records(obj)}
    return {k: keys.get(r[field], r[field]) for k, r in world.org.by_external_id("Task").items()}


def about(world: World, task: str, account: str | None = None, workspace: str | None = None) -> None:
    values = ", ".join("NULL" if v is None else f"'{v}'" for v in (account, workspace))
    names = "account_id = {}, workspace_id = {}".format(*values.split(", "))
    world.sql(f"UPDATE crm.tasks SET {names} WHERE task_id = '{task}'")


STARTS = {"T1": "Account A1", "T2": "Workspace__c W1", "T3": None, "T4": "Workspace__c A2", "T5": "Account A2"}


def test_each_row_points_to_its_own_parent_and_moves_to_another(office: World) -> None:
    # Those of workspaces wait for theirs, which has not run yet.
    office.run("accounts")
    early = office.run("tasks")
    assert (early.counts.created, early.counts.held_pending) == (3, 2)
    assert early.problems[0].message == "WhatId: workspaces has not run yet; waits for w1"
    office.run("workspaces")
    assert office.run("tasks").counts.created == 2
    assert pointed_to(office) == STARTS
    office.org.reset_calls()
    assert office.run("tasks").counts.unchanged == 5
    assert office.org.calls()["row_bearing"] == 0
    about(office, "T1", workspace="W1")
    about(office, "T2", account="A2")
    about(office, "T3", account="A1")
    about(office, "T4")
    assert office.run("tasks").counts.updated == 4
    moved = {"T1": "Workspace__c W1", "T2": "Account A2", "T3": "Account A1", "T4": None, "T5": "Account A2"}
    assert pointed_to(office) == moved
    row = office.ledger("tasks")["t2"]
    assert (row["parent_WhatId.accounts"], row["parent_WhatId.workspaces"], row["ref_WhatId.workspaces"]) == (
        "a2", None, None,
    )  # fmt: skip
    # Two parents at once are none that could be sent, whether they are there or not.
    about(office, "T5", account="A1", workspace="W1")
    about(office, "T3", account="A9", workspace="W9")
    report = office.run("tasks")
    assert (report.counts.rejected, report.counts.held, report.counts.unchanged) == (2, 0, 3)
    assert [(p.key, p.code, p.message) for p in report.problems] == [
        ("T3", "SEVERAL_PARENTS", "WhatId: the row has more than one parent, and the field holds one: accounts a9; "
         "workspaces w9; leave only one of account_id and workspace_id filled"),
        ("T5", "SEVERAL_PARENTS", "WhatId: the row has more than one parent, and the field holds one: accounts a1; "
         "workspaces w1; leave only one of account_id and workspace_id filled"),
    ]  # fmt: skip
    assert pointed_to(office) == moved
    about(office, "T5", account="A2")
    about(office, "T3", account="A1")
    office.org.reset_calls()
    assert office.run("tasks").counts.unchanged == 4, "but T5, which had a blank where there is a null now"
    assert office.org.calls()["row_bearing"] == 1


@pytest.mark.parametrize("policy", ["reject", "send_empty"])
def test_a_parent_without_a_record_is_judged_as_any_other(office: World, policy: str) -> None:
    office.sequence = crm(ACCOUNTS, WORKSPACES, tasks({"if_missing": policy}))
    run_syncs(office)
    about(office, "T1", workspace="W9")
    report = office.run("tasks")
    assert (report.counts.held, report.counts.rejected) == (0, 1 if policy == "reject" else 0)
    if policy == "send_empty":
        assert pointed_to(office)["T1"] is None
    else:
        assert report.problems[0].message == "WhatId: the parent is not in the model of workspaces: w9"
        assert pointed_to(office)["T1"] == "Account A1"
    office.insert("crm.workspaces", [("W9", "late", "Free", "A2")])
    office.run("workspaces")
    assert office.run("tasks").counts.updated == (0 if policy == "reject" else 1)
    assert pointed_to(office)["T1"] == ("Account A1" if policy == "reject" else "Workspace__c W9")


def test_a_parents_new_id_reaches_the_rows_that_point_to_it(office: World) -> None:
    office.sequence = crm(ACCOUNTS, {**WORKSPACES, "on_gone": "recreate"}, tasks())
    run_syncs(office)
    office.org.remove("Workspace__c", office.org.by_external_id("Workspace__c")["W1"]["Id"])
    office.sql("UPDATE crm.workspaces SET name = 'renamed' WHERE workspace_id = 'W1'")
    office.run("workspaces")
    assert office.run("workspaces").counts.created == 1
    counts = office.run("tasks").counts
    assert (counts.updated, counts.unchanged) == (1, 4)
    assert pointed_to(office) == STARTS


def test_a_record_stays_while_a_row_of_any_kind_points_to_it_and_goes_after_it(office: World) -> None:
    run_syncs(office)
    office.sql("DELETE FROM crm.workspaces WHERE workspace_id = 'A2'", "DELETE FROM crm.tasks WHERE task_id = 'T5'")
    office.run("workspaces")
    office.run("tasks")
    # The account of that key is pointed to by nobody now, and is still in its model; the workspace has T4.
    report = office.finish()
    assert (report.removed, report.kept_for_children) == ({"tasks": 1, "workspaces": 0}, {"workspaces": 1})
    about(office, "T4", account="A2")
    office.run("tasks")
    assert office.finish().removed == {"workspaces": 1}
    assert pointed_to(office)["T4"] == "Account A2"
    # Children before their parents, all of them at once.
    office.sql("DELETE FROM crm.tasks", "DELETE FROM crm.workspaces", "DELETE FROM crm.accounts")
    for name in ("accounts", "workspaces", "tasks"):
        office.run(name)
    assert office.finish().removed == {"tasks": 4, "workspaces": 1, "accounts": 2}


@pytest.mark.parametrize("more", [True, False], ids=["gets a second parent", "is left with one"])
def test_a_record_stays_while_one_points_to_it_though_the_field_has_other_parents_by_now(
    office: World, more: bool
) -> None:
    one = tasks()
    one["fields"]["WhatId"] = {"parent": "accounts", "from": "account_id"}
    first, second = (one, tasks()) if more else (tasks(), one)
    office.sequence = crm({**ACCOUNTS, "removed": "delete"}, WORKSPACES, first)
    office.sql("UPDATE crm.workspaces SET account_id = 'A2'")
    run_syncs(office)
    assert pointed_to(office)["T1"] == "Account A1"
    # Its row is held, so the record goes on pointing to what its row has left.
    about(office, "T1", account="A9")
    office.sql("DELETE FROM crm.accounts WHERE account_id = 'A1'")
    office.sequence = crm({**ACCOUNTS, "removed": "delete"}, WORKSPACES, second)
    office.run("accounts")
    office.finish()
    assert pointed_to(office)["T1"] == "Account A1", "tasks have not run since"
    run_syncs(office)
    office.finish()
    assert pointed_to(office)["T1"] == "Account A1"
    about(office, "T1")
    run_syncs(office)
    assert dict(office.finish().removed) == {"accounts": 1}


def test_what_the_org_holds_is_compared_by_the_id_of_whichever_parent(office: World) -> None:
    run_syncs(office)
    office.sequence = crm(ACCOUNTS, WORKSPACES, tasks(name="again", first_run="adopt", drift={}))
    edit(office, "Task", "T4", WhatId=office.org.by_external_id("Account")["A2"]["Id"])
    about(office, "T3", account="A1", workspace="W1")
    counts = office.run("again").counts
    assert (counts.adopted_as_is, counts.adopted, counts.rejected) == (3, 4, 1)
    assert pointed_to(office) == STARTS
    assert checked(office, "again").changed == 0
    edit(office, "Task", "T1", WhatId=office.org.by_external_id("Workspace__c")["W1"]["Id"])
    edit(office, "Task", "T2", WhatId=None)
    report = checked(office, "again")
    assert (report.checked, dict(report.by_field)) == (4, {"WhatId": 2})


def test_finish_fills_in_whichever_parent_has_come(office: World) -> None:
    office.sequence = crm({**ACCOUNTS, "removed": "delete"}, WORKSPACES, tasks({"deferred": True}))
    first = office.run("tasks")
    assert (first.counts.created, first.counts.references_due) == (5, 4)
    office.run("accounts")
    office.run("workspaces")
    assert office.finish().referenced == {"tasks": 4}
    assert pointed_to(office) == STARTS
    # It leads to the account until its workspace is there: so long the account may not go.
    about(office, "T5", workspace="W9")
    office.sql("DELETE FROM crm.accounts WHERE account_id = 'A2'")
    counts = office.run("tasks").counts
    assert (counts.updated, counts.references_due) == (1, 1)
    row = office.ledger("tasks")["t5"]
    assert (row["parent_WhatId.accounts"], row["parent_WhatId.workspaces"]) == (None, "w9")
    assert row["ref_WhatId.accounts"] == office.org.by_external_id("Account")["A2"]["Id"]
    office.run("accounts")
    report = office.finish()
    assert (report.referenced, report.references_held) == ({}, {"tasks": 1})
    assert (report.removed, report.kept_for_children) == ({"accounts": 0}, {"accounts": 1})
    assert report.reference_problems[0].message == "WhatId: the parent is not in the model of workspaces: w9"
    office.insert("crm.workspaces", [("W9", "late", "Free", "A1")])
    office.run("workspaces")
    report = office.finish()
    assert (report.referenced, report.removed["accounts"]) == ({"tasks": 1}, 1)
    assert pointed_to(office) == {**STARTS, "T5": "Workspace__c W9"}
    assert office.ledger("tasks")["t5"]["ref_WhatId.accounts"] is None
    office.org.reset_calls()
    assert (office.run("tasks").counts.unchanged, office.finish().referenced) == (5, {})
    assert office.org.calls()["row_bearing"] == 0
    # Where the row may go without its parent, finish empties the field of the one from before.
    office.sequence = crm(ACCOUNTS, WORKSPACES, tasks({"deferred": True, "if_missing": "send_empty"}))
    about(office, "T5", account="A9")
    office.run("tasks")
    assert pointed_to(office)["T5"] == "Workspace__c W9"
    assert office.finish().referenced == {"tasks": 1}
    assert pointed_to(office)["T5"] is None


HOLDINGS = {
    **ACCOUNTS,
    "name": "holdings",
    "table": "crm.leads",
    "key": "lead_id",
    "mode": "update",
    "fields": {"Phone": "last_name"},
}
GROUP = {"parents": [{"parent": "accounts", "from": "parent_id"}, {"parent": "holdings", "from": "website"}]}


def test_a_sync_may_be_one_of_its_own_rows_parents(world: World) -> None:
    world.sql(TABLES)
    world.sequence = crm({**ACCOUNTS, "fields": {"Name": "name", "ParentId": GROUP}}, HOLDINGS)
    [holding] = world.org.seed("Account", [{"Name": "holding", "External_Id__c": "H1"}])
    world.insert("crm.leads", [("H1", "123")])
    world.run("holdings")
    rows = [("A4", None, "A5"), ("A5", None, "A6"), ("A6", None, "A4"), ("A3", None, "A2"), ("A2", None, "A1")]
    world.insert("crm.accounts", [(k, k, h, p) for k, h, p in [*rows, ("A1", "H1", None), ("A0", "H9", None)]])
    counts = world.run("accounts").counts
    assert (counts.created, counts.held, counts.references_due) == (6, 1, 1)

    def parents() -> dict[str, str | None]:
        keys = {r["Id"]: r["External_Id__c"] for r in world.org.records("Account")}
        return {k: keys.get(r["ParentId"]) for k, r in world.org.by_external_id("Account").items() if k != "H1"}

    assert world.org.by_external_id("Account")["A1"]["ParentId"] == holding
    assert parents() == {"A1": "H1", "A2": "A1", "A3": "A2", "A4": None, "A5": "A6", "A6": "A4"}
    assert world.finish().referenced == {"accounts": 1}
    assert parents()["A4"] == "A5"
    world.sql("UPDATE crm.accounts SET parent_id = NULL, website = 'H1' WHERE account_id = 'A4'")
    world.sql("UPDATE crm.accounts SET parent_id = 'A3', website = NULL WHERE account_id = 'A0'")
    counts = world.run("accounts").counts
    assert (counts.created, counts.updated, counts.unchanged) == (1, 1, 5)
    assert (parents()["A4"], parents()["A0"]) == ("H1", "A3")
    assert world.finish().referenced == {}


def test_another_set_of_parents_is_a_named_reason_and_one_that_is_taken_out_is_emptied(office: World) -> None:
    alone = {"fields": {"Subject": "subject", "WhatId": WHAT[0]}}
    office.sequence = crm(ACCOUNTS, WORKSPACES, tasks(**alone))
    run_syncs(office)
    assert pointed_to(office)["T2"] is None
    office.sequence = crm(ACCOUNTS, WORKSPACES, tasks())
    report = office.run("tasks")
    both = "parent 'accounts' by account_id or parent 'workspaces' by workspace_id"
    assert report.resync_reason == f"WhatId is filled from {both}, it was parent 'accounts' by account_id"
    assert pointed_to(office) == STARTS
    # One of three is taken out: what pointed there points to nothing now.
    third = {"parent": "trials", "from": "lead_id"}
    trials = {**WORKSPACES, "name": "trials", "table": "crm.leads", "key": "lead_id", "mode": "update"}
    trials |= {"fields": {"Region__c": "last_name"}, "removed": "keep"}
    office.sequence = crm(ACCOUNTS, WORKSPACES, trials, tasks({"parents": [*WHAT, third]}))
    office.run("trials")
    office.run("tasks")
    office.sequence = crm(ACCOUNTS, WORKSPACES, trials, tasks({"parents": [WHAT[0], third]}))
    report = office.run("tasks")
    assert report.resync_reason == (
        "WhatId is filled from parent 'accounts' by account_id or parent 'trials' by lead_id, it was parent 'accounts' "
        "by account_id or parent 'trials' by lead_id or parent 'workspaces' by workspace_id"
    )
    assert pointed_to(office) == {**STARTS, "T2": None, "T4": None}
    # Taken out altogether, the field is nobody's, and keeps what it holds.
    office.sequence = crm(ACCOUNTS, WORKSPACES, tasks())
    office.run("tasks")
    office.sequence = crm(ACCOUNTS, WORKSPACES, tasks(fields={"Subject": "subject"}))
    assert office.run("tasks").counts.sent == 0
    assert any("WhatId was taken out of the mapping: its values stay" in line for line in office.lines)
    assert pointed_to(office) == STARTS


def test_a_plan_tells_which_rows_follow_their_parents_and_where_a_row_moves(office: World) -> None:
    told = review(office)["tasks"]
    assert (told.creates, told.follow, told.stay_held) == (1, 4, 0)
    run_syncs(office)
    about(office, "T1", workspace="W1")
    [row] = review(office)["tasks"].rows
    ids = [office.org.by_external_id(o)[k]["Id"][:15] for o, k in (("Account", "A1"), ("Workspace__c", "W1"))]
    assert [(c.field, c.before, c.after) for c in row.changes] == [("WhatId", *ids)]


def test_two_fields_may_have_several_parents_each(office: World) -> None:
    both = {"Subject": "subject", "WhatId": {"parents": WHAT}, "WhoId": {"parents": WHO, "nulls": "ignore"}}
    office.sequence = crm(ACCOUNTS, WORKSPACES, PEOPLE, LEADS, tasks(fields=both, removed="clear"))
    office.insert("crm.contacts", [("C1", "c", None, None, None)])
    office.insert("crm.leads", [("L1", "l")])
    office.sql("UPDATE crm.tasks SET contact_id = 'C1' WHERE task_id IN ('T1', 'T2')")
    office.sql("UPDATE crm.tasks SET lead_id = 'L1' WHERE task_id = 'T3'")
    office.run_all()
    assert pointed_to(office) == STARTS
    people = {"T1": "Contact C1", "T2": "Contact C1", "T3": "Lead L1", "T4": None, "T5": None}
    assert pointed_to(office, "WhoId") == people
    office.sql("UPDATE crm.tasks SET contact_id = NULL, lead_id = 'L1' WHERE task_id = 'T1'")
    office.sql("UPDATE crm.tasks SET contact_id = NULL WHERE task_id = 'T2'")
    office.sql("DELETE FROM crm.tasks WHERE task_id = 'T3'")
    office.run_all()
    # A null leaves T2 as it is; what left the model is emptied.
    assert pointed_to(office, "WhoId") == {**people, "T1": "Lead L1", "T3": None}
    row = office.ledger("tasks")["t3"]
    assert [v for c, v in row.items() if c.startswith(("parent_Wh", "ref_Wh"))] == [None] * 8
