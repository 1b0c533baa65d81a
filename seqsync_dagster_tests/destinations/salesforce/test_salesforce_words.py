"""Error texts, SOQL literals, describe, and how result rows are recognised."""

from __future__ import annotations

import io
import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqsync_dagster.destinations.protocol import ErrorClass, FieldInfo, Operation, Request
from seqsync_dagster.destinations.salesforce.bulk_index import RowIndex
from seqsync_dagster.destinations.salesforce.bulk_results import read_results
from seqsync_dagster.destinations.salesforce.collections_api import rechunked
from seqsync_dagster.destinations.salesforce.describe import nearest_name, read_describe
from seqsync_dagster.destinations.salesforce.errors import (
    RowError,
    class_of,
    parse_sf_error,
    reply_error,
    row_error,
)
from seqsync_dagster.destinations.salesforce.query import chunks, comparable, soql_text
from seqsync_dagster.errors import DestinationError


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        (
            "REQUIRED_FIELD_MISSING:Required fields are missing: [Name]:Name --",
            RowError("REQUIRED_FIELD_MISSING", "Required fields are missing: [Name]", ("Name",)),
        ),
        (
            "INVALID_CROSS_REFERENCE_KEY:invalid cross reference id:--",
            RowError("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id"),
        ),
        (
            "FIELD_CUSTOM_VALIDATION_EXCEPTION:Ratio must be 1:2:Ratio__c, Total__c --",
            RowError("FIELD_CUSTOM_VALIDATION_EXCEPTION", "Ratio must be 1:2", ("Ratio__c", "Total__c")),
        ),
        ("something else entirely", RowError("UNKNOWN", "something else entirely")),
        ("CODE:without an end", RowError("CODE", "without an end")),
    ],
)
def test_bulk_errors_are_split(cell: str, error: RowError) -> None:
    assert parse_sf_error(cell) == error


@pytest.mark.parametrize(
    ("code", "message", "operation", "error_class"),
    [
        ("UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access", "upsert", "retry_now"),
        ("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", "T: UNABLE_TO_LOCK_ROW, x", "upsert", "retry_now"),
        ("REQUEST_LIMIT_EXCEEDED", "", "upsert", "retry_later"),
        ("INVALID_FIELD", "No such column 'x' on sobject of type Account", "upsert", "fix_mapping"),
        ("INVALID_FIELD", "Failed to deserialize field at col 3", "upsert", "fix_row"),
        ("INVALID_FIELD", "Foreign key external ID: 1 not found for field E in entity A", "upsert", "fix_row"),
        ("ENTITY_IS_DELETED", "entity is deleted", "update", "gone"),
        ("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", "delete", "gone"),
        ("ENTITY_IS_DELETED", "entity is deleted", "upsert", "fix_row"),
        ("A_CODE_OF_NEXT_YEAR", "", "upsert", "fix_row"),
    ],
)
def test_codes_ask_for_something(code: str, message: str, operation: Operation, error_class: ErrorClass) -> None:
    assert class_of(RowError(code, message), operation) == error_class


def test_reply_bodies() -> None:
    assert reply_error(b'[{"errorCode":"NOT_FOUND","message":"no"}]') == ("NOT_FOUND", "no")
    assert reply_error(b'{"error":"invalid_client","error_description":"x"}') == ("invalid_client", "x")
    assert reply_error(b"<html>proxy</html>") is None
    assert reply_error(b"") is None
    errors = [{"statusCode": "A", "message": "one", "fields": ["F"]}, {"statusCode": "B", "message": "two"}]
    assert row_error(errors) == RowError("A", "one; B: two", ("F",))
    assert row_error(None).code == "UNKNOWN"


@given(st.text(max_size=60))
def test_soql_literals_cannot_be_broken_out_of(value: str) -> None:
    literal = soql_text(value)
    assert re.fullmatch(r"'(?:[^'\\\n\r]|\\['\\nrtbf])*'", literal)
    back = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
    assert re.sub(r"\\(.)", lambda m: back.get(m[1], m[1]), literal[1:-1], flags=re.S) == value


def test_in_lists_stay_short() -> None:
    literals = [soql_text("é" * 200) for _ in range(30)]
    made = list(chunks(literals))
    assert [literal for chunk in made for literal in chunk] == literals
    assert all(len(chunk) <= 4 for chunk in made)


