"""Both APIs against an org: every row's fate, told by the right seq."""

from __future__ import annotations

import datetime as dt
import random
import traceback
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from seqsync_dagster.destinations.protocol import Request
from seqsync_dagster.destinations.salesforce.destination import SalesforceDestination
from seqsync_dagster.errors import DestinationError, DestinationRefused, DestinationUnreachable
from seqsync_dagster_tests.destinations.salesforce.conftest import Connect
from seqsync_dagster_tests.destinations.salesforce.sending import Sent, accounts, drain, frame, upsert
from seqsync_dagster_tests.emulator_process import EmulatorProcess


@pytest.fixture(params=["collections", "bulk"])
def api(request: pytest.FixtureRequest, connect: Connect) -> SalesforceDestination:
    """A destination that sends everything through one of the two APIs."""
    return connect(collections_up_to=0 if request.param == "bulk" else 10**6)


def uses_bulk(sent: Sent) -> bool:
    return {str(f.token["api"]) for f in sent.in_flight} == {"bulk"}


def test_upsert_creates_and_then_updates(api: SalesforceDestination, emulator: EmulatorProcess) -> None:
    first = drain(api.send(upsert(450), [accounts(300), accounts(450)[300:]]))
    assert first.acknowledged() == set(range(450))
    assert {row["created"] for row in first.rows.values()} == {True}
    records = emulator.by_external_id("Account")
    assert {f"A{seq:06}": row["dest_id"] for seq, row in first.rows.items()} == {k: r["Id"] for k, r in records.items()}
    again = drain(api.send(upsert(450), [accounts(450)]))
    assert {row["created"] for row in again.rows.values()} == {False}
    assert [again.rows[n]["dest_id"] for n in range(450)] == [first.rows[n]["dest_id"] for n in range(450)]
    assert len(emulator.records("Account")) == 450
    assert first.repeated == again.repeated == 0


def test_refused_rows_are_told_by_seq_and_block_nobody(api: SalesforceDestination) -> None:
    rows = accounts(1000)
    bad = set(random.Random(4).sample(range(1000), 37))
    rows["Name"] = [None if n in bad else name for n, name in enumerate(rows["Name"])]
    sent = drain(api.send(upsert(1000), [rows.astype({"Name": "string[pyarrow]"})]))
    assert sent.rejected() == dict.fromkeys(bad, ("REQUIRED_FIELD_MISSING", "fix_row"))
    assert sent.acknowledged() == set(range(1000)) - bad
    row = sent.rows[min(bad)]
    assert row["dest_id"] is None and row["created"] is None
    assert row["message"] == "Required fields are missing: [Name]"


TEXTS = [
    'quote " and "" two',
    "comma, semicolon; tab\there",
    "line\nfeed",
    "  spaces around  ",
    "emoji 🦊 and é",
    "00042",
    "O'Hara \\ back",
    "line\u2028separator\u0085next",
    "=1+1",
    "null",
]


def test_texts_arrive_as_they_were(api: SalesforceDestination, emulator: EmulatorProcess) -> None:
    rows = accounts(len(TEXTS) + 1, Description=[*TEXTS, "win\r\nold mac\rend"])
    drain(api.send(upsert(len(rows)), [rows]))
    records = emulator.by_external_id("Account")
    arrived = [records[key]["Description"] for key in rows["External_Id__c"]]
    assert [a.strip(" ") for a in arrived] == [t.strip(" ") for t in [*TEXTS, "win\nold mac\nend"]]


def test_match_values_of_any_text_are_recognised(api: SalesforceDestination) -> None:
    keys = ['q"uote', "comma,", "émoji🦊", "0007", "it's", "u\u2028x\u0085y", "back\\slash", "7"]
    rows = frame({"External_Id__c": keys, "Name": keys})
    sent = drain(api.send(upsert(len(keys)), [rows]))
    assert sent.acknowledged() == set(range(len(keys)))


