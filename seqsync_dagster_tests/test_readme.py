"""README keeps its word: what it names exists, and what exists is named."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from pydantic import BaseModel

from seqsync_dagster.components.options import RunConfig
from seqsync_dagster.destinations.salesforce.settings import ApiBudget, SalesforceSettings, Share
from seqsync_dagster.destinations.salesforce.sync_options import SyncOptions
from seqsync_dagster.sequence import alerts, limits, mappings, since, spec, sync, triggers
from seqsync_dagster.sequence.strict import Strict
from seqsync_dagster.warehouse.settings import StateSettings, WarehouseSettings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_every_name_of_the_yaml_and_every_run_option_is_explained() -> None:
    declared = [
        model
        for module in (spec, sync, mappings, since, limits, triggers, alerts)
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, Strict) and model.__module__ == module.__name__
    ]
    others = [SalesforceSettings, SyncOptions, ApiBudget, Share, WarehouseSettings, StateSettings, RunConfig]
    models: list[type[BaseModel]] = [*declared, *others]
    assert len(declared) > 10
    names = {field.alias or name for model in models for name, field in model.model_fields.items()}
    lacking = sorted(n for n in names if not re.search(rf"\b{re.escape(n)}\b", README))
    assert lacking == []


def test_the_sync_of_the_reference_is_a_sync() -> None:
    block = next(b for b in re.findall(r"```yaml\n(.*?)```", README, re.S) if "seqsync_dagster.SyncSequence" in b)
    attributes = yaml.safe_load(block)["attributes"]
    contacts = sync.SyncSpec.model_validate(attributes["syncs"][0])
    assert contacts.parents() == {"accounts": ["AccountId"], "workspaces": ["Workspace__c"]}
    fields = {"LastName": "last_name", "Email": "email"}
    own = {**attributes["syncs"][0], "fields": fields, "sensitive": [], "after": []}
    assert spec.SequenceSpec.model_validate({**attributes, "syncs": [own]}).name == "crm"


def test_the_commands_and_files_it_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?make ([a-z]+)`?", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