def test_what_soql_holds_equal() -> None:
    def field(type_: str, *, case_sensitive: bool = False) -> FieldInfo:
        return FieldInfo("F", "F", type_, case_sensitive=case_sensitive)

    assert comparable(" Abc ", field("string")) == "abc"
    assert comparable("Abc", field("string", case_sensitive=True)) == "Abc"
    assert comparable("001000000000001AAA", field("id")) == "001000000000001"
    assert comparable("100.0", field("double")) == comparable("1E2", field("double")) == "100"
    assert comparable("x) OR (Id != null", field("double")) is None
    assert comparable("NaN", field("double")) is None
    assert comparable("  ", field("string")) is None


def test_describe_reads_required_and_matchable() -> None:
    def field(name: str, **said: object) -> dict[str, object]:
        return {"name": name, "label": name, "type": "string", "createable": True, "nillable": True, **said}

    info = read_describe(
        {
            "name": "Account",
            "fields": [
                field("Name", nillable=False),
                field("Active__c", nillable=False, defaultedOnCreate=True),
                field("Ext__c", externalId=True),
                field("Email", idLookup=True),
                field("Kind__c", picklistValues=[{"value": "a", "active": True}, {"value": "b", "active": False}]),
            ],
        }
    )
    assert [name for name, f in info.fields.items() if f.required] == ["Name"]
    assert [name for name, f in info.fields.items() if f.matchable] == ["Ext__c", "Email"]
    assert info.fields["Kind__c"].picklist == ("a",)


def test_nearest_name() -> None:
    assert nearest_name("workspace_c", ["Account", "Workspace__c"]) == "Did you mean 'Workspace__c'?"
    assert "Object Manager" in nearest_name("zzz", ["Account"])


def upsert_index(texts: list[str]) -> RowIndex:
    index = RowIndex(Request("Account", "upsert", "Ext__c", len(texts)))
    index.add(pa.chunked_array([texts]), pa.chunked_array([pa.array(range(len(texts)))]))
    return index


def test_result_rows_are_found_by_match_text() -> None:
    index = upsert_index(["A1", "a1", 'Zoë, "x"\ny'])
    found = index.seqs_of(pa.array(['Zoë, "x"\r\ny', " a1", "A1", "other"]))
    assert found.to_pylist() == [2, 1, 0, None]


def test_numbers_that_java_rewrote_are_found() -> None:
    assert upsert_index(["912260031", "7"]).seqs_of(pa.array(["7.0", "9.12260031E8"])).to_pylist() == [1, 0]


def test_ids_are_compared_by_their_first_fifteen_characters() -> None:
    index = RowIndex(Request("Account", "update", None, 2))
    index.add(pa.chunked_array([["001000000000aBcAAA", "001000000000aBC"]]), pa.chunked_array([pa.array([5, 6])]))
    assert index.seqs_of(pa.array(["001000000000aBC", "001000000000aBc"])).to_pylist() == [6, 5]


def test_rows_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(DestinationError, match=r"1 rows for Account have a Ext__c .*'A1'.*none of these rows was sent"):
        upsert_index(["A1", "B", "A1"]).seal()


def test_result_files_are_read_whatever_their_cells_hold() -> None:
    body = '"sf__Id","sf__Created",ext__c,Name\n"001","true","a\u2028b","x\ny"\n"002","false","","\u0085""q"""\n'
    (table,) = read_results(io.BytesIO(body.encode()), ("sf__Id", "sf__Created", "sf__Error", "Ext__c"))
    assert table.to_pylist() == [
        {"sf__Id": "001", "sf__Created": "true", "Ext__c": "a\u2028b"},
        {"sf__Id": "002", "sf__Created": "false", "Ext__c": ""},
    ]
    assert list(read_results(io.BytesIO(b'"sf__Id","sf__Error",Ext__c\n'), ("sf__Id",))) == []
    assert list(read_results(io.BytesIO(b""), ("sf__Id",))) == []


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 25))
def test_rechunking_keeps_every_row_in_order(sizes: list[int], rows: int) -> None:
    numbers = iter(range(1000))
    tables = [pa.table({"seq": pa.array([next(numbers) for _ in range(size)], pa.int64())}) for size in sizes]
    chunks = list(rechunked(tables, rows))
    assert [n for chunk in chunks for n in chunk.column("seq").to_pylist()] == list(range(sum(sizes)))
    assert all(chunk.num_rows == rows for chunk in chunks[:-1])
