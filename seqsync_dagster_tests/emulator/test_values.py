from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from seqsync_dagster.emulator.ids import IdSpace
from seqsync_dagster.emulator.schema import OBJECTS
from seqsync_dagster.emulator.values import MistypedError, RefusedError, cleaner, java_double

IDS = IdSpace("00D5g0000000001")


def clean(name: str, raw: Any) -> Any:
    obj, _, field = name.partition(".")
    return cleaner(OBJECTS[obj].fields[field], IDS)(raw)


@pytest.mark.parametrize(
    ("name", "raw", "stored"),
    [
        ("Account.Name", "  Zoë 🚀\nline two  ", "Zoë 🚀\nline two"),
        ("Account.Name", " \t ", None),
        ("Account.NumberOfEmployees", "800", 800),
        ("Account.NumberOfEmployees", 800, 800),
        ("Workspace__c.Mrr__c", Decimal("12345678901234.34"), "12345678901234.34"),
        ("Workspace__c.Mrr__c", "1.005E2", "100.50"),
        ("Workspace__c.Mrr__c", "0.005", "0.01"),
        ("Workspace__c.Seats__c", 5, "5.0"),
        ("Account.Active__c", "TRUE", 1),
        ("Account.Customer_Since__c", "2024-02-29", "2024-02-29"),
        ("Account.Last_Seen__c", "2024-01-01T01:30:00.123+02:00", "2023-12-31T23:30:00"),
        ("Account.Last_Seen__c", "2024-01-01T01:30:00Z", "2024-01-01T01:30:00"),
        ("Contact.Email", "a.b+c@example.co.uk", "a.b+c@example.co.uk"),
        ("Workspace__c.Plan__c", "Team", "Team"),
        ("Account.Industry", "Not in the list", "Not in the list"),
    ],
)
def test_kept(name: str, raw: Any, stored: Any) -> None:
    assert clean(name, raw) == stored


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("Account.Name", 5),
        ("Account.NumberOfEmployees", "800.0"),
        ("Account.NumberOfEmployees", "3000000000"),
        ("Account.NumberOfEmployees", True),
        ("Workspace__c.Mrr__c", "12,5"),
        ("Workspace__c.Mrr__c", "NaN"),
        ("Account.Active__c", "maybe"),
        ("Account.Customer_Since__c", "2023-02-29"),
        ("Account.Customer_Since__c", "2023-02-28T00:00:00Z"),
        ("Account.Last_Seen__c", "2024-01-01 01:30:00Z"),
        ("Account.Last_Seen__c", "2024-01-01T01:30:00"),
    ],
)
def test_mistyped(name: str, raw: Any) -> None:
    with pytest.raises(MistypedError):
        clean(name, raw)


@pytest.mark.parametrize(
    ("name", "raw", "code"),
    [
        ("Account.BillingCity", "x" * 41, "STRING_TOO_LONG"),
        ("Contact.Email", "not an address", "INVALID_EMAIL_ADDRESS"),
        ("Workspace__c.Plan__c", "team", "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
        ("Workspace__c.Mrr__c", "1e15", "NUMBER_OUTSIDE_VALID_RANGE"),
        ("Account.ParentId", "nonsense", "MALFORMED_ID"),
        ("Account.ParentId", IDS.encode("003", 1), "MALFORMED_ID"),
    ],
)
def test_refused(name: str, raw: Any, code: str) -> None:
    with pytest.raises(RefusedError) as caught:
        clean(name, raw)
    assert caught.value.error.code == code


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("912260031", "9.12260031E8"),
        ("800", "800.0"),
        ("10.50", "10.5"),
        ("0.0001", "1.0E-4"),
        ("-10000000", "-1.0E7"),
        ("0", "0.0"),
        ("abc", "abc"),
    ],
)
def test_numbers_as_java_writes_them(text: str, shown: str) -> None:
    assert java_double(text) == shown