def test_values_keep_their_types(api: SalesforceDestination, emulator: EmulatorProcess) -> None:
    rows = accounts(
        2,
        AnnualRevenue=[Decimal("1234567890123.45"), None],
        NumberOfEmployees=[12, None],
        Active__c=[True, False],
        Customer_Since__c=[dt.date(2020, 2, 29), None],
        Last_Seen__c=[dt.datetime(2024, 1, 1, 12, 0, 7, tzinfo=dt.UTC), None],
        Description=["x", ""],
    )
    drain(api.send(upsert(2), [rows]))
    full, empty = (emulator.by_external_id("Account")[f"A{n:06}"] for n in range(2))
    assert Decimal(str(full["AnnualRevenue"])) == Decimal("1234567890123.45")
    assert (full["NumberOfEmployees"], full["Active__c"], full["Customer_Since__c"]) == (12, True, "2020-02-29")
    assert full["Last_Seen__c"].startswith("2024-01-01T12:00:07.000")
    assert empty["AnnualRevenue"] is empty["Customer_Since__c"] is empty["Description"] is None


def test_null_clears_unless_it_is_ignored(api: SalesforceDestination, emulator: EmulatorProcess) -> None:
    drain(api.send(upsert(1), [accounts(1, Phone=["1"], Website=["w"])]))
    nulls = accounts(1, Phone=[None], Website=[None]).astype({"Phone": "string[pyarrow]", "Website": "string[pyarrow]"})
    drain(api.send(upsert(1, ignore_nulls=("Website",)), [nulls]))
    record = emulator.by_external_id("Account")["A000000"]
    assert (record["Phone"], record["Website"]) == (None, "w")


def test_update_and_delete_by_id(api: SalesforceDestination, emulator: EmulatorProcess) -> None:
    ids = emulator.seed("Account", [{"Name": f"n{n}", "External_Id__c": f"E{n}"} for n in range(5)])
    emulator.remove("Account", ids[3])
    update = frame({"dest_id": ids, "Name": [f"new {n}" for n in range(5)]}, seqs=[2, 4, 6, 8, 10])
    sent = drain(api.send(Request("Account", "update", None, 5), [update]))
    assert sent.acknowledged() == {2, 4, 6, 10}
    assert [row["created"] for seq, row in sorted(sent.rows.items()) if seq != 8] == [False] * 4
    assert sent.rows[8]["error_class"] == "gone" and sent.rows[8]["dest_id"] == ids[3]
    assert {r["Name"] for r in emulator.records("Account")} == {"new 0", "new 1", "new 2", "new 4"}
    deleted = drain(api.send(Request("Account", "delete", None, 2), [frame({"dest_id": [ids[0], ids[3]]})]))
    assert deleted.acknowledged() == {0} and deleted.rows[1]["error_class"] == "gone"
    assert {r["Id"] for r in emulator.records("Account")} == {ids[1], ids[2], ids[4]}


def test_a_lookup_to_a_deleted_record_does_not_make_its_row_gone(
    api: SalesforceDestination, emulator: EmulatorProcess
) -> None:
    child, parent = emulator.seed("Account", [{"Name": "child"}, {"Name": "parent"}])
    emulator.remove("Account", parent)
    rows = frame({"dest_id": [child], "ParentId": [parent]})
    sent = drain(api.send(Request("Account", "update", None, 1), [rows]))
    assert sent.rows[0]["error_class"] == "fix_row"


def test_insert_goes_through_collections_whatever_its_size(api: SalesforceDestination) -> None:
    rows = accounts(401)
    rows.loc[7, "External_Id__c"] = "A000000"
    sent = drain(api.send(Request("Account", "insert", None, 401), [rows]))
    assert sent.acknowledged() == set(range(401)) - {7}
    assert sent.rejected()[7][0] == "DUPLICATE_VALUE"
    assert [f.last_seq for f in sent.in_flight] == [199, 399, 400]
    assert sent.rows[0]["created"] is True
    assert api.calls.row_bearing == 3


def test_rows_that_meet_a_lock_are_tried_again(api: SalesforceDestination, emulator: EmulatorProcess) -> None:
    emulator.fault("lock", "Account", times=3)
    sent = drain(api.send(upsert(250), [accounts(250)]))
    assert sent.acknowledged() == set(range(250))
    emulator.fault("lock", "Account", times=10**6)
    still = drain(api.send(upsert(3), [accounts(3)]))
    assert set(still.rejected().values()) == {("UNABLE_TO_LOCK_ROW", "retry_now")}


