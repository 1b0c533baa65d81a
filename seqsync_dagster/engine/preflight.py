"""The mapping against the destination's own description, before the first row is sent.

Only what is wrong for every row is a problem. What some rows' values may break, the destination
says row by row; where a type makes that likely, it is told as a risk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Literal

import pyarrow as pa

from seqsync_dagster.destinations.protocol import Destination, FieldInfo, FieldKind, ObjectInfo
from seqsync_dagster.errors import ConfigurationError, DestinationRefused
from seqsync_dagster.ledger.fingerprint import type_that_counts
from seqsync_dagster.sequence.mappings import (
    ColumnMapping,
    ConstantMapping,
    ParentLookup,
    ParentsLookup,
    RecordLookup,
)
from seqsync_dagster.sequence.spec import SequenceSpec
from seqsync_dagster.sequence.strict import nearest
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.column_types import ColumnKind, ColumnType, read_type

Write = Literal["create", "update"]


@dataclass(frozen=True)
class Mapped:
    """A sync with what a check of it needs to know."""

    sequence: SequenceSpec
    sync: SyncSpec
    types: Mapping[str, str]
    """Model column -> the engine's name of its type."""
    writes: frozenset[Write]
    """What the rows at hand ask for: a field that cannot be updated does no harm to a plan of creates."""
    sent_types: Mapping[str, str]
    """The types as they were when the model was last sent, so far as they are known."""

    def column(self, name: str) -> ColumnType:
        """A model column's type."""
        return read_type(self.types[name])

    def named(self, column: str) -> str:
        """A column for a message; one that was given another type is the model's fault, and is named as such."""
        now, then = self.types[column], self.sent_types.get(column)
        if then is None or then == type_that_counts(now):
            return f"column {column!r} ({now})"
        return f"column {column!r} (now {now}: the model changed, it was {then} when last sent)"


@dataclass
class _Findings:
    problems: list[str]
    risks: list[str]


def first_writes(sync: SyncSpec) -> frozenset[Write]:
    """What a sync does at least, before a plan says more."""
    none: frozenset[Write] = frozenset()
    return none if sync.mode == "delete" else frozenset({"update"} if sync.mode == "update" else {"create"})


def check_mapping(destination: Destination, mapped: Mapped) -> list[str]:
    """Compare the sync with the destination's description; return the risks, a line each.

    Asks the destination to describe the sync's object, and those its lookups search. Raises one
    `ConfigurationError` that names every problem, and `DestinationRefused` for an unknown object.
    """
    sync = mapped.sync
    info = destination.describe(sync.object)
    found = _Findings([], [])
    found.problems += _object_problems(info, mapped)
    _check_match(info, mapped, found)
    for name, mapping in sync.mappings():
        field = info.fields.get(name)
        if field is None:
            found.problems.append(_no_field(info, name))
            continue
        unwritable = _unwritable(info, field, mapped)
        if unwritable is not None:
            found.problems.append(unwritable)
            continue
        match mapping:
            case ColumnMapping():
                _check_column(info, field, mapping.column, mapped, found)
            case ConstantMapping():
                wrong = _constant_problem(field, mapping.constant)
                if wrong is not None:
                    shown = "***" if sync.is_sensitive(name) else repr(mapping.constant)
                    found.problems.append(f"{_shown(info, field)} cannot take the constant {shown}: {wrong}")
            case ParentLookup() | ParentsLookup():
                if mapping.deferred:
                    found.problems += _not_deferrable(info, field, mapped)
                found.problems += _parent_problems(info, field, mapped)
            case RecordLookup():
                fills = f"the mapping finds {mapping.lookup}"
                found.problems += _target_problems(info, field, mapping.lookup, fills)
                _check_search(destination, info, field, mapping, found)
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
            problems.append(_no_field(info, name))
        elif (unwritable := _unwritable(info, field, mapped)) is not None:
            problems.append(unwritable)
        else:
            problems += _parent_problems(info, field, mapped)
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


def _check_match(info: ObjectInfo, mapped: Mapped, found: _Findings) -> None:
    sync = mapped.sync
    if sync.match is None:
        return
    field = info.fields.get(sync.match)
    if field is None:
        found.problems.append(f"match: {_no_field(info, sync.match)}")
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
                f"{_shown(info, field)} cannot be matched on: a key of several columns "
                f"({', '.join(sync.key)}) is one text. Match on a text field"
            )
        return
    key = sync.key[0]
    if field.kind != "text" or mapped.column(key).kind != "datetime":
        # A moment has another text, of another length, in a key than in a field.
        _check_column(info, field, key, mapped, found)


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


