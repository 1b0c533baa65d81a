"""What editors and Dagster's pages show of the components: each setting is described, each example is right."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from dagster.components.core.snapshot import get_package_entry_snap
from dagster.components.list import list_all_components_schema
from dagster_shared.serdes.objects import EnvRegistryKey
from pydantic import BaseModel

import seqsync_dagster
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings
from seqsync_dagster.sequence.spec import SequenceSpec
from seqsync_dagster.warehouse.settings import WarehouseSettings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS: dict[str, type[BaseModel] | None] = {
    "DbtProject": None,  # Dagster's own
    "SalesforceConnection": SalesforceSettings,
    "SyncSequence": SequenceSpec,
    "Warehouse": WarehouseSettings,
}


def snapshot(name: str) -> Any:
    """What `dg` knows of a component: it writes its schemas and its pages from this."""
    return get_package_entry_snap(EnvRegistryKey("seqsync_dagster", name), getattr(seqsync_dagster, name))


def undescribed(schema: Any, path: str) -> Iterator[str]:
    """Settings without a description, however deep."""
    if isinstance(schema, list):
        for inner in schema:
            yield from undescribed(inner, path)
    elif isinstance(schema, dict):
        for name, inner in schema.get("properties", {}).items():
            if not inner.get("description"):
                yield f"{path}.{name}"
            yield from undescribed(inner, f"{path}.{name}")
        for word in ("items", "anyOf", "oneOf", "additionalProperties"):
            yield from undescribed(schema.get(word), path)
        for name, inner in schema.get("$defs", {}).items():
            yield from undescribed(inner, name)


def examples(name: str) -> list[Any]:
    """The whole files on a component's page."""
    found = re.findall(r"\.\. code-block:: yaml\n\n((?: {4}.*\n|\n)+)", f"{snapshot(name).description}\n")
    return [e for e in (yaml.safe_load(textwrap.dedent(text)) for text in found) if "type" in e]


def test_all_components_are_looked_at() -> None:
    assert sorted(SETTINGS) == seqsync_dagster.__all__


@pytest.mark.parametrize("name", [name for name, spec in SETTINGS.items() if spec is not None])
def test_every_setting_is_described_for_editors(name: str) -> None:
    known = snapshot(name)
    assert known.component_schema["properties"]
    assert list(undescribed(known.component_schema, name)) == []
    assert list(undescribed(known.scaffolder_schema or {}, name)) == []


@pytest.mark.parametrize(("name", "spec"), SETTINGS.items())
def test_every_page_has_an_example_that_is_right(name: str, spec: type[BaseModel] | None) -> None:
    assert examples(name)
    for example in examples(name):
        assert example["type"] == f"seqsync_dagster.{name}"
        if spec is not None:
            spec.model_validate(example["attributes"])


def test_the_schema_that_dg_writes_for_editors_knows_every_setting() -> None:
    written = list_all_components_schema(entry_points=False, extra_modules=("seqsync_dagster",))
    valid = jsonschema.Draft202012Validator(written)
    for name, spec in SETTINGS.items():
        attributes = written["$defs"][name]["properties"]["attributes"]["$ref"].rpartition("/")[2]
        if spec is not None:
            assert list(undescribed(written["$defs"][attributes], name)) == []
        for example in examples(name):
            assert valid.is_valid(example), name
            assert not valid.is_valid({**example, "attributes": {**example["attributes"], "urk": 1}})
    for file in (ROOT / "seqsync_dagster" / "defs").glob("*/defs.yaml"):
        assert valid.is_valid(yaml.safe_load(file.read_text())), file
    reference = re.search(
        r"```yaml\n(type: seqsync_dagster.SyncSequence\n.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    assert reference
    assert valid.is_valid(yaml.safe_load(reference.group(1)))
    [sequence] = examples("SyncSequence")
    sequence["attributes"]["syncs"][0]["fields"]["ParentId"] = {"parrent": "accounts", "from": "parent_account_id"}
    assert not valid.is_valid(sequence)
