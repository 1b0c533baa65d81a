"""Answers that an org gives rarely, from a stand-in for the connection or for the CSV."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import pyarrow as pa
import pytest

from seqsync_dagster.destinations.protocol import Request
from seqsync_dagster.destinations.salesforce import bulk_parts
from seqsync_dagster.destinations.salesforce.collections_api import CollectionsSender
from seqsync_dagster.destinations.salesforce.connection import CallRefused, Connection, Reply
from seqsync_dagster.destinations.salesforce.encoding import to_table
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings
from seqsync_dagster.errors import DestinationRefused, DestinationUnreachable
from seqsync_dagster_tests.destinations.salesforce.conftest import Connect
from seqsync_dagster_tests.destinations.salesforce.sending import Sent, accounts, drain, upsert
from seqsync_dagster_tests.emulator_process import EmulatorProcess

Answer = Callable[[list[dict[str, Any]]], object]
SETTINGS = SalesforceSettings(url="http://127.0.0.1:9", session_id="x", retry_wait_s=0)


class ScriptedConnection:
    """Answers Collections calls as told."""

    def __init__(self, answer: Answer, repeated: bool = False) -> None:
        self._answer, self._repeated = answer, repeated
        self.calls = 0

    def afford(self, calls: int) -> None:
        pass

    def call(self, method: str, path: str, *, json: Any, **options: Any) -> Reply:
        self.calls += 1
        return Reply(content=_dumps(self._answer(json["records"])), repeated=self._repeated)


def _dumps(answer: object) -> bytes:
    return answer if isinstance(answer, bytes) else json.dumps(answer).encode()


def ok(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": f"001{r['External_Id__c']}", "success": True, "errors": [], "created": False} for r in records]


def send(connection: ScriptedConnection, rows: int, operation: str = "upsert", into: Sent | None = None) -> Sent:
    # With a match field an insert that is sent again meets its own record.
    match = None if operation == "insert" else "External_Id__c"
    request = Request("Account", cast(Any, operation), match, rows)
    sender = CollectionsSender(cast(Connection, connection), SETTINGS, request)
    return drain(sender.send([to_table(accounts(rows))]), into)


def unreadable(*bad: int) -> Answer:
    """A call with one of these rows is refused whole, as for a value that is no JSON of its type."""
    names = {f"A{n:06}" for n in bad}

    def answer(records: list[dict[str, Any]]) -> object:
        if names & {r["External_Id__c"] for r in records}:
            raise CallRefused("refused", 400, "JSON_PARSER_ERROR", "Cannot deserialize instance of date")
        return ok(records)

    return answer


def test_one_unreadable_row_does_not_block_its_call() -> None:
    connection = ScriptedConnection(unreadable(3, 150))
    sent = send(connection, 300)
    assert sent.rejected() == dict.fromkeys((3, 150), ("JSON_PARSER_ERROR", "fix_row"))
    assert sent.acknowledged() == set(range(300)) - {3, 150}
    assert connection.calls < 40


def test_a_mapping_that_is_unreadable_everywhere_gives_up_soon() -> None:
    connection = ScriptedConnection(unreadable(*range(2000)))
    sent = Sent()
    with pytest.raises(DestinationRefused):
        send(connection, 2000, into=sent)
    assert connection.calls <= 102
    assert sent.acknowledged() == set()


@pytest.mark.parametrize("answer", [lambda records: ok(records)[1:], lambda records: {}, lambda records: b"<html>"])
def test_results_that_cannot_be_told_apart_are_not_guessed(answer: Answer) -> None:
    with pytest.raises(DestinationUnreachable, match=r"for 5 rows of Account was answered with .*stay due"):
        send(ScriptedConnection(answer), 5)
    sent = send(ScriptedConnection(answer), 5, "insert")
    assert set(sent.rejected().values()) == {("SEQSYNC_REPLY_LOST", "unknown")} and len(sent.rows) == 5


def test_outcomes_known_before_trouble_are_told() -> None:
    def locked_once(records: list[dict[str, Any]]) -> object:
        if len(records) == 1:
            return []
        error = {"statusCode": "UNABLE_TO_LOCK_ROW", "message": "unable to obtain exclusive access", "fields": []}
        return [{"success": False, "errors": [error]}, *ok(records)[1:]]

    sent = Sent()
    with pytest.raises(DestinationUnreachable):
        send(ScriptedConnection(locked_once), 5, into=sent)
    assert sent.acknowledged() == {1, 2, 3, 4}


def test_who_created_a_row_is_not_said_after_a_lost_reply() -> None:
    sent = send(ScriptedConnection(ok, repeated=True), 2)
    assert [row["created"] for row in sent.rows.values()] == [None, None]


def test_a_job_that_fails_midway_leaves_its_rest_due(
    connect: Connect, emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = bulk_parts._csv

    def broken(texts: pa.Table, request: Request, *, header: bool) -> bytes:
        return encode(texts, request, header=header).replace(b'"A002500","', b'"A002500","too many","')

    monkeypatch.setattr(bulk_parts, "_csv", broken)
    sent = Sent()
    with pytest.raises(DestinationRefused, match=r"failed before it came to 500 of its rows: .*the next run"):
        drain(connect(collections_up_to=0, bulk_part_rows=3000).send(upsert(4000), [accounts(4000)]), sent)
    written = {int(key[1:]) for key in emulator.by_external_id("Account")}
    assert sent.acknowledged() == written
    assert set(range(3000, 4000)) < written and 2500 not in written
    assert any("were not processed" in p.text and "they stay due" in p.text for p in sent.progress)
