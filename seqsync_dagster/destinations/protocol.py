"""What the engine asks of a destination, and what it gets back.

Rows travel as pandas DataFrames with Arrow dtypes, so that decimals, nullable
integers and time zones survive. The engine never learns which of its APIs a
destination used: it hands over frames and reads events.

The rule that makes a kill harmless: **every event is durable in the journal
before the generator that yielded it is resumed.** A destination therefore
yields `InFlight` before anything irrevocable, and `Outcomes` as soon as the
destination has given its word on rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa

from seqsync_dagster.sequence.options import OptionRemark

if TYPE_CHECKING:
    # Half a second of import that a code location need not pay.
    import pandas as pd

Operation = Literal["upsert", "insert", "update", "delete"]

#: What a rejection asks for.
#:   retry_now    transient; was retried within the send and still failed (row locks, 5xx)
#:   retry_later  transient for longer (limits spent)
#:   fix_row      the row's own values are refused
#:   fix_mapping  field, permission or type is wrong for every row
#:   gone         the record this row was acknowledged as no longer exists
#:   unknown      the reply was lost and sending again could write twice
ErrorClass = Literal["retry_now", "retry_later", "fix_row", "fix_mapping", "gone", "unknown"]

#: What a field holds, in terms that destinations share.
#:   text      any text; numbers, dates and booleans are taken as their text
#:   id        the id of a record: a lookup, or the record's own
#:   compound  made of other fields, which are written in its stead
#:   unknown   nothing is known of it, and nothing is asked
FieldKind = Literal[
    "text", "id", "boolean", "integer", "number", "date", "datetime", "time", "binary", "compound", "unknown"
]

#: Columns that the engine adds to a frame; every other column is a destination field.
SEQ = "seq"  # int64: the row's number in the plan, ascending over all frames
DEST_ID = "dest_id"  # string: the acknowledged destination id (update, delete); absent otherwise

#: Columns and types of an outcomes frame, in this order.
OUTCOME_SCHEMA = pa.schema(
    [
        ("seq", pa.int64()),
        ("dest_id", pa.string()),  # null when a create was rejected
        # null when a repeated send hides who created it, and when rejected
        ("created", pa.bool_()),
        ("code", pa.string()),  # null = acknowledged
        ("message", pa.string()),  # the destination's own words
        ("error_class", pa.string()),  # an ErrorClass; null = acknowledged
    ]
)


@dataclass(frozen=True)
class FieldInfo:
    """One field of a destination object, as its describe tells it."""

    name: str
    label: str
    type: str
    """The destination's own type name, e.g. ``string``, ``double``, ``reference``."""
    length: int = 0
    precision: int = 0
    scale: int = 0
    creatable: bool = True
    updatable: bool = True
    required: bool = False
    """A create without a value is refused."""
    clearable: bool = True
    """A record may hold nothing here."""
    matchable: bool = False
    """May serve as `match`: an external id or idLookup field."""
    case_sensitive: bool = False
    """Two values that differ only in case are different values of this field."""
    reference_to: tuple[str, ...] = ()
    """Objects that a lookup may point to; several for a polymorphic one."""
    picklist: tuple[str, ...] = ()
    """The values that are offered; others are refused only when `restricted_picklist`."""
    restricted_picklist: bool = False
    kind: FieldKind = "unknown"
    unique: bool = False
    """No two records have the same value."""
    tells_apart: bool = False
    """Not unique, but no two of the records that `Destination.find` looks among for a field have the same value."""
    calculated: bool = False
    """The destination computes it (a formula)."""
    auto_number: bool = False
    """The destination counts it."""
    filterable: bool = True
    """Records can be searched by it."""
    separator: str = ""
    """What parts the values of a picklist that takes several; empty when it takes one."""


@dataclass(frozen=True)
class ObjectInfo:
    """One destination object, as its describe tells it."""

    name: str
    label: str
    fields: Mapping[str, FieldInfo]
    creatable: bool = True
    updatable: bool = True
    deletable: bool = True


@dataclass(frozen=True)
class Account:
    """Who the destination says we are connected to. `id` is part of a ledger's identity."""

    id: str
    name: str
    url: str
    sandbox: bool | None = None
    """Not a production account; None when the destination has no such notion."""


@dataclass(frozen=True)
class Request:
    """One operation on one object for a run of planned rows."""

    object: str
    operation: Operation
    match: str | None
    """Field that an upsert matches on, and by which an insert that is sent again finds what is there: then no record
    is created twice, and a row whose record is there already is acknowledged as not created. A column of every frame
    then. An insert without one is sent once at most: rows of which nobody knows are rejected as `unknown`.
    """
    rows: int
    """How many rows the frames will yield, at most: a destination may choose its API by it."""
    ignore_nulls: tuple[str, ...] = ()
    """Columns where a null leaves the field as it is; in every other column a null clears it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The sync's `options`, which `remarks` found fit: how this destination is to write."""


@dataclass(frozen=True)
class InFlight:
    """Rows up to `last_seq` are about to be sent; `token` finds them again after a kill.

    Rows between the previous InFlight's `last_seq` and this one's belong to it.
    A later InFlight with the same `last_seq` replaces this one's token.
    """

    token: Mapping[str, object]
    last_seq: int
    resumable: bool = True
    """Whether the destination can say later what became of these rows."""


