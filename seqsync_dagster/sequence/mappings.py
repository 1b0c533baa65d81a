"""Where the value of a destination's field comes from."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from seqsync_dagster.sequence.strict import Strict
from seqsync_dagster.sequence.words import as_tuple

IfMissing = Literal["hold", "send_empty", "reject"]


class ColumnMapping(Strict):
    """A model column's value."""

    column: Annotated[str, Field(description="Column of the model.")]
    nulls: Annotated[
        Literal["clear", "ignore"],
        Field(description="What a null does to the field: `clear` empties it, `ignore` leaves it as it is."),
    ] = "clear"
    write: Annotated[
        Literal["always", "if_empty"],
        Field(
            description="`if_empty` sends the field only where the destination's record holds nothing in it, which is "
            "read before; a new record always gets it."
        ),
    ] = "always"


class ConstantMapping(Strict):
    """The same value for every record."""

    constant: Annotated[str | int | float | bool, Field(description="The value.")]


class ParentLookup(Strict):
    """The record of another sync of this sequence (or of this sync itself: a self-reference)."""

    parent: Annotated[str, Field(description="Name of the sync whose record the field points to.")]
    from_: Annotated[
        tuple[str, ...],
        Field(alias="from", description="Column(s) of this model that hold the parent's key, in its order."),
    ]
    if_missing: Annotated[
        IfMissing,
        Field(description="While the parent has no destination id: `hold` the row, `send_empty`, or `reject` it."),
    ] = "hold"

    nulls: Annotated[
        Literal["clear", "ignore"],
        Field(description="What an empty reference does to the field: `clear` empties it, `ignore` leaves it."),
    ] = "clear"
    deferred: Annotated[
        bool,
        Field(
            description="The sync does not wait for this parent: a row whose parent has no record yet goes without the "
            "field, and `finish` fills it in. For syncs that point at each other; the field must be one that may be "
            "empty and can be updated."
        ),
    ] = False

    _tuple = field_validator("from_", mode="before")(as_tuple)


class OneParent(Strict):
    """One of the parents that a field may point to."""

    parent: Annotated[str, Field(description="Name of the sync whose record the field points to.")]
    from_: Annotated[
        tuple[str, ...],
        Field(alias="from", description="Column(s) of this model that hold that parent's key; null in other rows."),
    ]

    _tuple = field_validator("from_", mode="before")(as_tuple)


class ParentsLookup(Strict):
    """The record of one of several syncs, another one from row to row: a polymorphic reference.

    Every parent has columns of its own, and those that are filled decide. Not a column of types beside one of ids:
    the types would need a table of words for the syncs in YAML, and an answer to a word that is not in it; one
    column of ids could not hold keys of several columns, or of several types; and a column per parent is what a
    model has anyway, or gets by one CASE, and what a dbt test of relationships can be put on.
    """

    parents: Annotated[
        tuple[OneParent, ...],
        Field(description="The parents, each with its own columns. A row with more than one of them is refused."),
    ]
    if_missing: Annotated[
        IfMissing,
        Field(
            description="While the row's parent has no destination id: `hold` the row, `send_empty`, or `reject` it."
        ),
    ] = "hold"
    nulls: Annotated[
        Literal["clear", "ignore"],
        Field(description="What a row without any parent does to the field: `clear` empties it, `ignore` leaves it."),
    ] = "clear"
    deferred: Annotated[
        bool,
        Field(
            description="The sync waits for none of these parents: a row whose parent has no record yet goes without "
            "the field, and `finish` fills it in."
        ),
    ] = False

    @field_validator("parents", mode="before")
    @classmethod
    def _each_with_its_columns(cls, value: Any) -> Any:
        for each in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(each, dict | OneParent):
                raise ValueError(
                    "parents is a list of {parent: SYNC, from: COLUMN}: every parent is found by a column of its own; "
                    f"found {each!r}."
                )
        return value

    @model_validator(mode="after")
    def _several(self) -> ParentsLookup:
        if len(self.parents) < 2:
            raise ValueError(
                "parents lists two syncs or more, of which each row points to one; for a single one say "
                "{parent: SYNC, from: COLUMN}."
            )
        for one, other in permutations(self.parents, 2):
            if one.parent == other.parent:
                raise ValueError(
                    f"parents names {one.parent!r} twice; coalesce its columns in the model, and name it once."
                )
            if set(one.from_) <= set(other.from_):
                raise ValueError(
                    f"{', '.join(one.from_)} is filled for the parent {one.parent!r} wherever "
                    f"{', '.join(other.from_)} is for {other.parent!r}, so that no row could say which it means. "
                    "Give each parent a column of its own, null in the rows of the others."
                )
        return self

    def lookups(self) -> Iterator[ParentLookup]:
        """What the field would be with each of its parents alone."""
        for each in self.parents:
            yield ParentLookup.model_construct(
                parent=each.parent,
                from_=each.from_,
                if_missing=self.if_missing,
                nulls=self.nulls,
                deferred=self.deferred,
            )