@pytest.mark.parametrize("fault", ["503", "401", "reset_before", "reset_after"])
@pytest.mark.parametrize("times", [1, 2])
def test_passing_trouble_anywhere_loses_and_doubles_nothing(
    api: SalesforceDestination, emulator: EmulatorProcess, fault: str, times: int
) -> None:
    api.account()
    if fault == "401":
        times = 1  # a token that is refused twice in a row is no passing trouble
    for path in ("composite", "/ingest", "/batches", "Results"):
        emulator.fault(fault, path, times)
    sent = drain(api.send(upsert(450), [accounts(450)]))
    assert sent.acknowledged() == set(range(450))
    assert len(emulator.records("Account")) == 450
    # A row whose first reply was lost may not be called adopted.
    assert {row["created"] for row in sent.rows.values()} <= {True, None}


def test_expired_tokens_are_renewed(api: SalesforceDestination, emulator: EmulatorProcess) -> None:
    sent = Sent()
    for event in api.send(upsert(450), [accounts(450)]):
        sent.take(event)
        emulator.expire_tokens()
    assert sent.acknowledged() == set(range(450))


def test_trouble_that_stays_is_unreachable(api: SalesforceDestination, emulator: EmulatorProcess) -> None:
    api.account()
    emulator.fault("503", times=10**6)
    with pytest.raises(DestinationUnreachable, match=r"no answer after 5 tries, last HTTP 503"):
        drain(api.send(upsert(1), [accounts(1)]))
    emulator.clear_faults()
    emulator.stop()
    with pytest.raises(
        DestinationUnreachable,
        match=r"(sending rows|opening a Bulk job) .* no answer after 5 tries, last the connection was refused",
    ):
        drain(api.send(upsert(1), [accounts(1)]))
    emulator.start()


def test_spent_limits_are_not_waited_for(api: SalesforceDestination, emulator: EmulatorProcess) -> None:
    emulator.stop()
    emulator.options = ("--api-limit", "3")
    emulator.start()
    with pytest.raises(DestinationUnreachable, match=r"REQUEST_LIMIT_EXCEEDED.*last 24 hours are spent"):
        for _ in range(9):
            drain(api.send(upsert(1), [accounts(1)]))
    assert emulator.calls()["total"] < 9


def test_an_unknown_field_is_a_refusal_or_an_outcome(api: SalesforceDestination) -> None:
    rows = accounts(2, Nonsense__c=["a", "b"])
    sent = Sent()
    try:
        drain(api.send(upsert(2), [rows]), sent)
    except DestinationRefused as refused:
        assert "Field name not found : Nonsense__c" in str(refused) and "Nothing was written" in str(refused)
        assert uses_bulk(sent)
    else:
        assert set(sent.rejected().values()) == {("INVALID_FIELD", "fix_mapping")}


def test_wrong_secret_is_refused_without_telling_it(connect: Connect) -> None:
    secret = "wr0ng-secret"
    with pytest.raises(DestinationRefused, match=r"invalid_client.*Check client_id") as refused:
        connect(client_secret=secret).account()
    assert secret not in "".join(traceback.format_exception(refused.value))


def test_a_session_id_is_used_as_it_is(connect: Connect, emulator: EmulatorProcess) -> None:
    token = emulator.login().token["access_token"]
    destination = connect(client_id=None, client_secret=None, session_id=token)
    assert destination.account().name
    emulator.expire_tokens()
    with pytest.raises(DestinationRefused, match="session_id has expired") as refused:
        destination.describe("Account")
    assert token not in str(refused.value)


def test_lost_insert_is_unknown_and_not_repeated(connect: Connect, emulator: EmulatorProcess) -> None:
    destination = connect()
    destination.account()
    emulator.fault("reset_after", "composite")
    sent = drain(destination.send(Request("Account", "insert", None, 250), [accounts(250)]))
    assert set(sent.rejected().values()) == {("SEQSYNC_REPLY_LOST", "unknown")}
    assert set(sent.rejected()) == set(range(200)) and sent.acknowledged() == set(range(200, 250))
    assert len(emulator.records("Account")) == 250
    emulator.fault("503", "composite")
    more = frame({"Name": ["after a 503 the org itself sent"]})
    assert drain(destination.send(Request("Account", "insert", None, 1), [more])).acknowledged() == {0}