@dataclass(frozen=True)
class Answered:
    """The destination has had its last word on all rows up to `last_seq`, that of an earlier InFlight.

    Until then the rows of that InFlight are under way, though others may have been announced after them.
    """

    last_seq: int


@dataclass(frozen=True)
class Outcomes:
    """The destination's word on some rows: a frame with the columns of OUTCOME_SCHEMA."""

    frame: pd.DataFrame


@dataclass(frozen=True)
class Progress:
    """How far a long send is; for the log only."""

    text: str
    done: int | None = None
    total: int | None = None


Event = InFlight | Outcomes | Answered | Progress


class CallLedger(Protocol):
    """A count of API calls over 24 hours that all syncs and processes of a connection share, and that lasts."""

    def add(self, calls: int) -> None:
        """Count `calls` more; a negative number gives calls back that were taken and not made."""
        ...

    def take(self, calls: int, most: int) -> int:
        """Count `calls` more unless that makes more than `most`, in one step; the number before."""
        ...


@dataclass
class CallCount:
    """API calls made so far: all of them, and those that carried rows to be written."""

    total: int = 0
    row_bearing: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    ledger: CallLedger | None = field(default=None, repr=False, compare=False)
    """Where a destination with a limit of its own counts for everybody; the engine provides it."""

    def add(self, kind: str, *, row_bearing: bool = False) -> None:
        """Count one call of a kind such as ``describe`` or ``bulk upload``."""
        self.total += 1
        self.row_bearing += row_bearing
        self.by_kind[kind] = self.by_kind.get(kind, 0) + 1


class Destination(Protocol):
    """A tool with hierarchical objects that rows can be sent to.

    Every method may raise `DestinationUnreachable` or `DestinationRefused`;
    a refusal of a single row is never an exception but an outcome. `send` may
    raise `BudgetSpent` too, before an `InFlight`: when every row announced so
    far has had its outcome.
    """

    calls: CallCount

    def account(self) -> Account:
        """Who we are connected to. Cached after the first call."""
        ...

    def describe(self, object: str) -> ObjectInfo:
        """The object's fields; `DestinationRefused` names the nearest object when there is none."""
        ...

    def remarks(self, object: str, options: Mapping[str, Any]) -> Sequence[OptionRemark]:
        """What is wrong, or worth knowing, about a sync's options for this object. Asks nobody."""
        ...

    def find(
        self, object: str, by: str, values: pa.Array, *, filling: tuple[str, str] | None = None
    ) -> Iterator[pa.Table]:
        """Ids of records whose field `by` equals one of `values`, each distinct text.

        `filling`: object and field that they are to fill. Where a record is meant for the
        records of one object, as a record type is, only those meant for this one are found.
        A record that the field cannot take has its reason in the column ``unusable``, which
        may be absent: ``is inactive and ...``.

        Yields tables with columns ``value`` (the one asked for, verbatim) and
        ``dest_id``; a value without a record is absent, one with several
        records stands in several rows.
        """
        ...

    def read_matching(
        self,
        object: str,
        by: Sequence[str],
        fields: Sequence[str],
        values: Iterable[pa.Array],
        rows: int,
        *,
        empty: str | None = None,
    ) -> Iterator[pa.Table]:
        """Records whose field `by[0]` equals one of `values`, and what they hold now.

        `values` yields about `rows` texts, lazily and once; with `empty` only records are meant that have no value
        in that field. Yields tables with the columns ``dest_id``, ``by:<field>`` for each of `by` (the text by which
        a key finds it) and one per field, as `read_back` does. Others than those asked for may be among them: where
        that takes fewer calls, all records are read.
        """
        ...

    def read_back(self, object: str, fields: Sequence[str], ids: pa.Array) -> Iterator[pa.Table]:
        """What the records with these ids hold now.

        Yields tables with the column ``dest_id`` (as asked for) and one column of text per
        field, in the form of `as_stored`. A record that was deleted, or that this user may
        not see, is absent; so is a field that cannot be compared with what was sent.
        """
        ...

    def as_stored(self, object: str, sent: pa.Table) -> pa.Table:
        """The text in which `read_back` gives these values back when nobody changed them.

        `sent` has one column per field, as a frame has. Values are equal to the
        destination when their texts are, whatever it made of their form: trimmed text,
        rounded numbers, times without their zone. A field that cannot be compared is absent.
        """
        ...

    def calls_for(self, request: Request) -> int:
        """About how many API calls `send` would make for the request, if all goes well. Asks nobody."""
        ...

    def send(self, request: Request, frames: Iterable[pd.DataFrame]) -> Iterator[Event]:
        """Send the frames in order, yielding what happens (see the module's rule).

        `frames` is read lazily and once. When the generator ends, every row has
        had an outcome, or its fate is unknown to the destination and it stays due.
        """
        ...

    def resume(self, token: Mapping[str, object], request: Request, frames: Iterable[pd.DataFrame]) -> Iterator[Event]:
        """Find out what became of rows that were in flight when an earlier run died.

        `frames` yields those rows again. Ends with `Answered` when rows
        without an outcome were not written; otherwise nobody knows.
        Raises `DestinationStillBusy` when they are still being worked on.
        """
        ...

    def object_url(self, object: str) -> str:
        """Page that lists an object's records, for a person. Makes no call."""
        ...

    def record_url(self, object: str, dest_id: str) -> str:
        """Where a person can look at the record."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...
