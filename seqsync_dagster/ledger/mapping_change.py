"""What a sync's mapping was when its fingerprints were made, and what is different now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from seqsync_dagster.ledger.fingerprint import mapping_content, mapping_digest
from seqsync_dagster.sequence.sync import SyncSpec

#: Said when nothing better is known: the ledger is older than the column that tells.
UNKNOWN_CHANGE = "the mapping, or a type of the model, changed"
#: Stands in place of the digest when the ledger's rows were not all sent by one mapping.
MIXED = "mixed"
_SHOWN = 5


@dataclass(frozen=True)
class TakenOut:
    """Fields that a mapping had once."""

    fields: tuple[str, ...]
    types: Mapping[str, str]
    """Column -> type of the model, as the mapping with these fields read it."""


def remembered_mapping(sync: SyncSpec, types: Mapping[str, str]) -> str:
    """The mapping and the model's types as JSON, for the column ``mapping`` of ``syncs``.

    Constants stand there as digests: a sensitive one must not be read from a table.
    """
    content = mapping_content(sync, types)
    content["constants"] = {f: _digest(value) for f, value in content["constants"].items()}
    content["lookups"] = {f: [*found[:4], *map(_digest, found[4:])] for f, found in content["lookups"].items()}
    content["digest"] = mapping_digest(sync, types)
    return json.dumps(content, sort_keys=True)


def remembered_types(mapping: str | None, digest: str | None) -> dict[str, str]:
    """Column -> type as they were when the model was last sent; empty when that is not known."""
    return dict((_read(mapping, digest) or {}).get("types", {}))


def same_parent(mapping: str | None, sync: SyncSpec, slot: str) -> bool:
    """Whether the ledger's keys of a lookup's parents are those of the parent that the YAML names now."""
    if mapping is None:
        return True
    lookup = sync.parent_lookups()[slot]
    return list(json.loads(mapping).get("parents", {}).get(slot, ()))[:2] == [lookup.parent, list(lookup.from_)]


def former_slot(mapping: str | None, sync: SyncSpec, slot: str) -> str | None:
    """The slot that held a lookup's parent when its field could point to fewer or more parents; None: there is none."""
    parents = json.loads(mapping).get("parents", {}) if mapping is not None else {}
    field, parent = sync.field_of(slot), sync.parent_lookups()[slot].parent
    others = (old for old, found in parents.items() if old != slot and found[0] == parent)
    return next((old for old in others if _field(old, parents) == field), None)


def sent_by_another(mapping: str | None, digest: str | None, sync: SyncSpec) -> bool:
    """Whether rows sent by `sync` do not mean what the ledger's other rows do, whose `mapping` and `digest` these are.

    Fingerprints alone would not tell: they are computed over model columns, and a constant is none.
    """
    types = remembered_types(mapping, digest)
    return bool(types) and (not sync.columns() <= types.keys() or mapping_digest(sync, types) != digest)


def what_changed(mapping: str | None, digest: str | None, sync: SyncSpec, types: Mapping[str, str]) -> str:
    """Which field or column is not what it was, in words for people. `mapping` and `digest` are the ledger's."""
    if digest == MIXED:
        return "rows were sent by a changed mapping, and not all of them"
    then = _read(mapping, digest)
    if then is None:
        return UNKNOWN_CHANGE
    now = json.loads(remembered_mapping(sync, types))
    changes = list(_changes(then, now))
    more = f"; and {len(changes) - _SHOWN} more changes" if len(changes) > _SHOWN else ""
    return "; ".join(changes[:_SHOWN]) + more if changes else UNKNOWN_CHANGE


def taken_out(mapping: str | None, digest: str | None, sync: SyncSpec, types: Mapping[str, str]) -> TakenOut | None:
    """The fields that were taken out, where that is all that changed; else None."""
    then = _read(mapping, digest)
    if then is None:
        return None
    now = json.loads(remembered_mapping(sync, types))
    if any(then[k] != now[k] for k in ("object", "match", "key")):
        return None
    if now.get("zone") is not None and then.get("zone") != now["zone"]:
        return None
    if any(then["types"].get(c) != type_ for c, type_ in now["types"].items()):
        return None
    gone: list[str] = []
    for kind in ("values", "constants", "parents", "lookups"):
        if any(then[kind].get(f) != m for f, m in now[kind].items()):
            return None
        gone += [f for f in then[kind] if f not in now[kind]]
    gone = list(dict.fromkeys(_field(slot, then["parents"]) for slot in gone))
    if any(_field(slot, now["parents"]) in gone for slot in now["parents"]):
        # One of several parents that a field could point to: rows that pointed there point to nothing now.
        return None
    return TakenOut(tuple(gone), then["types"]) if gone else None


def _field(slot: str, parents: Mapping[str, Any]) -> str:
    """The field of a slot; any other field as it is. See `SyncSpec.slots`."""
    return slot.removesuffix(f".{parents[slot][0]}") if slot in parents else slot


def _read(mapping: str | None, digest: str | None) -> dict[str, Any] | None:
    if mapping is None:
        return None
    content: dict[str, Any] = json.loads(mapping)
    # An older version of this package, run in between, moves the digest on and leaves the rest.
    return content if content.get("digest") == digest else None


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for column, type_ in now["types"].items():
        before = then["types"].get(column)
        if before is not None and before != type_:
            yield f"the model's column {column!r} changed its type from {before} to {type_}"
    old, new = dict(_fields(then)), dict(_fields(now))
    for field in (*new, *(f for f in old if f not in new)):
        if field not in old:
            yield f"{field} was added to the mapping"
        elif field not in new:
            yield f"{field} was taken out of the mapping"
        elif old[field] != new[field]:
            (_, before), (_, after) = old[field], new[field]
            same = before == after
            yield f"{field} has another constant" if same else f"{field} is filled from {after}, it was {before}"
    zones = [content.get("zone", "UTC") for content in (then, now)]
    if zones[0] != zones[1]:
        yield f"times without a zone are taken as {zones[1]}, they were taken as {zones[0]}"
    if then["key"] != now["key"]:
        yield f"the key is ({', '.join(now['key'])}), it was ({', '.join(then['key'])})"


def _fields(content: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Field -> what it is filled from, exactly and in words."""
    for field, (column, nulls, *write) in content["values"].items():
        when = f" (write: {write[0]})" if write else ""
        yield field, ([column, nulls, *write], f"column {column!r}{_nulls(nulls)}{when}")
    for field, digest in content["constants"].items():
        yield field, (digest, "a constant")
    parents: dict[str, list[Any]] = {}
    for slot, found in sorted(content["parents"].items()):
        parents.setdefault(_field(slot, content["parents"]), []).append(found)
    for field, several in parents.items():
        yield field, (several, " or ".join(f"parent {p!r} by {', '.join(c)}{_nulls(n)}" for p, c, n in several))
    for field, (lookup, by, column, nulls, *value) in content["lookups"].items():
        source = "a constant" if value else column
        yield field, ([lookup, by, column, nulls, *value], f"{lookup} by {by} = {source}{_nulls(nulls)}")


def _nulls(nulls: str) -> str:
    return "" if nulls == "clear" else f" (nulls: {nulls})"


def _digest(constant: object) -> str:
    return hashlib.sha256(json.dumps(constant).encode()).hexdigest()[:16]
