"""What a sync asks of Salesforce besides its rows, and what Collections and Bulk API 2.0 make of it."""

from __future__ import annotations

from typing import Any

import pytest

from seqsync_dagster.destinations.protocol import Request
from seqsync_dagster_tests.destinations.salesforce.conftest import Connect
from seqsync_dagster_tests.destinations.salesforce.sending import drain, frame
from seqsync_dagster_tests.emulator_process import EmulatorProcess

RULE = "01Q5g000000ABCDEAO"
ANA, BRUNO = "ana.kovac@example.com", "bruno.silva@example.com"
COLLECTIONS, BULK = {"collections_up_to": 2000}, {"collections_up_to": 0}


def add_rule(emulator: EmulatorProcess, kind: str, obj: str, **rule: Any) -> None:
    emulator._call("POST", "faults", {"fault": kind, "object": obj, **rule})


def write(connect: Connect, obj: str, name: str, options: dict[str, Any], values: list[str], **settings: Any) -> Any:
    """Upsert records with these values, which are their keys too; what came of each."""
    columns = {"External_Id__c": values, name: values}
    request = Request(obj, "upsert", "External_Id__c", len(values), options=options)
    destination = connect(**settings)
    assert [r for r in destination.remarks(obj, options) if r.problem] == []
    return drain(destination.send(request, [frame(columns)]))


@pytest.mark.parametrize("api", [COLLECTIONS, BULK])
def test_rows_that_a_duplicate_rule_warns_of_are_saved_when_asked_for(
    connect: Connect, emulator: EmulatorProcess, api: dict[str, Any]
) -> None:
    def accounts(names: list[str], **options: bool) -> Any:
        return write(connect, "Account", "Name", dict(options), names, **api)

    emulator.seed("Account", [{"Name": "Robert"}, {"Name": "Zoe"}])
    add_rule(emulator, "duplicate_rule", "Account", fields=["Name"])
    refused = accounts(["Robert", "Ada"])
    assert refused.acknowledged() == {1}
    assert refused.rejected() == {0: ("DUPLICATES_DETECTED", "fix_row")}
    saved = accounts(["Robert", "Ada", "Zoe"], allow_duplicates=True)
    assert saved.acknowledged() == {0, 1, 2}
    assert [saved.rows[n]["created"] for n in range(3)] == [True, False, True]
    assert sum(r["Name"] == "Robert" for r in emulator.records("Account")) == 2

    # A rule that blocks lets nobody pass.
    emulator.clear_faults()
    add_rule(emulator, "duplicate_rule", "Account", fields=["Name"], block=True)
    emulator.seed("Account", [{"Name": "Eve"}])
    assert accounts(["Eve"], allow_duplicates=True).rejected() == {0: ("DUPLICATES_DETECTED", "fix_row")}


@pytest.mark.parametrize(
    ("rule", "by_collections", "by_bulk"),
    [("none", None, None), ("active", ANA, ANA), (RULE, BRUNO, BRUNO), (None, ANA, None)],
)
def test_an_assignment_rule_is_used_whichever_way_rows_go(
    connect: Connect, emulator: EmulatorProcess, rule: str | None, by_collections: str | None, by_bulk: str | None
) -> None:
    add_rule(emulator, "assignment_rule", "Case", id="01Q5g000000AAAAEAO", owner=ANA)
    add_rule(emulator, "assignment_rule", "Case", id=RULE, owner=BRUNO, active=False)
    people = {u["Id"]: u["Email"] for u in emulator.records("User")}
    options = {} if rule is None else {"assignment_rule": rule}
    for key, api, owner in (("c", COLLECTIONS, by_collections), ("b", BULK, by_bulk)):
        assert write(connect, "Case", "Subject", options, [key], **api).acknowledged() == {0}
        owned = people[emulator.by_external_id("Case")[key]["OwnerId"]]
        assert owned == (owner or "integration.user@example.com"), api
    uploads = sum(n for call, n in emulator.calls()["calls"].items() if call.startswith("PUT "))
    assert uploads == (rule != "active")


def test_options_that_cannot_be_are_named(connect: Connect) -> None:
    def said(object: str, **options: Any) -> list[str]:
        return [r.text for r in connect(api_version="50.0").remarks(object, options) if r.problem]

    assert said("Lead", assignment_rule=RULE) == []
    [old] = said("Contact", allow_duplicates=True)
    assert old == "allow_duplicates needs api_version 52.0 or later; the connection says 50.0."
    [account] = said("Account", assignment_rule=RULE)
    assert account == ("assignment_rule: Account has no assignment rules with an id; there are some for Case and Lead.")
    unknown, wrong = said("Lead", assigment_rule="none", allow_duplicates="yes")
    assert unknown.startswith("Salesforce has no option 'assigment_rule'. Did you mean 'assignment_rule'? Options:")
    assert wrong == "allow_duplicates: Input should be a valid boolean."
    [risk] = connect().remarks("Case", {})
    assert not risk.problem and risk.text.startswith("without assignment_rule the org's active rule says who")
