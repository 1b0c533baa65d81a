"""A mapping proposed from a model's columns and an object's description. A guess for a person to go on from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from seqsync_dagster.destinations.protocol import FieldInfo, ObjectInfo
from seqsync_dagster.engine.preflight.columns import takes
from seqsync_dagster.warehouse.column_types import read_type


@dataclass(frozen=True)
class Unfit:
    """A field with a column's name that does not take the column."""

    field: str
    column: str
    why: str


@dataclass(frozen=True)
class Reference:
    """A field that points to a record, with the column that seems to name it."""

    field: str
    objects: tuple[str, ...]
    column: str


@dataclass(frozen=True)
class Proposal:
    """What a sync could map."""

    fields: Mapping[str, str]
    """Destination field <- column."""
    unfit: tuple[Unfit, ...] = ()
    references: tuple[Reference, ...] = ()
    required: tuple[str, ...] = ()
    """Fields that a new record needs, and nothing fills."""
    unmapped: tuple[str, ...] = ()
    """Columns that no field is found for."""


def propose(columns: Mapping[str, str], key: Iterable[str], info: ObjectInfo | None, match: str) -> Proposal:
    """Fields for the columns of a model but its key. `columns`: name -> the engine's name of its type, or nothing.

    Without a description the fields' names are made of the columns', and references are left to a person.
    """
    left = [c for c in columns if c not in set(key)]
    if info is None:
        guessed: dict[str, str] = {}
        # A column of ids names another record more often than not.
        for column in (c for c in left if not _plain(c).endswith(("id", "key"))):
            guessed.setdefault(_camel(column), column)
        mapped = {field: column for field, column in guessed.items() if field and field != match}
        return Proposal(mapped, unmapped=tuple(c for c in left if c not in mapped.values()))
    fields: dict[str, str] = {}
    unfit: list[Unfit] = []
    references: list[Reference] = []
    unmapped: list[str] = []
    writable = [f for f in info.fields.values() if f.name != match and _writable(f)]
    taken: set[str] = set()
    for column in left:
        named = next(_named(column, info, [f for f in writable if f.name not in taken]), None)
        if named is None:
            unmapped.append(column)
            continue
        taken.add(named.name)
        if named.kind == "id":
            references.append(Reference(named.name, named.reference_to, column))
        elif columns[column] and not takes(named, read_type(columns[column])):
            unfit.append(Unfit(named.name, column, f"{columns[column]} does not fit {named.type}"))
        else:
            fields[named.name] = column
    required = tuple(f.name for f in writable if f.required and f.name not in fields)
    return Proposal(fields, tuple(unfit), tuple(references), required, tuple(unmapped))


def match_fields(info: ObjectInfo) -> list[str]:
    """Fields that a key can be matched on, the likeliest first."""
    able = [f.name for f in info.fields.values() if f.matchable and f.unique and f.creatable and not f.auto_number]
    return sorted(able, key=lambda name: (_plain(name) != "externalid", not name.endswith("__c"), name))


def key_of(columns: Iterable[str], model: str, object_: str) -> str | None:
    """The column that looks like a model's primary key."""
    listed = list(columns)
    by_plain = {_plain(c): c for c in reversed(listed)}
    nouns = (_plain(object_), _singular(_plain(model)), _singular(_plain(model.rpartition("_")[2])))
    for name in (*(f"{noun}id" for noun in nouns), "id", *(f"{noun}key" for noun in nouns), "key"):
        if name in by_plain:
            return by_plain[name]
    return None


def _named(column: str, info: ObjectInfo, fields: list[FieldInfo]) -> Iterator[FieldInfo]:
    """Fields that a column may be meant for, the likeliest first."""
    wanted = _plain(column)
    # An object's own fields are called `name`, and its model's columns `account_name`.
    short = wanted.removeprefix(_plain(info.name)) or wanted
    # `account_id` and `owner_email` tell which record `AccountId` and `OwnerId` point to.
    to = re.sub(r"(id|key|email)$", "", wanted)
    standard_first = sorted(fields, key=lambda f: f.name.endswith("__c"))
    for name in dict.fromkeys((wanted, short)):
        yield from (f for f in standard_first if f.kind != "id" and _plain(f.name) == name)
    if to != wanted:
        yield from (f for f in standard_first if f.kind == "id" and _plain(f.name).removesuffix("id") == to)
        # `parent_account_id` of an account.
        yield from (
            f
            for f in standard_first
            if f.kind == "id" and any(_plain(f.name).removesuffix("id") + _plain(o) == to for o in f.reference_to)
        )
    for name in dict.fromkeys((wanted, short)):
        yield from (f for f in standard_first if f.kind != "id" and _plain(f.label) == name)


def _writable(field: FieldInfo) -> bool:
    made = field.calculated or field.auto_number or field.kind in ("compound", "binary")
    return field.creatable and field.updatable and not made


def _plain(name: str) -> str:
    """What two ways to write a name have in common: `plan`, `Plan__c`."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"__[a-z]{1,3}$", "", name.lower()))


def _singular(name: str) -> str:
    if name.endswith("ies"):
        return f"{name[:-3]}y"
    return name.removesuffix("s")


def _camel(column: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", column) if part)
