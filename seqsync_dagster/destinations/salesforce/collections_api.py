"""sObject Collections: up to 200 rows a call, each with its own result, in the order sent.

REST API developer guide, "Using REST API Resources > sObject Collections".
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from seqsync_dagster.destinations.protocol import DEST_ID, SEQ, Answered, Event, InFlight, Outcomes, Request
from seqsync_dagster.destinations.salesforce.connection import CallRefused, Connection, Reply, ReplyLost
from seqsync_dagster.destinations.salesforce.encoding import field_names, json_values
from seqsync_dagster.destinations.salesforce.errors import NOT_WRITTEN, REPLY_LOST, RowError, class_of, row_error
from seqsync_dagster.destinations.salesforce.outcomes import OutcomeRows
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings
from seqsync_dagster.destinations.salesforce.sync_options import read_options
from seqsync_dagster.errors import DestinationError, DestinationUnreachable

ROWS_PER_CALL = 200
#: How often rows that met a lock are tried in all, alone with each other.
_ROW_TRIES = 4
#: Calls a send may spend on finding rows that the org cannot even read. A wrong mapping
#: makes every row such a row, and must not eat the org's daily requests.
_SEARCH_CALLS = 100


class CollectionsSender:
    """Sends rows of one operation on one object."""

    def __init__(self, connection: Connection, settings: SalesforceSettings, request: Request) -> None:
        self._connection = connection
        self._settings = settings
        self._request = request
        self._headers = read_options(request.options).headers()
        self._search_calls = _SEARCH_CALLS
        self._lost_in_a_row = 0
        self._maybe_written: set[int] = set()

    @property
    def _at_most_once(self) -> bool:
        return self._request.operation == "insert" and self._request.match is None

    def send(self, tables: Iterable[pa.Table]) -> Iterator[Event]:
        """Send all rows, announcing each call before it is made.

        Raises `BudgetSpent` before a call that `api_budget` has no room for.
        """
        for chunk in rechunked(tables, ROWS_PER_CALL):
            self._connection.afford(1)
            last_seq = chunk.column(SEQ)[-1].as_py()
            yield InFlight({"api": "collections"}, last_seq=last_seq, resumable=False)
            yield from self.send_rows(chunk)
            if self._lost_in_a_row > 1:
                raise DestinationUnreachable(
                    "salesforce: the replies to two inserts in a row were lost. Their rows are reported as "
                    "unknown; the rest was not sent and goes with the next run."
                )
            yield Answered(last_seq)

    def send_rows(self, chunk: pa.Table, *, repeated: bool = False) -> Iterator[Outcomes]:
        """Send up to 200 rows in one call, and again those that only met a lock.

        With `repeated`, somebody whose replies are not known may have sent them already.
        """
        if repeated:
            self._maybe_written.update(chunk.column(SEQ).to_pylist())
        wait = self._settings.retry_wait_s
        for attempt in range(1, _ROW_TRIES + 1):
            rows = OutcomeRows()
            try:
                locked = self._call(chunk, rows, last=attempt == _ROW_TRIES)
            except DestinationError as error:
                if self._at_most_once:
                    _not_written(chunk, rows, error)
                if rows.seq:
                    yield rows.event()
                raise
            if rows.seq:
                yield rows.event()
            if not locked:
                return
            chunk = chunk.take(pa.array(locked))
            time.sleep(wait)
            wait *= 2

    def _call(self, chunk: pa.Table, rows: OutcomeRows, *, last: bool) -> list[int]:
        """Send `chunk`, add to `rows`, and hand back the positions worth another try."""
        seqs = chunk.column(SEQ).to_pylist()
        ids = chunk.column(DEST_ID).to_pylist() if DEST_ID in chunk.column_names else [None] * len(seqs)
        try:
            reply = self._write(chunk, ids)
            results = self._results(reply, len(seqs))
        except ReplyLost as lost:
            self._lost_in_a_row += 1
            for seq in seqs:
                rows.reject(seq, None, RowError(REPLY_LOST, str(lost)), "unknown")
            return []
        except CallRefused as refusal:
            return self._search(chunk, rows, refusal, last=last)
        self._lost_in_a_row = 0
        return self._read(results, seqs, ids, rows, repeated=reply.repeated, last=last)

    def _results(self, reply: Reply, sent: int) -> list[dict[str, Any]]:
        try:
            results = reply.json()
        except DestinationUnreachable:
            results = None
        if isinstance(results, list) and len(results) == sent:
            return results
        got = f"{len(results)} results" if isinstance(results, list) else "something else"
        text = (
            f"salesforce: a Collections call for {sent} rows of {self._request.object} was answered "
            f"with {got}, so no result can be told from another."
        )
        if self._at_most_once:
            raise ReplyLost(text)
        raise DestinationUnreachable(f"{text} The rows stay due.")

    def _write(self, chunk: pa.Table, ids: list[str | None]) -> Reply:
        request, connection = self._request, self._connection
        path = "composite/sobjects"
        if request.operation == "delete":
            # Deleting again what is deleted changes nothing.
            params = {"ids": ",".join(str(i) for i in ids), "allOrNone": "false"}
            return connection.call("DELETE", path, params=params)
        body = {"allOrNone": False, "records": self._records(chunk, ids)}
        if request.operation == "insert":
            again = request.match is not None
            return connection.call("POST", path, json=body, headers=self._headers, repeatable=again)
        if request.operation == "upsert":
            path += f"/{request.object}/{request.match}"
        return connection.call("PATCH", path, json=body, headers=self._headers)

    def _records(self, chunk: pa.Table, ids: list[str | None]) -> list[dict[str, Any]]:
        request = self._request
        records: list[dict[str, Any]] = [{"attributes": {"type": request.object}} for _ in ids]
        if request.operation == "update":
            for record, dest_id in zip(records, ids, strict=True):
                record["id"] = dest_id
        for name in field_names(chunk):
            values = json_values(chunk.column(name), name, request.match)
            for record, value in zip(records, values, strict=True):
                if value is not None or name not in request.ignore_nulls:
                    record[name] = value
        return records

    def _read(
        self,
        results: list[dict[str, Any]],
        seqs: list[int],
        ids: list[str | None],
        rows: OutcomeRows,
        *,
        repeated: bool,
        last: bool,
    ) -> list[int]:
        operation = self._request.operation
        again: list[int] = []
        for position, result in enumerate(results):
            seq = seqs[position]
            dest_id = result.get("id") or ids[position]
            # An earlier try whose reply was lost may have created what this one updates, or finds there.
            maybe_written = repeated or seq in self._maybe_written
            if result.get("success"):
                created = operation == "insert" or bool(result.get("created"))
                unsure = maybe_written and operation == "upsert" and not created
                rows.acknowledge(seq, str(dest_id), None if unsure else created)
                continue
            error = row_error(result.get("errors"))
            error_class = class_of(error, operation)
            if error_class == "retry_now" and not last:
                again.append(position)
                if repeated:
                    self._maybe_written.add(seq)
            else:
                not_ours = operation == "insert" and self._request.match is not None and not maybe_written
                rows.reject(seq, dest_id, error, error_class, created=False if not_ours else None)
        return again

    def _search(self, chunk: pa.Table, rows: OutcomeRows, refusal: CallRefused, *, last: bool) -> list[int]:
        """Halve a call that the org could not read until the unreadable rows stand alone."""
        if refusal.code != "JSON_PARSER_ERROR" or self._search_calls <= 0:
            raise refusal
        if chunk.num_rows == 1:
            seq = chunk.column(SEQ)[0].as_py()
            rows.reject(seq, None, RowError(refusal.code, refusal.words), "fix_row")
            return []
        self._search_calls -= 2
        half = chunk.num_rows // 2
        left = self._call(chunk.slice(0, half), rows, last=last)
        right = self._call(chunk.slice(half), rows, last=last)
        return left + [half + position for position in right]


def _not_written(chunk: pa.Table, rows: OutcomeRows, error: DestinationError) -> None:
    """Say of the rows of a call that was refused, or never arrived, that they were not written.

    Otherwise they would be taken for rows of which nobody knows; those have had their outcome as `ReplyLost`.
    """
    told = set(rows.seq)
    for seq in chunk.column(SEQ).to_pylist():
        if seq not in told:
            rows.reject(seq, None, RowError(NOT_WRITTEN, str(error)), "retry_now")


def rechunked(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows each, the last one shorter."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        start = 0
        while start < table.num_rows:
            part = table.slice(start, rows - count)
            held.append(part)
            start += part.num_rows
            count += part.num_rows
            if count == rows:
                yield pa.concat_tables(held, promote_options="permissive")
                held, count = [], 0
    if held:
        yield pa.concat_tables(held, promote_options="permissive")
