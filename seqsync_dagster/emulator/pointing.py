"""What a lookup's number stands for: a record of the object it refers to, or of another one it may point to besides.

A number counts on from the one before it: those of the first object are its records' own, as in a lookup that points
to one object only, so that files of earlier versions mean what they meant.
"""

from __future__ import annotations

from collections.abc import Iterator

from seqsync_dagster.emulator.ids import ELSEWHERE, IdSpace, WrongTypeError
from seqsync_dagster.emulator.schema import OBJECTS, Field, SObject

#: More than any id has numbers: ten base-62 digits. Ten objects fit into the 63 bits of SQLite's integers.
_OBJECT = 62**10


def places(lookup: Field) -> Iterator[tuple[SObject, int]]:
    """The objects of this org that a lookup may point to, each with what is added to its records' numbers."""
    for place, name in enumerate((lookup.refers, *lookup.others)):
        if name in OBJECTS:
            yield OBJECTS[name], place * _OBJECT


def pointed_at(lookup: Field, number: int) -> tuple[SObject, int]:
    """The object and the record's own number."""
    return next((obj, number - first) for obj, first in places(lookup) if first <= number < first + _OBJECT)


def number_of(lookup: Field, obj: SObject, record: int) -> int:
    """The other way round."""
    return next(first for other, first in places(lookup) if other is obj) + record


def read_id(ids: IdSpace, lookup: Field, text: str) -> int:
    """The number behind an id of any object that the lookup may point to.

    Raises `MalformedIdError`, and `WrongTypeError` for the id of another object.
    """
    for obj, first in places(lookup):
        try:
            record = ids.decode(text, obj.prefix)
        except WrongTypeError:
            continue
        return record if record == ELSEWHERE else first + record
    raise WrongTypeError(text)


def write_id(ids: IdSpace, lookup: Field, number: int) -> str:
    """The id behind a number."""
    obj, record = pointed_at(lookup, number)
    return ids.encode(obj.prefix, record)


def lookups_to(parent: str) -> list[tuple[SObject, Field, int]]:
    """Every lookup that may point at an object, with the object that has it, and what is added to a record's number."""
    return [
        (child, lookup, first)
        for child in OBJECTS.values()
        for lookup in child.fields.values()
        if parent in (lookup.refers, *lookup.others)
        for obj, first in places(lookup)
        if obj.name == parent
    ]