def _no_field(info: ObjectInfo, name: str) -> str:
    hint = nearest(name, info.fields) or " Correct the name, or let this user see the field."
    return f"{info.name} has no field {name!r}, or this user may not see it.{hint}"


def _shown(info: ObjectInfo, field: FieldInfo) -> str:
    return f"{info.name}.{field.name} ({field.type})"


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


def _not_deferrable(info: ObjectInfo, field: FieldInfo, mapped: Mapped) -> Iterator[str]:
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
                f"adopt_by: records cannot be found by {_shown(info, field)}. Name fields that hold a short text or a "
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
            yield f"{_shown(info, field)} cannot be read back, so write: if_empty cannot tell where it is empty"


#: What a field of a kind takes from any row of a column of these kinds. The text of a number or a date is text; the
#: rest is what Salesforce deserialises ("Primitive Data Types" of the SOAP API Developer Guide, "Valid Date Format in
#: Records" of the Bulk API 2.0 guide): no date for a dateTime, no dateTime for a date, no number for a boolean.
_TAKES: Mapping[FieldKind, frozenset[ColumnKind]] = {
    "text": frozenset({"text", "uuid", "boolean", "integer", "decimal", "float", "date", "datetime", "time"}),
    "id": frozenset({"text"}),
    "boolean": frozenset({"boolean"}),
    "integer": frozenset({"integer"}),
    "number": frozenset({"integer", "decimal", "float"}),
    "date": frozenset({"date"}),
    "datetime": frozenset({"datetime"}),
    "time": frozenset({"time"}),
    "binary": frozenset({"text"}),
}
_INSTEAD: Mapping[FieldKind, str] = {
    "boolean": "a boolean",
    "integer": "an integer: the field takes whole numbers only",
    "number": "a number",
    "date": "a date",
    "datetime": "a timestamp",
    "time": "a time",
    "binary": "text in base64",
}
#: Characters that every value of a kind takes as text.
_WIDTHS: Mapping[ColumnKind, int] = {"uuid": 36, "date": 10, "datetime": 24}


def takes(field: FieldInfo, column: ColumnType) -> bool:
    """Whether a field takes every value of a column, as far as their kinds tell."""
    taken = _TAKES.get(field.kind)
    return taken is None or column.kind == "unknown" or column.kind in taken


def _check_column(info: ObjectInfo, field: FieldInfo, column: str, mapped: Mapped, found: _Findings) -> None:
    type_, taken = mapped.column(column), _TAKES.get(field.kind)
    if taken is None or type_.kind == "unknown":
        return
    where, named = _shown(info, field), mapped.named(column)
    whole = type_.kind == "decimal" and type_.precision > 0 and type_.scale <= 0
    if type_.kind in taken or (whole and field.kind == "integer"):
        width = _WIDTHS.get(type_.kind, 0)
        if field.kind == "text" and 0 < field.length < width:
            found.problems.append(
                f"{where} holds {field.length} characters, {named} sends {width} in every row. Use a longer field"
            )
        elif field.kind == "number" and type_.kind == "decimal":
            found.risks += _decimal_risks(where, field, named, type_)
    elif type_.kind == "text":
        a = _INSTEAD[field.kind].partition(":")[0]
        found.risks.append(f"{where} is filled from {named}: rows whose text is not {a} are refused")
    elif field.kind == "id":
        found.problems.append(
            f"{where} cannot take {named}: it holds the id of a record. Find it with {{parent: SYNC, from: {column}}} "
            f"or {{lookup: OBJECT, by: FIELD, from: {column}}}"
        )
    else:
        found.problems.append(f"{where} cannot take {named}. Cast it in the model to {_INSTEAD[field.kind]}")


def _decimal_risks(where: str, field: FieldInfo, named: str, type_: ColumnType) -> Iterator[str]:
    whole = field.precision - field.scale
    if field.precision and type_.precision - type_.scale > whole:
        yield f"{where} holds {whole} digits before the point: rows of {named} with more are refused"
    if field.precision and type_.scale > field.scale:
        yield f"{where} keeps {field.scale} digits after the point, {named} has {type_.scale}: the rest is rounded away"


