"""What a sequence becomes in Dagster: assets, checks, job, schedules, options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import dagster as dg
import pytest

from seqsync_dagster.components.describing import describe
from seqsync_dagster.components.metadata import of_definition
from seqsync_dagster.components.options import RunConfig, RunOptionsResource
from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.sequence.spec import SequenceSpec

from .location import PAIR, location

ACCOUNTS, CONTACTS, FINISH = (dg.AssetKey(["crm", name]) for name in ("accounts", "contacts", "finish"))


@pytest.fixture(scope="module")
def defs() -> Iterator[dg.Definitions]:
    text = PAIR.replace(
        "  syncs:",
        "  runs_on:\n"
        '    - {cron: "0 * * * *", timezone: Europe/Paris}\n'
        '    - {cron: "5 4 * * *"}\n'
        "    - {models: any}\n"
        "  syncs:",
        1,
    )
    with location(crm=text) as made:
        yield made.load()


def test_graph_follows_the_references(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    assert graph.get(ACCOUNTS).parent_keys == {dg.AssetKey(["raw", "accounts"])}
    assert graph.get(CONTACTS).parent_keys == {ACCOUNTS}
    assert graph.get(FINISH).parent_keys == {ACCOUNTS, CONTACTS}
    assert graph.get(ACCOUNTS).group_name == graph.get(FINISH).group_name == "crm"
    assert all(graph.get(key).kinds == {"salesforce"} for key in (ACCOUNTS, CONTACTS, FINISH))


def test_operations_are_named_after_sequence_and_sync(defs: dg.Definitions) -> None:
    job = defs.resolve_job_def("crm")
    assert {node.name for node in job.nodes} == {"crm__accounts", "crm__contacts", "crm__finish"}


def test_owners_and_description(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    assert graph.get(ACCOUNTS).owners == ["team:revops"]
    assert graph.get(CONTACTS).owners == ["jo@example.com"]
    text = graph.get(CONTACTS).description
    assert text is not None
    assert text.startswith("People.\n\nCreates and updates Contact from crm.contacts, matched on External_Id__c")
    assert "AccountId points to a record of accounts; while there is none, the row is: hold." in text
    assert "deleted by finish, if this sync created them" in text
    assert "of its own sync" in str(graph.get(ACCOUNTS).description)


def test_definition_metadata(defs: dg.Definitions) -> None:
    metadata = defs.resolve_asset_graph().get(CONTACTS).metadata
    assert (metadata["seqsync/object"], metadata["seqsync/match"]) == ("Contact", "External_Id__c")
    kinds = {column.name: column.type for column in metadata["dagster/column_schema"].columns}
    assert kinds == {
        "External_Id__c": "external id",
        "LastName": "value",
        "Email": "value",
        "LeadSource": "constant",
        "AccountId": "reference",
        "OwnerId": "reference",
    }
    lineage = metadata["dagster/column_lineage"].deps_by_column
    assert lineage["AccountId"] == [dg.TableColumnDep(ACCOUNTS, "External_Id__c")]


def test_a_field_with_several_parents_comes_from_each_of_them() -> None:
    def sync(name: str, **fields: Any) -> dict[str, Any]:
        return {"name": name, "model": name, "key": "id", "object": name, "match": "Key__c", "fields": fields}

    what = [{"parent": parent, "from": f"{parent}_id"} for parent in ("accounts", "workspaces")]
    syncs = [sync("accounts", Name="name"), sync("workspaces", Name="name"), sync("tasks", WhatId={"parents": what})]
    spec = SequenceSpec.model_validate({"name": "crm", "destination": "salesforce", "syncs": syncs})
    model = dg.AssetKey("crm_tasks")
    metadata = of_definition(spec, spec.sync("tasks"), model)
    _, column = metadata["dagster/column_schema"].columns
    assert (column.name, column.type) == ("WhatId", "reference")
    assert column.description == (
        "the record of accounts with the key in accounts_id or the record of workspaces with the key in workspaces_id"
    )
    deps = metadata["dagster/column_lineage"].deps_by_column["WhatId"]
    assert {(dep.asset_key.to_user_string(), dep.column_name) for dep in deps} == {
        ("crm_tasks", "accounts_id"),
        ("crm_tasks", "workspaces_id"),
        ("crm/accounts", "Key__c"),
        ("crm/workspaces", "Key__c"),
    }
    told = "WhatId points to a record of accounts or workspaces; while there is none, the row is: hold."
    assert told in describe(spec.sync("tasks"))


def test_every_asset_leads_to_its_yaml(defs: dg.Definitions) -> None:
    references = defs.resolve_asset_graph().get(CONTACTS).metadata["dagster/code_references"].code_references
    assert references[0].file_path.endswith("crm/defs.yaml")


def test_checks(defs: dg.Definitions) -> None:
    keys = {(k.asset_key, k.name) for k in defs.resolve_asset_graph().asset_check_keys}
    expected = {(a, n) for a in (ACCOUNTS, CONTACTS) for n in ("rejected", "held", "invalid", "complete", "guards")}
    assert keys == expected | {(FINISH, "removals"), (FINISH, "references")}


def test_schedules_and_sensor(defs: dg.Definitions) -> None:
    first, second = defs.resolve_schedule_def("crm_schedule"), defs.resolve_schedule_def("crm_schedule_2")
    assert (first.cron_schedule, first.execution_timezone) == ("0 * * * *", "Europe/Paris")
    assert (second.cron_schedule, second.execution_timezone) == ("5 4 * * *", "UTC")
    sensor = defs.resolve_sensor_def("crm_models")
    assert sensor.minimum_interval_seconds == 30
    assert first.default_status == dg.DefaultScheduleStatus.STOPPED
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED


def test_options_are_the_engines() -> None:
    assert list(RunConfig.model_fields) == [f.name for f in fields(RunOptions)]
    assert all(f.description for f in RunConfig.model_fields.values())
    given: dict[str, Any] = {
        "full_resync": True,
        "only_keys": ["a"],
        "limit": 3,
        "approve_plan": "p",
        "rebuild_ledger": True,
        "requeue": {"accounts": ["b"]},
        "skip_once": {"accounts": ["c"]},
        "skip_always": {"contacts": ["d", "e"]},
    }
    assert RunOptionsResource(**given).read() == RunOptions(
        full_resync=True,
        only_keys=("a",),
        limit=3,
        approve_plan="p",
        rebuild_ledger=True,
        requeue={"accounts": ["b"]},
        skip_once={"accounts": ["c"]},
        skip_always={"contacts": ["d", "e"]},
    )
    assert RunOptionsResource().read() == RunOptions()


def test_launchpad_asks_for_the_options_only(defs: dg.Definitions) -> None:
    job = defs.resolve_job_def("crm")
    shape: Any = job.run_config_schema.config_type
    assert set(shape.fields) == set(RunConfig.model_fields)
    assert all(field.description for field in shape.fields.values())


def test_editors_get_the_schema() -> None:
    from seqsync_dagster import SalesforceConnection, SyncSequence, Warehouse

    for component, attribute in ((SyncSequence, "syncs"), (Warehouse, "url"), (SalesforceConnection, "client_id")):
        schema = component.get_model_cls().model_json_schema()
        assert schema["properties"][attribute]["description"]
        assert ".. code-block:: yaml" in str(component.__doc__)
    sync = SyncSequence.get_model_cls().model_json_schema()["$defs"]["SyncSpec"]["properties"]
    assert sync["match"]["description"]
