"""One value in all the forms in which it may be sent, kept and given back is one text."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from seqsync_dagster.destinations.protocol import FieldInfo
from seqsync_dagster.destinations.salesforce.read_back import stored_texts

PARIS = timezone(timedelta(hours=2))


def stored(kind: str, values: list[Any], *, scale: int = 0, type: Any = None) -> list[str | None]:
    field = FieldInfo("F", "F", kind, scale=scale)
    found: list[str | None] = stored_texts([field], pa.table({"F": pa.array(values, type)}))["F"].to_pylist()
    return found


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("string", [" a ", "a", "\ta\n", "A", "", "  ", None], ["a", "a", "a", "A", None, None, None]),
        ("textarea", ["a\r\nb", "a\nb", "a\rb"], ["a\nb"] * 3),
        ("email", ["Ana@Example.COM "], ["ana@example.com"]),
        ("reference", ["001xx000003DGb2", "001xx000003DGb2AAG"], ["001xx000003DGb2"] * 2),
        ("multipicklist", ["b;a", "a; b", "a;b;", None], ["a;b", "a;b", "a;b", None]),
        ("boolean", ["YES", "1", "on", "false", "0", None], ["true", "true", "true", "false", "false", "false"]),
        ("boolean", [True, False, None], ["true", "false", "false"]),
        ("boolean", [1, 0], ["true", "false"]),
        ("date", [date(2024, 2, 29), date(1, 1, 1)], ["2024-02-29", "0001-01-01"]),
        ("time", [time(10, 5)], ["10:05:00.000Z"]),
    ],
)
def test_text_and_choices(kind: str, values: list[Any], expected: list[str | None]) -> None:
    assert stored(kind, values) == expected


def test_instants_are_utc_and_whole_seconds() -> None:
    texts = ["2024-05-01T12:30:59.999+02:00", "2024-05-01T10:30:59Z", "2024-05-01T10:30:59.000+0000"]
    assert set(stored("datetime", texts)) == {"2024-05-01 10:30:59"}
    before_1970 = datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)
    assert stored("datetime", [before_1970]) == ["1969-12-31 23:59:59"]
    zoned = [datetime(2024, 5, 1, 12, 30, tzinfo=PARIS)]
    assert stored("datetime", zoned, type=pa.timestamp("us", "Europe/Paris")) == ["2024-05-01 10:30:00"]
    assert stored("datetime", [datetime(2024, 5, 1, 10, 30)]) == ["2024-05-01 10:30:00"]


def test_numbers_are_equal_whatever_their_type_and_rounded_as_the_org_does() -> None:
    assert stored("double", ["1.005", "1.0049", "-1.005", "+1", "1e2"], scale=2) == ["1.01", "1", "-1.01", "1", "100"]
    assert stored("double", [1.005, -0.001, 0.1 + 0.2], scale=2) == ["1.01", "0", "0.3"]
    assert stored("currency", [Decimal("1234567.895000")], scale=2) == ["1234567.9"]
    assert stored("int", [7, 2**31 - 1]) == ["7", "2147483647"]
    # 18 digits do not fit into a double, and a double is what the org gives back.
    exact, given = Decimal("123456789012345678"), 123456789012345680.0
    assert stored("double", [exact]) == stored("double", [given])
    tiny = [1e-300, 5e-324, 1e-30, None]
    assert stored("double", tiny, scale=3) == ["0", "0", "0", None]


def test_what_is_masked_when_it_is_read_is_left_out() -> None:
    assert stored_texts([FieldInfo("F", "F", "encryptedstring")], pa.table({"F": ["x"]})).column_names == []