class RecordLookup(Strict):
    """A record that no sync writes, found in the destination by one of its fields."""

    lookup: Annotated[str, Field(description="Destination object to search, e.g. `User`.")]
    by: Annotated[str, Field(description="Field of that object to search by, e.g. `Email`.")]
    from_: Annotated[
        str | None, Field(alias="from", description="Column of this model that holds the value to find.")
    ] = None
    value: Annotated[
        str | None, Field(description="The value to find, the same for every record, instead of `from`.")
    ] = None
    if_missing: Annotated[
        IfMissing,
        Field(description="When no record, or more than one, is found: `hold` the row, `send_empty`, or `reject` it."),
    ] = "hold"
    nulls: Annotated[
        Literal["clear", "ignore"],
        Field(description="What an empty reference does to the field: `clear` empties it, `ignore` leaves it."),
    ] = "clear"

    @model_validator(mode="after")
    def _one_source(self) -> RecordLookup:
        if (self.from_ is None) == (self.value is None):
            raise ValueError(
                f"lookup: {self.lookup} needs exactly one of from (a column of the model) and value (the same for "
                "every record)."
            )
        if self.value is not None and not self.value.strip():
            raise ValueError(f"lookup: {self.lookup}: value is blank; say which {self.by} to find.")
        return self


def _mapping_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "name"
    if isinstance(value, dict):
        for kind in ("parent", "parents", "lookup", "constant", "column"):
            if kind in value:
                return kind
    for model, kind in (
        (ParentLookup, "parent"),
        (ParentsLookup, "parents"),
        (RecordLookup, "lookup"),
        (ConstantMapping, "constant"),
        (ColumnMapping, "column"),
    ):
        if isinstance(value, model):
            return kind
    return None


Mapping = Annotated[
    Annotated[str, Tag("name")]
    | Annotated[ColumnMapping, Tag("column")]
    | Annotated[ConstantMapping, Tag("constant")]
    | Annotated[ParentLookup, Tag("parent")]
    | Annotated[ParentsLookup, Tag("parents")]
    | Annotated[RecordLookup, Tag("lookup")],
    Discriminator(
        _mapping_kind,
        custom_error_type="mapping_form",
        custom_error_message=(
            "a field is mapped to a column name, or to one of {column: ...}, {constant: ...}, "
            "{parent: SYNC, from: COLUMN}, {parents: [{parent: SYNC, from: COLUMN}, ...]}, "
            "{lookup: OBJECT, by: FIELD, from: COLUMN} or value: instead of from:"
        ),
    ),
]

FieldMapping = ColumnMapping | ConstantMapping | ParentLookup | ParentsLookup | RecordLookup


def columns_of(mapping: str | FieldMapping) -> set[str]:
    """The model columns that a field's value comes from."""
    match mapping:
        case str():
            return {mapping}
        case ColumnMapping():
            return {mapping.column}
        case ParentLookup():
            return set(mapping.from_)
        case ParentsLookup():
            return set().union(*(each.from_ for each in mapping.parents))
        case RecordLookup():
            return {mapping.from_} if mapping.from_ is not None else set()
        case ConstantMapping():
            return set()
