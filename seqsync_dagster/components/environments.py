"""One file for dev, staging and prod: what differs between them stands under `environments`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from seqsync_dagster.sequence.strict import nearest

if TYPE_CHECKING:
    from dagster_shared.yaml_utils.source_position import SourcePositionTree

    from seqsync_dagster.components.yaml_source import Location, YamlSource

#: Names the environment that a code location runs in.
VARIABLE = "SEQSYNC_ENVIRONMENT"
_KEY = "environments"
_DEFAULT = "dev"
_PRODUCTION = ("prod", "production")

Model = TypeVar("Model", bound=BaseModel)


def current(environ: Mapping[str, str] = os.environ) -> str | None:
    """Name of the environment this is; None where nobody has said."""
    return environ.get(VARIABLE, "").strip() or None


def is_production(environment: str) -> bool:
    """Whether runs of this environment may write to a production org."""
    return environment.lower() in _PRODUCTION


def validate(
    source: YamlSource, spec: type[Model], *, is_tag: Callable[[Location], bool] = lambda location: False
) -> tuple[Model, str | None]:
    """The attributes as they are in the current environment, and its name.

    What the environment says is laid over the rest, mapping by mapping; `null` takes something back. Every
    environment is checked, so that a mistake in production's shows in development already.
    Raises `ConfigurationError` with every mistake of the first environment that has one, or for an unknown name.
    """
    raw = source.raw
    if not isinstance(raw, dict) or _KEY not in raw:
        return source.validate(spec, is_tag=is_tag), current()
    named = raw[_KEY]
    if not isinstance(named, dict) or not named or not all(isinstance(e, dict) for e in named.values()):
        raise source.error(
            f"{_KEY} maps names to what differs there, e.g. {{dev: {{...}}, prod: {{...}}}}; a mapping is needed.", _KEY
        )
    chosen = current() or _DEFAULT
    if chosen not in named:
        how = f"{VARIABLE} is {chosen!r}" if current() else f"{VARIABLE} is not set"
        raise source.error(
            f"{how}, and {_KEY} here are {', '.join(map(str, named))}.{nearest(chosen, map(str, named))} "
            f"Set {VARIABLE} to one of them.",
            _KEY,
        )
    made = {str(name): _in(source, name).validate(spec, is_tag=is_tag) for name in named}
    return made[chosen], chosen


def for_editors(schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a component's attributes, with `environments`."""
    properties = dict(schema["properties"])
    # What every environment says for itself needs not stand above them as well.
    required = schema.pop("required", [])
    schema["anyOf"] = [{"required": required}, {"required": [_KEY]}]
    properties[_KEY] = {
        "type": "object",
        "description": f"What differs between environments, by their names; {VARIABLE} says which one this is "
        f"(`{_DEFAULT}` when it is not set). Runs of any but `prod` are refused by a production org, unless "
        "the connection says `allow_production: true`.",
        "additionalProperties": {"type": "object", "additionalProperties": False, "properties": schema["properties"]},
    }
    return {**schema, "properties": properties}


def _in(source: YamlSource, name: str) -> YamlSource:
    raw = {key: value for key, value in source.raw.items() if key != _KEY}
    tree = source.tree
    over = tree.children.get(_KEY) if tree is not None else None
    over = over.children.get(name) if over is not None else None
    return replace(source, raw=_laid_over(raw, source.raw[_KEY][name]), tree=_trees(tree, over))


def _laid_over(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    if "env" in below or "env" in above:
        # A value of the environment is one thing: the default of another variable must not get into it.
        return above
    merged = {
        **below,
        **{key: _laid_over(below[key], value) if key in below else value for key, value in above.items()},
    }
    return {key: value for key, value in merged.items() if value is not None}


def _trees(below: SourcePositionTree | None, above: SourcePositionTree | None) -> SourcePositionTree | None:
    if below is None or above is None:
        return above or below
    joined = {
        key: _trees(below.children.get(key), above.children.get(key)) or below
        for key in (*below.children, *above.children)
    }
    return above._replace(children=joined)