def test_records_of_an_insert_that_was_repeated_are_not_called_anothers(
    connect: Connect, emulator: EmulatorProcess
) -> None:
    emulator.seed("Account", [{"Name": "another's", "External_Id__c": "A000250"}])
    destination = connect()
    destination.account()
    emulator.fault("reset_after", "composite")
    sent = drain(destination.send(Request("Account", "insert", "External_Id__c", 251), [accounts(251)]))
    assert sent.acknowledged() == set(range(251)) and len(emulator.records("Account")) == 251
    assert Counter(row["created"] for row in sent.rows.values()) == {None: 200, True: 50, False: 1}


def test_two_lost_inserts_in_a_row_stop_the_send(connect: Connect, emulator: EmulatorProcess) -> None:
    destination = connect()
    destination.account()
    emulator.fault("reset_after", "composite", times=2)
    sent = Sent()
    with pytest.raises(DestinationUnreachable, match="two inserts in a row"):
        drain(destination.send(Request("Account", "insert", None, 900), [accounts(900)]), sent)
    assert len(sent.rows) == 400 == len(emulator.records("Account"))


def test_account_describe_and_find(connect: Connect, emulator: EmulatorProcess) -> None:
    destination = connect()
    org = destination.account()
    assert org.id.startswith("00D") and org.url == emulator.url and org.sandbox is not None
    account = destination.describe("Account")
    assert account.fields["Name"].required and not account.fields["Active__c"].required
    assert account.fields["External_Id__c"].matchable and not account.fields["Name"].matchable
    with pytest.raises(DestinationRefused, match=r"no object 'Acount'.*Did you mean 'Account'"):
        destination.describe("Acount")
    calls = destination.calls.total
    destination.account()
    destination.describe("Account")
    assert destination.calls.total == calls
    assert destination.record_url("Account", "001x") == f"{emulator.url}/001x"


def found(destination: SalesforceDestination, object: str, by: str, values: list[Any]) -> set[tuple[str, str]]:
    import pyarrow as pa

    tables = destination.find(object, by, pa.array(values, pa.string()))
    return {(row["value"], row["dest_id"]) for table in tables for row in table.to_pylist()}


def test_find_many_and_awkward_values(connect: Connect, emulator: EmulatorProcess) -> None:
    keys = [f"K{n:05}" for n in range(1200)] + ["O'Hara", "back\\slash", "new\nline", 'quo"te', "ünï🦊"]
    ids = emulator.seed("Account", [{"Name": key, "External_Id__c": key} for key in keys])
    destination = connect()
    asked = [*keys, "nobody", "", "  ", None, "k00003"]
    assert found(destination, "Account", "External_Id__c", asked) == {
        *zip(keys, ids, strict=True),
        ("k00003", ids[3]),
    }
    assert 3 < destination.calls.by_kind["query"] < 12
    assert found(destination, "Account", "Id", [ids[0], ids[1][:15]]) == {(ids[0], ids[0]), (ids[1][:15], ids[1])}
    twins = emulator.seed("Contact", [{"LastName": n, "Email": "same@x.example"} for n in ("a", "b")])
    assert found(destination, "Contact", "Email", ["Same@X.example"]) == {("Same@X.example", i) for i in twins}
    with pytest.raises(DestinationRefused, match="Did you mean 'External_Id__c'"):
        found(destination, "Account", "ExternalId__c", ["x"])


def test_a_duplicated_match_value_is_a_clear_error(connect: Connect, emulator: EmulatorProcess) -> None:
    rows = frame({"External_Id__c": ["X", "X "], "Name": ["a", "b"]})
    with pytest.raises(DestinationError, match=r"'X'.*none of these rows was sent"):
        drain(connect(collections_up_to=0).send(upsert(2), [rows]))
    assert emulator.records("Account") == []
