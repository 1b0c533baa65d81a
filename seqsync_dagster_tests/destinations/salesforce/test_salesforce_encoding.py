"""Values on their way into CSV and JSON."""

from __future__ import annotations

import csv
import datetime as dt
import io
import math
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqsync_dagster.destinations.salesforce.encoding import (
    csv_columns,
    json_values,
    text_values,
    to_table,
    write_csv,
)
from seqsync_dagster.errors import ConfigurationError


def as_csv(table: pa.Table, **options: object) -> list[list[str]]:
    """The cells a strict CSV reader sees."""
    file = io.BytesIO()
    write_csv(table, file, header=True, **options)  # type: ignore[arg-type]
    return list(csv.reader(io.StringIO(file.getvalue().decode(), newline=""), strict=True))


def text_of(array: pa.Array) -> list[str | None]:
    return list(text_values(pa.chunked_array([array]), "Field__c").to_pylist())


def expected(cell: str | None) -> str:
    if cell is None:
        return "#N/A"
    unix = cell.replace("\r\n", "\n").replace("\r", "\n")
    return unix if unix.strip() else "#N/A"


texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=40)


@given(st.lists(st.tuples(st.none() | texts, st.none() | texts), min_size=1, max_size=20))
def test_any_text_survives_the_csv(rows: list[tuple[str | None, str | None]]) -> None:
    table = pa.table({"A__c": [a for a, _ in rows], "B__c": [b for _, b in rows]}).cast(
        pa.schema([("A__c", pa.string()), ("B__c", pa.string())])
    )
    columns, _ = csv_columns(table, match=None)
    assert as_csv(columns) == [["A__c", "B__c"], *[[expected(a), expected(b)] for a, b in rows]]


@given(st.lists(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=12)))
def test_decimals_are_written_in_full(values: list[Decimal]) -> None:
    cells = text_of(pa.array(values, pa.decimal128(38, 12)))
    assert all(cell is not None and "E" not in cell.upper() for cell in cells)
    assert [Decimal(str(cell)) for cell in cells] == values


@given(st.lists(st.none() | st.floats()))
def test_floats_come_back_the_same_and_nan_is_null(values: list[float | None]) -> None:
    column = pa.chunked_array([pa.array(values, pa.float64())])
    finite = [None if v is None or not math.isfinite(v) else v for v in values]
    assert [None if c is None else float(c) for c in text_values(column, "F").to_pylist()] == finite
    assert json_values(column, "F") == finite


def test_dates_and_times_are_iso_in_utc() -> None:
    paris = dt.timezone(dt.timedelta(hours=2))
    moment = dt.datetime(2024, 7, 1, 12, 30, 1, 250_000, tzinfo=paris)
    assert text_of(pa.array([moment, None], pa.timestamp("us", tz="Europe/Paris"))) == [
        "2024-07-01T10:30:01.250Z",
        None,
    ]
    assert text_of(pa.array([dt.datetime(2024, 7, 1, 12)], pa.timestamp("ns"))) == ["2024-07-01T12:00:00.000Z"]
    assert text_of(pa.array([dt.date(2024, 2, 29)])) == ["2024-02-29"]
    assert text_of(pa.array([dt.date(2024, 2, 29)], pa.date64())) == ["2024-02-29"]
    assert text_of(pa.array([dt.time(9, 5, 1)], pa.time64("us"))) == ["09:05:01.000Z"]


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Paris"])
@pytest.mark.parametrize("unit", ["us", "ns"])
def test_fractions_finer_than_milliseconds_are_cut_towards_the_past(unit: str, zone: str | None) -> None:
    moments = [
        dt.datetime(1969, 12, 31, 23, 59, 58, 999_999, dt.UTC),
        dt.datetime(1700, 1, 1, 0, 0, 0, 1, dt.UTC),
        dt.datetime(2024, 10, 27, 0, 30, 0, 999_999, dt.UTC),
        None,
    ]
    column = pa.array(moments, pa.timestamp("us", tz="UTC")).cast(pa.timestamp(unit, tz=zone))
    texts = ["1969-12-31T23:59:58.999Z", "1700-01-01T00:00:00.000Z", "2024-10-27T00:30:00.999Z", None]
    assert text_of(column) == texts
    assert json_values(pa.chunked_array([column]), "When__c") == texts


def test_numbers_and_booleans() -> None:
    assert text_of(pa.array([2**63 - 1, None, -1])) == ["9223372036854775807", None, "-1"]
    assert text_of(pa.array([True, False, None])) == ["true", "false", None]
    assert text_of(pa.array([Decimal("0E-10"), Decimal("0.0000000001")], pa.decimal128(38, 10))) == [
        "0.0000000000",
        "0.0000000001",
    ]
    assert text_of(pa.nulls(2)) == [None, None]
    assert text_of(pa.array(["x", None, "x"]).dictionary_encode()) == ["x", None, "x"]


def test_json_keeps_numbers_exact() -> None:
    column = pa.chunked_array([pa.array([Decimal("12345678901234567.89")], pa.decimal128(38, 2))])
    assert json_values(column, "Amount") == [Decimal("12345678901234567.89")]
    assert json_values(pa.chunked_array([pa.array([True, None])]), "Flag__c") == [True, None]


def test_a_type_salesforce_has_no_word_for_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"field Tags__c: a column of type list.*Cast it"):
        text_of_field = pa.chunked_array([pa.array([["a"]])])
        text_values(text_of_field, "Tags__c")


def test_the_text_for_null_cannot_be_sent() -> None:
    table = pa.table({"seq": [1, 2, 3], "Ext__c": ["a", "b", None], "Name": ["#N/A", "x", "y"]})
    _, unsendable = csv_columns(table, match="Ext__c")
    assert unsendable.to_pylist() == ["Name", None, "Ext__c"]


def test_match_values_are_trimmed_as_salesforce_stores_them() -> None:
    columns, _ = csv_columns(pa.table({"Ext__c": [" A1 "], "Name": [" A1 "]}), match="Ext__c")
    assert columns.to_pylist() == [{"Ext__c": "A1", "Name": " A1 "}]


def test_ignored_nulls_are_empty_cells() -> None:
    table = pa.table({"A": ["x", None], "B": ["y", None]})
    assert as_csv(table, ignore_nulls=("B",)) == [["A", "B"], ["x", "y"], ["#N/A", ""]]


def test_frames_of_both_dtype_families_read_the_same() -> None:
    plain = pd.DataFrame({"seq": [1, 2], "Name": ["a", None], "When__c": pd.to_datetime(["2024-01-01", None])})
    arrow = plain.convert_dtypes(dtype_backend="pyarrow")
    for frame in (plain, arrow):
        columns, _ = csv_columns(to_table(frame), match=None)
        assert columns.to_pylist() == [
            {"Name": "a", "When__c": "2024-01-01T00:00:00.000Z"},
            {"Name": None, "When__c": None},
        ]
