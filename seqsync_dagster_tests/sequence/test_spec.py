"""A sequence in YAML: what is understood, and what a mistake is answered with."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from seqsync_dagster.sequence.graph import ancestors, children, descendants, levels, order, waits_for
from seqsync_dagster.sequence.limits import Limit
from seqsync_dagster.sequence.spec import SequenceSpec
from seqsync_dagster.sequence.sync import SyncSpec


def sync(name: str, /, **more: Any) -> dict[str, Any]:
    base = {
        "name": name,
        "model": f"crm_{name}",
        "key": "id",
        "object": name.title(),
        "match": "External_Id__c",
        "fields": {"Name": "name"},
    }
    return {**base, **more}


def sequence(*syncs: dict[str, Any], **more: Any) -> SequenceSpec:
    return SequenceSpec.model_validate({"name": "crm", "destination": "salesforce", "syncs": list(syncs), **more})


def to(parent: str, **more: Any) -> dict[str, Any]:
    return {"parent": parent, "from": f"{parent}_id", **more}


def several(*parents: Any, **more: Any) -> dict[str, Any]:
    return {"parents": list(parents), **more}


def test_order_follows_lookups_and_not_the_listing() -> None:
    spec = sequence(
        sync("contacts", fields={"AccountId": to("accounts"), "Workspace__c": to("workspaces")}),
        sync("workspaces", fields={"Account__c": to("accounts")}),
        sync("accounts", fields={"Name": "name", "ParentId": to("accounts")}),
        sync("leads"),
    )
    assert order(spec) == ["accounts", "workspaces", "contacts", "leads"]
    assert children(spec, "accounts") == [("contacts", ["AccountId"]), ("workspaces", ["Account__c"])]
    assert set(descendants(spec, "accounts")) == {"workspaces", "contacts"}
    assert descendants(spec, "contacts") == []


def test_after_makes_a_sync_wait_and_nothing_else() -> None:
    spec = sequence(
        sync("leads", after="contacts"),
        sync("contacts", after=["accounts"], fields={"AccountId": to("accounts")}),
        sync("accounts"),
        sync("users"),
    )
    assert order(spec) == ["accounts", "contacts", "leads", "users"]
    assert waits_for(spec, "contacts") == {"accounts": ["AccountId", "after"]}
    assert waits_for(spec, "leads") == {"contacts": ["after"]}
    assert children(spec, "contacts") == [], "a sync that only waits does not point to anything"
    assert descendants(spec, "accounts") == ["contacts", "leads"]
    assert ancestors(spec, "leads") == ["accounts", "contacts"]
    assert levels(spec) == [["accounts", "users"], ["contacts"], ["leads"]]


def test_order_listed_chains_the_syncs() -> None:
    spec = sequence(sync("b"), sync("a"), sync("c", fields={"B": to("b")}), order="listed")
    assert order(spec) == ["b", "a", "c"]
    assert waits_for(spec, "c") == {"b": ["B"], "a": ["order: listed"]}
    assert levels(spec) == [["b"], ["a"], ["c"]]
    assert descendants(spec, "b") == ["a", "c"]


def test_a_field_with_several_parents_waits_for_all_of_them() -> None:
    spec = sequence(
        sync("tasks", fields={"WhatId": {"parents": [to("workspaces"), to("accounts")]}, "WhoId": to("contacts")}),
        sync("contacts"),
        sync("workspaces", fields={"Account__c": to("accounts")}),
        sync("accounts"),
    )
    assert order(spec) == ["contacts", "accounts", "workspaces", "tasks"]
    assert waits_for(spec, "tasks") == {"workspaces": ["WhatId"], "accounts": ["WhatId"], "contacts": ["WhoId"]}
    assert children(spec, "accounts") == [("tasks", ["WhatId.accounts"]), ("workspaces", ["Account__c"])]
    tasks = spec.sync("tasks")
    assert tasks.columns() == {"id", "workspaces_id", "accounts_id", "contacts_id"}
    # As it is kept beside a plan, for the run that finds it after a kill.
    assert SyncSpec.model_validate_json(tasks.model_dump_json(by_alias=True, exclude_unset=True)) == tasks


def test_independent_syncs_keep_their_listed_order() -> None:
    assert order(sequence(sync("b"), sync("a"), sync("c"))) == ["b", "a", "c"]


def test_sensitive_follows_a_column_into_its_fields() -> None:
    spec = sequence(
        sync("accounts"),
        sync("contacts", sensitive=["email"], fields={"Email": "email", "A": to("accounts"), "B": "b"}),
    ).sync("contacts")
    assert [spec.is_sensitive(f) for f in ("Email", "A", "B", "External_Id__c")] == [True, False, False, False]


def test_a_limit_needs_both_share_and_rows() -> None:
    limit = Limit(percent=10, min_rows=50)
    assert not limit.exceeded(50, 60)
    assert limit.exceeded(51, 60)
    assert not limit.exceeded(100, 1000)
    assert limit.exceeded(101, 1000)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"filds": {}}, "unknown name 'filds'. Did you mean 'fields'?"),
        ({"Model": "x"}, "unknown name 'Model'. Did you mean 'model'?"),
        ({"fields": {"Name": {"parnt": "accounts"}}}, "a field is mapped to a column name, or to one of"),
        ({"fields": {"Name": {"parent": "accounts", "form": "x"}}}, "unknown name 'form'. Did you mean 'from'?"),
        ({"fields": {"Name": ["a", "b"]}}, "a field is mapped to a column name, or to one of"),
        ({"fields": {}}, "sync 'accounts': fields maps at least one destination field; it is empty."),
        ({"fields": {"P": to("acounts")}}, "P points to the parent 'acounts', which is no sync of this sequence."),
        ({"fields": {"P": to("acounts")}}, "Did you mean 'accounts'?"),
        ({"fields": {"P": {"parent": "accounts", "from": ["a", "b"]}}}, "P needs 1 column(s) in from"),
        (
            {"fields": {"P": several(to("accounts"))}},
            "parents lists two syncs or more, of which each row points to one",
        ),
        ({"fields": {"P": several()}}, "for a single one say {parent: SYNC, from: COLUMN}"),
        (
            {"fields": {"P": several(to("accounts"), {"parent": "accounts", "from": "b"})}},
            "parents names 'accounts' twice; coalesce its columns in the model, and name it once.",
        ),
        (
            {"fields": {"P": several(to("accounts"), {"parent": "b", "from": ["accounts_id", "b"]})}},
            "accounts_id is filled for the parent 'accounts' wherever accounts_id, b is for 'b'",
        ),
        ({"fields": {"P": several(to("accounts", if_missing="reject"))}}, "unknown name 'if_missing'."),
        ({"fields": {"P": several(to("accounts"), to("workspaces"), parent="x")}}, "unknown name 'parents'. Did"),
        ({"fields": {"P": several("accounts", "workspaces")}}, "parents is a list of {parent: SYNC, from: COLUMN}"),
        ({"fields": {"P": {"parents": to("accounts")}}}, "Input should be a valid tuple"),
        (
            {"fields": {"P": several(to("accounts"), to("workspaces"))}, "sensitive": "workspaces_id"},
            "'workspaces_id' cannot be sensitive: keys, a parent's too",
        ),
        ({"key": []}, "key names the model's primary key column(s); it is empty."),
        ({"key": ["id", "id"]}, "key names a column twice: id, id."),
        ({"model": None}, "exactly one of model, table, query; found none."),
        ({"table": "a.b"}, "exactly one of model, table, query; found model and table."),
        (
            {"sensitive": ["nam"]},
            "sensitive names 'nam', which is neither a mapped column nor a field. Did you mean 'name'?",
        ),
        ({"mode": "update", "removed": "delete"}, "removed: delete needs mode: upsert"),
        (
            {"fields": {"External_Id__c": "name", "Name": "name"}},
            "the match field External_Id__c is filled from the key",
        ),
        ({"sensitive": ["id"]}, "'id' cannot be sensitive: keys, a parent's too, stand in the ledger"),
        ({"mode": "insrt"}, "Input should be 'upsert', 'update', 'insert' or 'delete'"),
        ({"mode": "delete"}, "fields has no use with mode: delete, which deletes the record of every row"),
        ({"mode": "delete", "fields": {}, "removed": "delete"}, "removed has no use with mode: delete"),
        ({"match": None}, "match is missing: the destination field (external id) that the key is matched on."),
        ({"mode": "insert", "removed": "clear"}, "removed: clear needs a mode that updates"),
        ({"mode": "insert", "drift": {"heal": True}}, "drift: {heal: true} needs a mode that updates"),
        ({"removed": "purge"}, "Input should be 'keep', 'delete' or 'clear'"),
        ({"removed": "clear", "mode": "update"}, "removed: clear with mode: update needs delete_adopted: true"),
        ({"clear_fields": "Name"}, "clear_fields needs removed: clear."),
        ({"removed": "clear", "clear_fields": "Nam"}, "'Nam', which is no mapped field. Did you mean 'Name'?"),
        ({"name": "Accounts!"}, "String should match pattern"),
        ({"name": "finish"}, "a sync cannot be named 'finish'"),
        ({"name": "x" * 25}, "at most 24 characters"),
        ({"guards": {"max_removed": {"percent": 120}}}, "less than or equal to 100"),
        ({"drift": {"fields": "Nam"}}, "drift names 'Nam', which is no field filled from a column, a constant or"),
        ({"drift": {"fields": "Nam"}}, "a parent. Did you mean 'Name'?"),
        (
            {"fields": {"OwnerId": {"lookup": "User", "by": "Email", "from": "o"}}, "drift": {"fields": "OwnerId"}},
            "drift names 'OwnerId'",
        ),
        (
            {"source_timezone": "Europe/Pari"},
            "source_timezone 'Europe/Pari' is no known time zone. Did you mean 'Europe/",
        ),
        ({"drift": {"heel": True}}, "unknown name 'heel'. Did you mean 'heal'?"),
    ],
)
def test_a_mistake_in_a_sync_is_answered_with_what_would_be_right(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        sequence(sync("accounts", **wrong))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("syncs", "more", "said"),
    [
        (
            [
                sync("accounts", fields={"Primary__c": to("contacts"), "Last__c": to("contacts", if_missing="reject")}),
                sync("contacts", fields={"AccountId": to("accounts")}),
            ],
            {},
            "circle: accounts -> contacts -> accounts. Mark one of these lookups with deferred: true, where the "
            "destination lets the field be empty at first: accounts.Primary__c, contacts.AccountId; or take one of "
            "the lookups out: accounts.Primary__c, accounts.Last__c, contacts.AccountId.",
        ),
        (
            [sync("accounts", after="contacts"), sync("contacts", fields={"A": to("accounts", if_missing="reject")})],
            {},
            "circle: accounts -> contacts -> accounts. Take one of the lookups out: contacts.A; "
            "or take 'contacts' out of the after of 'accounts'.",
        ),
        (
            [sync("contacts", fields={"AccountId": to("accounts")}), sync("accounts")],
            {"order": "listed"},
            "circle: contacts -> accounts -> contacts. Mark one of these lookups with deferred: true, where the "
            "destination lets the field be empty at first: contacts.AccountId; or take one of the lookups out: "
            "contacts.AccountId; or list 'accounts' above 'contacts', or take order: listed out.",
        ),
    ],
)
def test_a_circle_names_what_makes_it_and_what_could_open_it(
    syncs: list[dict[str, Any]], more: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        sequence(*syncs, **more)
    assert f"the syncs wait for each other in a {said}" in str(refused.value)


@pytest.mark.parametrize(
    ("parents", "more", "said"),
    [
        (
            [to("accounts"), to("wrkspaces")],
            {},
            "P points to the parent 'wrkspaces', which is no sync of this sequence. Did you mean 'workspaces'?",
        ),
        (
            [to("accounts"), to("workspaces")],
            {},
            "P needs 2 column(s) in from, as many as the key of 'workspaces' has (id, region); found workspaces_id.",
        ),
        (
            [to("accounts"), to("tasks")],
            {"after": "contacts"},
            "a circle: accounts -> contacts -> accounts. Mark one of these lookups with deferred: true, where the "
            "destination lets the field be empty at first: contacts.P; or take one of the lookups out: contacts.P; "
            "or take 'contacts' out of the after of 'accounts'.",
        ),
    ],
)
def test_a_mistake_among_several_parents_names_the_field(
    parents: list[dict[str, Any]], more: dict[str, Any], said: str
) -> None:
    others = (sync("accounts", **more), sync("workspaces", key=["id", "region"]), sync("tasks"))
    with pytest.raises(ValidationError) as refused:
        sequence(*others, sync("contacts", fields={"P": several(*parents)}))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"after": "acounts"}, "after names 'acounts', which is no sync of this sequence. Did you mean 'accounts'?"),
        ({"after": "contacts"}, "sync 'contacts': after names the sync itself."),
    ],
)
def test_after_names_another_sync(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        sequence(sync("accounts"), sync("contacts", **more))
    assert said in str(refused.value)


def test_a_number_of_processes_needs_processes() -> None:
    with pytest.raises(ValidationError, match="max_concurrent is for executor: multiprocess"):
        sequence(sync("a"), max_concurrent=2)
    assert sequence(sync("a"), executor="multiprocess", max_concurrent=2).max_concurrent == 2


def test_two_syncs_do_not_write_one_field() -> None:
    with pytest.raises(ValidationError, match=r"syncs 'a' and 'b' both write account\.Name"):
        sequence(sync("a", object="Account"), sync("b", object="account"))
    sequence(sync("a", object="Account"), sync("b", object="Account", fields={"Website": "w"}))


def test_a_field_spelt_in_two_ways_is_one_field() -> None:
    with pytest.raises(ValidationError, match=r"sync 'a': Name and NAME are one field of Account"):
        sequence(sync("a", object="Account", fields={"Name": "name", "NAME": "label"}))
    with pytest.raises(ValidationError, match=r"External_Id__c and external_id__c are one field of Account"):
        sequence(sync("a", object="Account", fields={"external_id__c": "name"}))


def test_the_field_that_one_sync_creates_records_by_is_not_filled_by_another() -> None:
    stamp = sync("stamp", object="Account", mode="update", match="Legacy__c", fields={"External_Id__c": "code"})
    with pytest.raises(ValidationError, match=r"syncs 'stamp' and 'a' both write Account\.External_Id__c: 'a' creates"):
        sequence(sync("a", object="Account"), stamp)
    sequence(sync("a", object="Account", mode="update"), stamp)
    sequence(sync("a", object="Contact"), stamp)


def test_names_are_unique_and_a_sequence_has_a_sync() -> None:
    with pytest.raises(ValidationError, match="two syncs are named 'a'"):
        sequence(sync("a"), sync("a"))
    with pytest.raises(ValidationError, match="a sequence has at least one sync"):
        sequence()


@pytest.mark.parametrize("trigger", [{"crn": "* * * * *"}, "hourly", {"models": "some"}])
def test_a_trigger_of_no_known_form_is_refused(trigger: Any) -> None:
    with pytest.raises(ValidationError):
        sequence(sync("a"), runs_on=[trigger])


def test_the_schema_that_editors_read_describes_every_name() -> None:
    schema = SequenceSpec.model_json_schema()
    for name in (
        "SequenceSpec",
        "SyncSpec",
        "ParentLookup",
        "ParentsLookup",
        "OneParent",
        "RecordLookup",
        "ChangedSince",
        "FullScan",
        "Limit",
        "Guards",
    ):
        properties = (schema if name == "SequenceSpec" else schema["$defs"][name])["properties"]
        lacking = [p for p, d in properties.items() if "description" not in d and p not in ("errors", "guards")]
        assert not lacking, f"{name}: {lacking}"


def test_a_deferred_lookup_breaks_a_circle_and_keeps_its_parent_checked() -> None:
    later = {**to("contacts"), "deferred": True}
    both = (sync("accounts", fields={"Primary__c": later}), sync("contacts", fields={"AccountId": to("accounts")}))
    assert order(sequence(*both)) == ["accounts", "contacts"]
    with pytest.raises(ValidationError, match="'nobody', which is no sync of this sequence"):
        sequence(sync("accounts", fields={"Primary__c": {**later, "parent": "nobody"}}))
