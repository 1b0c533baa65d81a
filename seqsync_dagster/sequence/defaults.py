"""What the syncs of a sequence share: `defaults`, laid under each of them before anything is checked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from seqsync_dagster.sequence.strict import nearest

#: What tells one sync from another, and so cannot be shared.
OWN = ("name", "model", "table", "query")


def with_defaults(attributes: Any, known: Collection[str]) -> Any:
    """A sequence's attributes as written, every sync with the defaults for what it does not say itself.

    `fields` are put together, a sync's own winning; `sensitive` adds what the sync maps; everything else is taken
    whole. `known`: names of what a sync can say. Raises `ValueError` for a default that none can have.
    """
    defaults = attributes.get("defaults") if isinstance(attributes, dict) else None
    syncs = attributes.get("syncs") if isinstance(attributes, dict) else None
    if not isinstance(defaults, dict):
        return attributes
    shared = [name for name in known if name not in OWN]
    for name in defaults:
        if name in OWN:
            raise ValueError(f"defaults: {name!r} is each sync's own. Take it out. Known here: {', '.join(shared)}.")
        if name not in shared:
            raise ValueError(
                f"defaults: unknown name {str(name)!r}.{nearest(str(name), shared)} Known here: {', '.join(shared)}."
            )
    if not isinstance(syncs, list | tuple):
        return attributes
    return {**attributes, "syncs": [_under(defaults, s) if isinstance(s, Mapping) else s for s in syncs]}


def _under(defaults: Mapping[str, Any], sync: Mapping[str, Any]) -> Mapping[str, Any]:
    merged = {**defaults, **sync}
    fields = [each.get("fields") for each in (defaults, sync)]
    if all(isinstance(each, Mapping) for each in fields):
        merged["fields"] = {**fields[0], **fields[1]}  # type: ignore[dict-item]
    if "sensitive" in defaults:
        # A sync that lists its own must not uncover what all of them hide.
        mentioned = set(_mentioned(merged.get("fields")))
        hidden = [name for name in _listed(defaults["sensitive"]) if name in mentioned]
        merged["sensitive"] = [*dict.fromkeys([*_listed(sync.get("sensitive")), *hidden])]
    return merged


def _mentioned(fields: Any) -> Iterator[Any]:
    """Fields, and the columns they are filled from."""
    if not isinstance(fields, Mapping):
        return
    for field, mapping in fields.items():
        yield field
        if isinstance(mapping, Mapping):
            several = mapping.get("parents")
            for source in (mapping, *(several if isinstance(several, list) else ())):
                for name in ("column", "from") if isinstance(source, Mapping) else ():
                    yield from _listed(source.get(name))
        else:
            yield from _listed(mapping)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] if isinstance(value, str) else []
