"""The mapping against the destination's own description, before the first row is sent.

Only what is wrong for every row is a problem. What some rows' values may break, the destination
says row by row; where a type makes that likely, it is told as a risk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from seqsync_dagster.destinations.protocol import Destination, FieldInfo, ObjectInfo
from seqsync_dagster.engine.preflight.columns import check_column
from seqsync_dagster.engine.preflight.constants import constant_problem
from seqsync_dagster.engine.preflight.lookups import check_search, not_deferrable, parent_problems, target_problems
from seqsync_dagster.engine.preflight.mapped import Findings, Mapped, no_field, shown
from seqsync_dagster.errors import ConfigurationError
from seqsync_dagster.sequence.mappings import (
    ColumnMapping,
    ConstantMapping,
    ParentLookup,
    ParentsLookup,
    RecordLookup,
)
from seqsync_dagster.sequence.spec import SequenceSpec
from seqsync_dagster.sequence.sync import SyncSpec


def check_mapping(destination: Destination, mapped: Mapped) -> list[str]:
    """Compare the sync with the destination's description; return the risks, a line each.

    Asks the destination to describe the sync's object, and those its lookups search. Raises one
    `ConfigurationError` that names every problem, and `DestinationRefused` for an unknown object.
    """
    sync = mapped.sync
    info = destination.describe(sync.object)
    found = Findings([], [])
    found.problems += _object_problems(info, mapped)
    _check_match(info, mapped, found)
    for name, mapping in sync.mappings():
        field = info.fields.get(name)
        if field is None:
            found.problems.append(no_field(info, name))
            continue
        unwritable = _unwritable(info, field, mapped)
        if unwritable is not None:
            found.problems.append(unwritable)
            continue
        match mapping:
            case ColumnMapping():
                check_column(info, field, mapping.column, mapped, found)
            case ConstantMapping():
                wrong = constant_problem(field, mapping.constant)
                if wrong is not None:
                    value = "***" if sync.is_sensitive(name) else repr(mapping.constant)
                    found.problems.append(f"{shown(info, field)} cannot take the constant {value}: {wrong}")
            case ParentLookup() | ParentsLookup():
                if mapping.deferred:
                    found.problems += not_deferrable(info, field, mapped)
                found.problems += parent_problems(info, field, mapped)
            case RecordLookup():
                fills = f"the mapping finds {mapping.lookup}"
                found.problems += target_problems(info, field, mapping.lookup, fills)
                check_search(destination, info, field, mapping, found)
    found.problems += _lacking(info, sync)
    found.problems += _not_clearable(info, sync)
    found.problems += _not_readable(destination, info, sync)
    for remark in destination.remarks(sync.object, sync.options):
        (found.problems if remark.problem else found.risks).append(f"options: {remark.text}")
    found.problems += _unfit_to_adopt_by(info, sync)
    if found.problems:
        listed = "\n".join(f"  - {p}" for p in found.problems)
        also = "\nNot wrong for every row, but worth a look:\n" + "\n".join(f"  - {r}" for r in found.risks)
        raise ConfigurationError(
            f"sync {sync.name}: its fields do not fit {sync.object} in the destination. Nothing was sent.\n{listed}"
            f"{also if found.risks else ''}"
        )
    return found.risks


def check_references(destination: Destination, sequence: SequenceSpec, sync: SyncSpec, fields: Iterable[str]) -> None:
    """Compare the reference fields that `finish` is about to fill in with the destination's description.

    Raises one `ConfigurationError` that names every problem, and `DestinationRefused` for an unknown object.
    """
    info = destination.describe(sync.object)
    mapped = Mapped(sequence, sync, {}, frozenset({"update"}), {})
    problems = [p for p in _object_problems(info, mapped) if sync.removed != "delete" or "deleted" not in p]
    for name in fields:
        field = info.fields.get(name)
        if field is None:
            problems.append(no_field(info, name))
        elif (unwritable := _unwritable(info, field, mapped)) is not None:
            problems.append(unwritable)
        else:
            problems += parent_problems(info, field, mapped)
    if problems:
        listed = "\n".join(f"  - {p}" for p in problems)
        raise ConfigurationError(
            f"sync {sync.name}: the references that finish fills in do not fit {sync.object} in the destination. "
            f"Nothing was sent.\n{listed}"
        )


def match_field(destination: Destination, sync: SyncSpec) -> FieldInfo:
    """The description of a match field that `check_mapping` found fit."""
    return destination.describe(sync.object).fields[str(sync.match)]


def _object_problems(info: ObjectInfo, mapped: Mapped) -> Iterator[str]:
    sync, grant = mapped.sync, "Give this user the permission on the object"
    if "create" in mapped.writes and not info.creatable:
        yield f"records of {info.name} cannot be created by this user (mode: {sync.mode}). {grant}, or say mode: update"
    if "update" in mapped.writes and not info.updatable:
        yield f"records of {info.name} cannot be updated by this user (mode: {sync.mode}). {grant}"
    if sync.removed == "clear" and not info.updatable:
        yield f"records of {info.name} cannot be updated by this user (removed: clear). {grant}, or say removed: keep"
    if sync.removed == "delete" and not info.deletable:
        yield f"records of {info.name} cannot be deleted by this user (removed: delete). {grant}, or say removed: keep"
    if sync.mode == "delete" and not info.deletable:
        yield f"records of {info.name} cannot be deleted by this user (mode: delete). {grant}"


def _check_match(info: ObjectInfo, mapped: Mapped, found: Findings) -> None:
    sync = mapped.sync
    if sync.match is None:
        return
    field = info.fields.get(sync.match)
    if field is None:
        found.problems.append(f"match: {no_field(info, sync.match)}")
        return
    able = sorted(f.name for f in info.fields.values() if f.matchable and _unfit_to_create(f, sync) is None)
    others = f"Fields of {info.name} that can: {', '.join(able) or 'none'}"
    reason = "it is no external id" if not field.matchable else _unfit_to_create(field, sync)
    if reason is not None:
        found.problems.append(f"{info.name}.{field.name} cannot be matched on; {reason}. {others}")
        return
    if len(sync.key) > 1:
        if field.kind not in ("text", "unknown"):
            found.problems.append(
                f"{shown(info, field)} cannot be matched on: a key of several columns "
                f"({', '.join(sync.key)}) is one text. Match on a text field"
            )
        return
    key = sync.key[0]
    if field.kind != "text" or mapped.column(key).kind != "datetime":
        # A moment has another text, of another length, in a key than in a field.
        check_column(info, field, key, mapped, found)


def _unfit_to_create(field: FieldInfo, sync: SyncSpec) -> str | None:
    """Why records cannot be created under this field; a sync that never creates needs nothing of the kind."""
    if sync.mode in ("update", "delete"):
        return None
    if field.auto_number or field.calculated or not field.creatable:
        by = "counts" if field.auto_number else "computes" if field.calculated else "fills"
        return f"the destination {by} it itself, and mode: {sync.mode} creates records by it"
    if not field.unique:
        return "it is not unique there, so that a key could stand in several records: make it unique"
    return None


def _unwritable(info: ObjectInfo, field: FieldInfo, mapped: Mapped) -> str | None:
    name, out = f"{info.name}.{field.name}", "Take it out of fields"
    if field.kind == "compound":
        return f"{name} is made of other fields ({field.type}). Map those instead"
    if field.calculated:
        return f"{name} is a formula: the destination computes it. {out}"
    if field.auto_number:
        return f"{name} is an auto-number: the destination counts it. {out}"
    if not (field.creatable or field.updatable):
        return f"{name} is read-only for this user. {out}, or give this user edit access to it"
    if mapped.sync.mode == "update" and not field.updatable:
        return f"{name} cannot be updated by this user. {out}, or give this user edit access to it"
    if "create" in mapped.writes and not field.creatable:
        return (
            f"{name} cannot be set when a record is created. {out}, and fill it in a second sync that says mode: update"
        )
    if "update" in mapped.writes and not field.updatable:
        return (
            f"{name} can only be set when a record is created, and the plan has updates. {out}, or let it be changed "
            "there (a master-detail field: allow reparenting)"
        )
    return None


def _lacking(info: ObjectInfo, sync: SyncSpec) -> Iterator[str]:
    if sync.mode in ("update", "delete"):
        return
    mapped = {name for name, _ in sync.mappings()} | {sync.match}
    lacking = sorted(f.name for f in info.fields.values() if f.required and f.name not in mapped)
    if lacking:
        yield (
            f"{info.name} requires {', '.join(lacking)}, which nothing is mapped to. Map a column or a constant, "
            "or say mode: update, which creates no record"
        )


def _not_clearable(info: ObjectInfo, sync: SyncSpec) -> Iterator[str]:
    fields = [info.fields[name] for name in sync.emptied() if name in info.fields]
    kept = [f.name for f in fields if not f.clearable or not f.updatable]
    if kept:
        rest = ", ".join(f.name for f in fields if f.name not in kept)
        instead = f"clear_fields: [{rest}]" if rest else "removed: keep, since no other field is mapped"
        yield (
            f"removed: clear cannot empty {', '.join(kept)} of {info.name}: they must hold a value there, or cannot "
            f"be updated. Say {instead}"
        )


def _unfit_to_adopt_by(info: ObjectInfo, sync: SyncSpec) -> Iterator[str]:
    fields = [info.fields[f] for f in sync.adopt_by if f in info.fields]
    for field in fields:
        if field.kind not in ("text", "integer", "number", "unknown") or not field.filterable:
            yield (
                f"adopt_by: records cannot be found by {shown(info, field)}. Name fields that hold a short text or a "
                "number"
            )
    match = info.fields.get(sync.match or "")
    if fields and match is not None and not match.updatable:
        yield f"adopt_by: {info.name}.{match.name} cannot be updated by this user, so no record can be given its key"


def _not_readable(destination: Destination, info: ObjectInfo, sync: SyncSpec) -> Iterator[str]:
    filled = [f for f in sync.filled_if_empty() if f in info.fields]
    if filled:
        nothing = pa.table({f: pa.array([], pa.string()) for f in filled})
        readable = destination.as_stored(sync.object, nothing).column_names
        for field in (info.fields[f] for f in filled if f not in readable):
            yield f"{shown(info, field)} cannot be read back, so write: if_empty cannot tell where it is empty"
