"""Salesforce as a Destination."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from seqsync_dagster.destinations.protocol import (
    Account,
    CallCount,
    Event,
    FieldInfo,
    ObjectInfo,
    Outcomes,
    Request,
)
from seqsync_dagster.destinations.salesforce.budget import BULK_JOB_CALLS
from seqsync_dagster.destinations.salesforce.bulk_api import BulkSender
from seqsync_dagster.destinations.salesforce.collections_api import ROWS_PER_CALL, CollectionsSender
from seqsync_dagster.destinations.salesforce.connection import Connection
from seqsync_dagster.destinations.salesforce.describe import describe_object, nearest_name
from seqsync_dagster.destinations.salesforce.encoding import (
    field_names,
    is_number_or_boolean,
    numbers_as_text,
    to_table,
)
from seqsync_dagster.destinations.salesforce.matching import read_matching
from seqsync_dagster.destinations.salesforce.query import find_records, soql_text
from seqsync_dagster.destinations.salesforce.read_back import read_records, stored_texts
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings
from seqsync_dagster.destinations.salesforce.sync_options import read_options, remarks
from seqsync_dagster.errors import DestinationRefused, OtherDestination
from seqsync_dagster.sequence.options import OptionRemark

if TYPE_CHECKING:
    import pandas as pd

_FIND_ROWS = 10_000


class SalesforceDestination:
    """One Salesforce org. Nothing is read or connected before the first call.

    `environment` names one that must not reach a production org; None: any org will do.
    """

    def __init__(self, settings: SalesforceSettings, name: str, environment: str | None = None) -> None:
        self._environment = environment
        self.calls = CallCount()
        self._settings = settings
        self._name = name
        self._connected: Connection | None = None
        self._account: Account | None = None
        self._objects: dict[str, ObjectInfo] = {}

    def __repr__(self) -> str:
        return f"SalesforceDestination({self._name!r})"

    def account(self) -> Account:
        """The org: its id, name and address. Raises `OtherDestination` for one that this environment must not use."""
        if self._account is None:
            asked = "SELECT Id, Name, IsSandbox, OrganizationType FROM Organization"
            org = next(iter(self._connection.query(asked, "asking who the org is")))
            # A Developer Edition org is nobody's production, and no sandbox either ("Organization" of the Object
            # Reference).
            sandbox = bool(org["IsSandbox"]) or org["OrganizationType"] == "Developer Edition"
            account = Account(id=org["Id"], name=org["Name"], url=self._connection.url, sandbox=sandbox)
            if self._environment is not None and not sandbox and not self._settings.allow_production:
                raise OtherDestination(
                    f"this is the environment {self._environment!r}, and the connection {self._name!r} leads to the "
                    f"production org {account.name} ({account.id}). Nothing was sent. Point the connection to a "
                    "sandbox, set SEQSYNC_ENVIRONMENT=prod where production runs, or give the connection "
                    "allow_production: true."
                )
            self._account = account
        return self._account

    def describe(self, object: str) -> ObjectInfo:
        """The object's fields, asked for once."""
        if object not in self._objects:
            self._objects[object] = describe_object(self._connection, object)
        return self._objects[object]

    def remarks(self, object: str, options: Mapping[str, Any]) -> Sequence[OptionRemark]:
        """What is wrong, or worth knowing, about a sync's options."""
        return list(remarks(object, options, self._settings.api_version))

    def find(
        self, object: str, by: str, values: pa.Array, *, filling: tuple[str, str] | None = None
    ) -> Iterator[pa.Table]:
        """Ids of records whose field `by` equals one of `values`."""
        field = self._field(object, by)
        among, unless = "", None
        if filling is not None and object.lower() == "recordtype":
            # A developer name is unique among the record types of one object ("RecordType" of the Object Reference).
            among = f"SobjectType = {soql_text(filling[0])}"
        if filling is not None and object.lower() == "user" and filling[1].lower() == "ownerid":
            # Other lookups may hold an inactive user.
            unless = ("IsActive", "is inactive and can own nothing: activate the user, or name another one")
        distinct = values.unique()
        for start in range(0, len(distinct), _FIND_ROWS):
            yield from find_records(
                self._connection, object, field, distinct.slice(start, _FIND_ROWS).to_pylist(), among, unless
            )

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
        """Records by the values of a field, by lists of values or all of them, whichever takes fewer calls."""
        keys, held = ([self._field(object, f) for f in names] for names in (by, fields))
        vacant = None if empty is None else self._field(object, empty)
        return read_matching(self._connection, object, keys, held, values, rows, vacant)

    def read_back(self, object: str, fields: Sequence[str], ids: pa.Array) -> Iterator[pa.Table]:
        """What the records with these ids hold now, by paged SOQL."""
        return read_records(self._connection, object, [self._field(object, f) for f in fields], ids)

    def as_stored(self, object: str, sent: pa.Table) -> pa.Table:
        """The text in which Salesforce gives these values back."""
        return stored_texts([self._field(object, f) for f in sent.column_names], sent)

    def calls_for(self, request: Request) -> int:
        """About how many calls the rows take: 200 a call, or Bulk jobs with what each needs at least."""
        if self._by_collections(request):
            return math.ceil(request.rows / ROWS_PER_CALL)
        return math.ceil(request.rows / self._settings.bulk_part_rows) * BULK_JOB_CALLS

    def send(self, request: Request, frames: Iterable[pd.DataFrame]) -> Iterator[Event]:
        """Send the frames: few rows through Collections, many through Bulk API 2.0."""
        tables = map(to_table, frames)
        if self._by_collections(request):
            readable = (self._readable(request, table) for table in tables)
            events = CollectionsSender(self._connection, self._settings, request).send(readable)
        else:
            events = BulkSender(self._connection, self._settings, request).send(tables)
        return self._told_apart(request, events)

    def resume(self, token: Mapping[str, object], request: Request, frames: Iterable[pd.DataFrame]) -> Iterator[Event]:
        """Read the results of a Bulk job that an earlier run left.

        A Collections call leaves nothing to ask about: its rows get no outcome.
        """
        if token.get("api") != "bulk":
            return
        sender = BulkSender(self._connection, self._settings, request)
        yield from self._told_apart(request, sender.resume(token, map(to_table, frames)))

    def record_url(self, object: str, dest_id: str) -> str:
        """The record's page; Salesforce sends the reader on to Lightning."""
        # A login may have told another address than the configured one.
        url = self._settings.read_url() if self._connected is None else self._connected.url
        return f"{url}/{dest_id}"

    def object_url(self, object: str) -> str:
        """The page that lists the object's records ("PageReference Types", standard__objectPage)."""
        url = self._settings.read_url() if self._connected is None else self._connected.url
        return f"{url}/lightning/o/{object}/list"

    def close(self) -> None:
        """Close the connections."""
        if self._connected is not None:
            self._connected.close()

    def _by_collections(self, request: Request) -> bool:
        # Without a match field Bulk results name no row of an insert: there is no id to know it by.
        few = request.rows <= self._settings.collections_up_to
        unnamed = request.operation == "insert" and request.match is None
        return few or unnamed or read_options(request.options).collections_only

    @property
    def _connection(self) -> Connection:
        if self._connected is None:
            self._connected = Connection(self._settings, self._name, self.calls)
        return self._connected

    def _field(self, object: str, name: str) -> FieldInfo:
        fields = self.describe(object).fields
        if name not in fields:
            raise DestinationRefused(f"Salesforce {object} has no field '{name}'. {nearest_name(name, fields)}")
        return fields[name]

    def _readable(self, request: Request, table: pa.Table) -> pa.Table:
        """The table as the fields of the object can read its JSON."""
        named = [n for n in field_names(table) if is_number_or_boolean(table.schema.field(n).type)]
        if request.operation == "delete" or not named:
            return table
        fields = self.describe(request.object).fields
        return numbers_as_text(table, [n for n in named if n in fields and fields[n].kind == "text"])

    def _told_apart(self, request: Request, events: Iterator[Event]) -> Iterator[Event]:
        """The events, with updates called gone only where the record really is, and inserts acknowledged where it was.

        The org has the same words for an update of a deleted record and for
        one whose lookup points to a deleted record.
        """
        for event in events:
            if request.operation == "update" and isinstance(event, Outcomes):
                yield self._without_false_gone(request, event)
            elif request.operation == "insert" and request.match is not None and isinstance(event, Outcomes):
                yield self._with_records_there(request, event)
            else:
                yield event

    def _with_records_there(self, request: Request, event: Outcomes) -> Outcomes:
        """An insert whose key stands in a record already, our own of a send whose reply was lost, is as good as done.

        The refusal names the record ("duplicate value found: FIELD duplicates value on record with id: ID"), and its
        outcome says whether that must be somebody else's.
        """
        frame = event.frame
        said = f"duplicate value found: {request.match} duplicates value on record with id: "
        suspects = ((frame["code"] == "DUPLICATE_VALUE") & frame["message"].str.startswith(said)).fillna(False)
        if not suspects.any():
            return Outcomes(frame.assign(created=frame["created"].mask(frame["code"].notna())))
        named = frame["message"].str.slice(len(said)).str.slice(0, 15)
        there: dict[str, str] = {}
        for table in self.find(request.object, "Id", pa.array(named[suspects].tolist(), pa.string())):
            there |= dict(zip(table["value"].to_pylist(), table["dest_id"].to_pylist(), strict=True))
        known = suspects & named.isin(list(there))
        return Outcomes(
            frame.assign(
                dest_id=frame["dest_id"].mask(known, named.map(there).astype(frame["dest_id"].dtype)),
                # Of a row that stays refused it says nothing.
                created=frame["created"].mask(frame["code"].notna() & ~known),
                **{column: frame[column].mask(known) for column in ("code", "message", "error_class")},
            )
        )

    def _without_false_gone(self, request: Request, event: Outcomes) -> Outcomes:
        frame = event.frame
        suspects = (frame["error_class"] == "gone").fillna(False)
        if not suspects.any():
            return event
        ids = pa.array(frame.loc[suspects, "dest_id"].tolist(), pa.string())
        found = [table.column("value") for table in self.find(request.object, "Id", ids)]
        there = {value for column in found for value in column.to_pylist()}
        lives = suspects & frame["dest_id"].isin(there)
        return Outcomes(frame.assign(error_class=frame["error_class"].mask(lives, "fix_row")))
