"""The JSON schema of a sequence as editors need it: as YAML may be written, not as it is when it was read."""

from __future__ import annotations

from typing import Any

from seqsync_dagster.sequence.defaults import OWN


def for_editors(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema as YAML is written: syncs may stand in files, and leave to the defaults what they share."""
    for each in (schema, *schema["$defs"].values()):
        properties = each.get("properties", {})
        properties.update({name: _one_or_many(inner) for name, inner in properties.items()})
    sync = schema["$defs"]["SyncSpec"]
    sync["required"] = []
    properties = schema["properties"]
    shared = {name: each for name, each in sync["properties"].items() if name not in OWN}
    properties["defaults"] |= {"additionalProperties": False, "properties": shared}
    paths = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        "description": "Files of one sync each, e.g. `syncs/*.yaml`, beside this one.",
    }
    files = {"type": "object", "properties": {"from": paths}, "required": ["from"], "additionalProperties": False}
    listed = {name: properties["syncs"].pop(name) for name in ("type", "items")}
    properties["syncs"]["anyOf"] = [listed, files]
    return schema


def _one_or_many(schema: dict[str, Any]) -> dict[str, Any]:
    """Where a list of texts stands, YAML may say one of them without brackets."""
    if schema.get("items") != {"type": "string"}:
        return schema
    listed = {name: schema[name] for name in ("type", "items")}
    return {**{n: v for n, v in schema.items() if n not in listed}, "anyOf": [{"type": "string"}, listed]}
