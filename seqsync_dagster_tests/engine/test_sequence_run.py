"""The main road: rows become records, parents first, only what changed."""

from __future__ import annotations

from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster_tests.engine.world import World


def small_company(world: World) -> None:
    world.insert(
        "crm.accounts",
        [
            ("A1", "Acme", "acme.example", None),
            ("A2", "Acme France", None, "A1"),
            ("A3", "Acme Lyon", None, "A2"),
        ],
    )
    world.insert("crm.workspaces", [("W1", "Main", "Team", "A1"), ("W2", "Lyon", "Free", "A3")])
    world.insert(
        "crm.contacts",
        [
            ("C1", "O'Brien", "ob@example.com", "A1", "W1"),
            ("C2", "Łukasz", None, "A3", None),
            ("C3", "李", "li@example.com", None, "W2"),
        ],
    )


def test_parents_go_before_children_and_references_lead_to_them(world: World) -> None:
    small_company(world)
    reports = world.run_all()
    assert [(n, r.counts.created, r.verdict) for n, r in reports.items()] == [
        ("accounts", 3, "success"),
        ("workspaces", 2, "success"),
        ("contacts", 3, "success"),
    ]
    accounts = world.org.by_external_id("Account")
    assert accounts["A3"]["ParentId"] == accounts["A2"]["Id"]
    assert accounts["A2"]["ParentId"] == accounts["A1"]["Id"]
    workspaces = world.org.by_external_id("Workspace__c")
    assert workspaces["W2"]["Account__c"] == accounts["A3"]["Id"]
    contacts = world.org.by_external_id("Contact")
    assert contacts["C1"]["LastName"] == "O'Brien"
    assert contacts["C1"]["LeadSource"] == "Product"
    assert contacts["C1"]["Workspace__c"] == workspaces["W1"]["Id"]
    assert contacts["C3"]["LastName"] == "李"
    assert contacts["C2"]["Workspace__c"] is None


def test_an_unchanged_model_costs_no_api_call_and_a_changed_row_goes_alone(world: World) -> None:
    small_company(world)
    world.run_all()
    world.org.reset_calls()
    reports = world.run_all()
    assert all(r.counts.unchanged == r.counts.model and r.counts.planned == 0 for r in reports.values())
    assert world.org.calls()["total"] == 0
    there = world.settings
    world.settings = {**there, "url": {"env": "SEQSYNC_TEST_NOT_SET"}}
    assert world.run("accounts").object_url == "", "where the org is need not even be known"
    world.settings = there
    world.sql("UPDATE crm.contacts SET email = 'new@example.com' WHERE contact_id = 'C1'")
    report = world.run("contacts")
    assert (report.counts.updated, report.counts.unchanged) == (1, 2)
    assert world.org.by_external_id("Contact")["C1"]["Email"] == "new@example.com"
    assert world.org.calls()["row_bearing"] == 1


def test_a_null_clears_the_field(world: World) -> None:
    small_company(world)
    world.run("accounts")
    world.sql("UPDATE crm.accounts SET website = NULL WHERE account_id = 'A1'")
    world.run("accounts")
    assert world.org.by_external_id("Account")["A1"]["Website"] is None


def test_bulk_sends_the_same_as_collections(world: World) -> None:
    world.settings["collections_up_to"] = 0
    small_company(world)
    reports = world.run_all()
    assert sum(r.counts.created for r in reports.values()) == 8
    accounts = world.org.by_external_id("Account")
    assert accounts["A3"]["ParentId"] == accounts["A2"]["Id"]
    world.sql("UPDATE crm.accounts SET website = NULL, name = 'Acmé, \"Inc\"' WHERE account_id = 'A1'")
    assert world.run("accounts").counts.updated == 1
    record = world.org.by_external_id("Account")["A1"]
    assert (record["Website"], record["Name"]) == (None, 'Acmé, "Inc"')


def test_full_resync_sends_every_row_with_its_reason(world: World) -> None:
    small_company(world)
    world.run("accounts")
    report = world.run("accounts", RunOptions(full_resync=True))
    assert report.counts.updated == 3
    assert report.resync_reason == "the run asked for a full resync"
    assert world.run("accounts").counts.planned == 0


def test_only_keys_sends_those_rows_and_removes_nothing(world: World) -> None:
    small_company(world)
    report = world.run("accounts", RunOptions(only_keys=("a1 ",)))
    assert report.counts.created == 1
    assert set(world.org.by_external_id("Account")) == {"A1"}
    assert world.run("accounts").counts.created == 2


def test_limit_sends_the_first_rows_and_the_rest_stays_due(world: World) -> None:
    small_company(world)
    assert world.run("accounts", RunOptions(limit=1)).counts.created == 1
    assert world.run("accounts").counts.created == 2
    assert world.run("accounts").counts.planned == 0
