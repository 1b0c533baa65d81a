"""Whether a field points to the records that a lookup finds, and whether they can be found."""

from __future__ import annotations

from collections.abc import Iterator

from seqsync_dagster.destinations.protocol import Destination, FieldInfo, ObjectInfo
from seqsync_dagster.engine.preflight.mapped import Findings, Mapped, no_field, shown
from seqsync_dagster.errors import DestinationRefused
from seqsync_dagster.sequence.mappings import RecordLookup


def not_deferrable(info: ObjectInfo, field: FieldInfo, mapped: Mapped) -> Iterator[str]:
    """What keeps a field from being filled after its record was created."""
    out = "Take deferred: true off it"
    if field.required and mapped.sync.mode == "upsert":
        yield (
            f"{info.name}.{field.name} cannot be deferred: {info.name} requires it when a record is created. {out}, "
            "or let the field be empty there"
        )
    if not field.updatable:
        yield (
            f"{info.name}.{field.name} cannot be deferred: it can only be set when a record is created. {out}, or let "
            "it be changed there (a master-detail field: allow reparenting)"
        )


def parent_problems(info: ObjectInfo, field: FieldInfo, mapped: Mapped) -> Iterator[str]:
    """What keeps a field from pointing to its parent, or to each of several from row to row."""
    for lookup in mapped.sync.slots()[field.name].values():
        target = mapped.sequence.sync(lookup.parent).object
        yield from target_problems(info, field, target, f"sync {lookup.parent!r} writes {target}")


def target_problems(info: ObjectInfo, field: FieldInfo, target: str, fills: str) -> Iterator[str]:
    """What keeps a field from pointing to records of `target`; `fills` says, for a message, what it is filled with."""
    points = field.reference_to
    if target.casefold() in (p.casefold() for p in points):
        return
    able = [
        f.name
        for f in info.fields.values()
        if target.casefold() in (p.casefold() for p in f.reference_to) and (f.creatable or f.updatable)
    ]
    hint = f"Fields of {info.name} that point to {target}: {', '.join(sorted(able)) or 'none'}"
    if points:
        yield f"{info.name}.{field.name} points to {' or '.join(points)}, but {fills}. {hint}"
    else:
        yield f"{shown(info, field)} is no lookup, but {fills}. {hint}"


def check_search(
    destination: Destination, info: ObjectInfo, field: FieldInfo, mapping: RecordLookup, found: Findings
) -> None:
    """Find what keeps records from being found by the field that a lookup names."""
    where = f"{info.name}.{field.name}"
    try:
        searched = destination.describe(mapping.lookup)
    except DestinationRefused as refusal:
        found.problems.append(f"{where}: lookup: {refusal}")
        return
    by = searched.fields.get(mapping.by)
    if by is None:
        found.problems.append(f"{where}: by: {no_field(searched, mapping.by)}")
    elif by.kind not in ("text", "id", "integer", "number", "unknown") or not by.filterable:
        able = sorted(f.name for f in searched.fields.values() if f.matchable)
        found.problems.append(
            f"{where}: records cannot be found by {shown(searched, by)}. "
            f"Search by a field that tells them apart: {', '.join(able) or 'none'}"
        )
    elif not (by.matchable or by.unique or by.tells_apart):
        found.risks.append(
            f"{where} is found by {searched.name}.{by.name}, which is not unique there: "
            f"where several records have the value, if_missing: {mapping.if_missing} decides"
        )