def _parent_problems(info: ObjectInfo, field: FieldInfo, mapped: Mapped) -> Iterator[str]:
    """Of a field that points to one parent, or to one of several from row to row."""
    for lookup in mapped.sync.slots()[field.name].values():
        target = mapped.sequence.sync(lookup.parent).object
        yield from _target_problems(info, field, target, f"sync {lookup.parent!r} writes {target}")


def _target_problems(info: ObjectInfo, field: FieldInfo, target: str, fills: str) -> Iterator[str]:
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
        yield f"{_shown(info, field)} is no lookup, but {fills}. {hint}"


def _check_search(
    destination: Destination, info: ObjectInfo, field: FieldInfo, mapping: RecordLookup, found: _Findings
) -> None:
    where = f"{info.name}.{field.name}"
    try:
        searched = destination.describe(mapping.lookup)
    except DestinationRefused as refusal:
        found.problems.append(f"{where}: lookup: {refusal}")
        return
    by = searched.fields.get(mapping.by)
    if by is None:
        found.problems.append(f"{where}: by: {_no_field(searched, mapping.by)}")
    elif by.kind not in ("text", "id", "integer", "number", "unknown") or not by.filterable:
        able = sorted(f.name for f in searched.fields.values() if f.matchable)
        found.problems.append(
            f"{where}: records cannot be found by {_shown(searched, by)}. "
            f"Search by a field that tells them apart: {', '.join(able) or 'none'}"
        )
    elif not (by.matchable or by.unique or by.tells_apart):
        found.risks.append(
            f"{where} is found by {searched.name}.{by.name}, which is not unique there: "
            f"where several records have the value, if_missing: {mapping.if_missing} decides"
        )


def _constant_problem(field: FieldInfo, value: str | int | float | bool) -> str | None:
    """What is wrong with a constant, which is the same in every row: here the value itself can be judged."""
    if isinstance(value, str) and not value.strip():
        # Blank text clears the field.
        return None
    if field.restricted_picklist:
        values = str(value).split(field.separator) if field.separator else [str(value)]
        for each in values:
            if each not in field.picklist:
                return f"it is no value of the picklist.{nearest(each, field.picklist)} Values: {_few(field.picklist)}"
    if field.kind == "text":
        return f"the field holds {field.length} characters" if 0 < field.length < len(str(value)) else None
    judge = _CONSTANTS.get(field.kind)
    return None if judge is None or judge(field, value) else _wanted(field)


def _few(values: tuple[str, ...]) -> str:
    return ", ".join(values[:20]) + (f" and {len(values) - 20} more" if len(values) > 20 else "")


Constant = str | int | float | bool


def _is_number(field: FieldInfo, value: Constant) -> bool:
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return False
    if isinstance(value, bool) or not number.is_finite():
        return False
    return not field.precision or number.adjusted() < max(field.precision - field.scale, 1)


def _is_whole(field: FieldInfo, value: Constant) -> bool:
    return not isinstance(value, bool | float) and re.fullmatch(r"[+-]?\d{1,10}", str(value)) is not None


def _is_moment(read: Callable[[str], object]) -> Callable[[FieldInfo, Constant], bool]:
    def judge(field: FieldInfo, value: Constant) -> bool:
        try:
            return isinstance(value, str) and read(value) is not None
        except ValueError:
            return False

    return judge


def _datetime(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if "T" not in text or moment.tzinfo is None:
        raise ValueError(text)
    return moment


_CONSTANTS: Mapping[FieldKind, Callable[[FieldInfo, Constant], bool]] = {
    "boolean": lambda field, value: isinstance(value, bool) or str(value).lower() in ("true", "false"),
    "integer": _is_whole,
    "number": _is_number,
    "date": _is_moment(date.fromisoformat),
    "datetime": _is_moment(_datetime),
    "time": _is_moment(time.fromisoformat),
    "id": lambda field, value: re.fullmatch(r"[0-9A-Za-z]{15}(?:[0-9A-Za-z]{3})?", str(value)) is not None,
}
_WANTED: Mapping[FieldKind, str] = {
    "boolean": "write true or false",
    "integer": "write a whole number",
    "number": "write a number",
    "date": "write a date as '2024-12-31'",
    "datetime": "write a moment with its zone as '2024-12-31T23:59:59Z'",
    "time": "write a time as '23:59:59Z'",
    "id": "write a record's id, of 15 or 18 characters; or find the record with parent: or lookup:",
}


def _wanted(field: FieldInfo) -> str:
    wanted = _WANTED[field.kind]
    if field.kind == "number" and field.precision:
        wanted += f" of at most {field.precision - field.scale} digits before the point"
    return wanted
