"""The mapping against the destination's own description, before the first row is sent."""

from __future__ import annotations

from seqsync_dagster.destinations.protocol import Destination, FieldInfo, ObjectInfo
from seqsync_dagster.errors import ConfigurationError
from seqsync_dagster.sequence.spec import ConstantMapping, ParentLookup, RecordLookup, SequenceSpec, SyncSpec
from seqsync_dagster.sequence.strict import nearest


def match_field(destination: Destination, sync: SyncSpec) -> FieldInfo:
    """The match field's description. Raises `ConfigurationError` when it cannot serve as one."""
    info = destination.describe(sync.object)
    field = info.fields.get(sync.match)
    if field is None:
        raise ConfigurationError(f"sync {sync.name}: match: {_no_field(info, sync.match)}")
    if not field.matchable:
        able = sorted(f.name for f in info.fields.values() if f.matchable)
        raise ConfigurationError(
            f"sync {sync.name}: {sync.object}.{sync.match} cannot be matched on; it is no external id. "
            f"Fields of {sync.object} that can: {', '.join(able) or 'none'}."
        )
    return field


def check_mapping(destination: Destination, sequence: SequenceSpec, sync: SyncSpec) -> None:
    """Raise one `ConfigurationError` with every problem of the sync's mapping. Nothing has been sent yet."""
    match_field(destination, sync)
    info = destination.describe(sync.object)
    problems: list[str] = []
    for name, mapping in sync.mappings():
        field = info.fields.get(name)
        if field is None:
            problems.append(_no_field(info, name))
            continue
        if sync.mode == "upsert" and not (field.creatable or field.updatable):
            problems.append(f"{sync.object}.{name} is read-only for this user")
        elif sync.mode == "update" and not field.updatable:
            problems.append(f"{sync.object}.{name} cannot be updated by this user")
        target: str | None = None
        if isinstance(mapping, ParentLookup):
            target = sequence.sync(mapping.parent).object
        elif isinstance(mapping, RecordLookup):
            target = mapping.lookup
        if target is not None and target not in field.reference_to:
            points = " or ".join(field.reference_to) or "no object"
            problems.append(f"{sync.object}.{name} points to {points}, the mapping fills it with a {target}")
        if isinstance(mapping, ConstantMapping) and field.restricted_picklist:
            value = str(mapping.constant)
            if value not in field.picklist:
                problems.append(f"{sync.object}.{name} has no value {value!r}.{nearest(value, field.picklist)}")
    if sync.removed == "delete" and not info.deletable:
        problems.append(f"records of {sync.object} cannot be deleted by this user (removed: delete)")
    if sync.mode == "upsert":
        mapped = {n for n, _ in sync.mappings()} | {sync.match}
        lacking = sorted(f.name for f in info.fields.values() if f.required and f.name not in mapped)
        if lacking:
            problems.append(f"{sync.object} requires {', '.join(lacking)}, which nothing is mapped to")
    if problems:
        listed = "\n".join(f"  - {p}" for p in problems)
        raise ConfigurationError(
            f"sync {sync.name}: its fields do not fit {sync.object} in the destination. Nothing was sent.\n{listed}"
        )


def _no_field(info: ObjectInfo, name: str) -> str:
    return f"{info.name} has no field {name!r}, or this user may not see it.{nearest(name, info.fields)}"
