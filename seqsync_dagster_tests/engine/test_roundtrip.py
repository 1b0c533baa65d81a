"""Values reach the org as the model has them, by Collections and Bulk alike, from both engines."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqsync_dagster_tests.emulator_process import EmulatorProcess
from seqsync_dagster_tests.engine.world import World, crm

SPEC: dict[str, Any] = {
    "name": "values",
    "table": "crm.value_rows",
    "key": "id",
    "object": "Account",
    "match": "External_Id__c",
    "fields": {
        "Name": "name",
        "Description": "words",
        "AnnualRevenue": "amount",
        "NumberOfEmployees": "number",
        "Active__c": "flag",
        "Customer_Since__c": "day",
        "Last_Seen__c": "instant",
    },
}
TABLES = """
CREATE SCHEMA crm;
CREATE TABLE crm.value_rows (id text, name text, words text, amount decimal(18, 2), number integer, flag boolean,
  day date, instant timestamptz);
CREATE TABLE crm.naive_rows (id text, name text, words text, amount bigint, number smallint, flag boolean,
  day date, instant timestamp);
"""
APIS = {"collections": 2000, "bulk": 0}
#: More examples, each time others, for whoever hunts: SEQSYNC_EXAMPLES=100.
EXAMPLES = int(os.environ.get("SEQSYNC_EXAMPLES", "0"))
_numbers = itertools.count(1)

# NUL is no text in PostgreSQL, and single surrogates are none anywhere.
CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")
ODD = st.sampled_from(
    [
        *['"', "'", "\\", "\n", "\r\n", "\r", "\t", ",", ";", " ", "\u2028", "\u2029", "\x85", "\xa0", "\ufeff"],
        *[
            "007",
            "1e5",
            "NULL",
            "null",
            "None",
            "true",
            "nan",
            "=1+1",
            "#N/A#",
            "\\N",
            "''",
            "{{x}}",
            "\x1f",
            "\x7f",
            "😀",
        ],
    ]
)
TEXTS = st.one_of(
    st.none(),
    st.text(CHARACTERS, max_size=30),
    st.lists(ODD | st.text(CHARACTERS, max_size=3), max_size=8).map("".join),
).filter(lambda t: t is None or t.strip() != "#N/A")
AMOUNTS = st.none() | st.decimals(
    min_value=Decimal("-9999999999999999.99"), max_value=Decimal("9999999999999999.99"), places=2
)
NUMBERS = st.none() | st.integers(-(2**31), 2**31 - 1)
BIG = st.none() | st.integers(-(10**16) + 1, 10**16 - 1)
SMALL = st.none() | st.integers(-(2**15), 2**15 - 1)
DAYS = st.none() | st.dates(date(1700, 1, 1), date(4000, 12, 31))
MOMENTS = st.datetimes(datetime(1700, 1, 2), datetime(4000, 12, 30))
OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
ZONED = st.none() | st.builds(lambda moment, zone: moment.replace(tzinfo=zone), MOMENTS, OFFSETS)


def batch(*values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    return st.lists(st.tuples(TEXTS, *values), min_size=30, max_size=80)


@pytest.fixture(scope="module", params=["duckdb", "postgresql"])
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, module_emulator: EmulatorProcess
) -> Iterator[World]:
    """A world that many examples share: each brings rows with keys of its own."""
    folder = tmp_path_factory.mktemp("roundtrip")
    sequence = crm(SPEC)
    if request.param == "duckdb":
        made = World(folder, f"duckdb:///{folder}/warehouse.duckdb", module_emulator, sequence)
        made.sql(TABLES)
        yield made
        return
    server: Any = request.getfixturevalue("postgres_server")
    with server.fresh_database() as url:
        made = World(folder, url, module_emulator, sequence)
        made.sql(TABLES)
        yield made


def records(world: World) -> dict[str, dict[str, Any]]:
    """The org's records, decimals exact."""
    reply = requests.get(f"{world.org.url}/emulator/records/Account", timeout=60)
    return {r["External_Id__c"]: r for r in json.loads(reply.text, parse_float=Decimal)}


def sent(world: World, table: str, rows: list[tuple[Any, ...]], api: str) -> dict[int, dict[str, Any]]:
    """Send rows by one API; their records by place in `rows`."""
    world.settings["collections_up_to"] = APIS[api]
    world.sequence = crm({**SPEC, "name": table.removesuffix("_rows"), "table": f"crm.{table}"})
    prefix = f"{api[0]}{next(_numbers)}x"
    world.sql(f"DELETE FROM crm.{table}")
    world.insert(f"crm.{table}", [(f"{prefix}{i:04}", f"{i}", *row) for i, row in enumerate(rows)])
    report = world.run(table.removesuffix("_rows"))
    assert (report.counts.created, report.counts.rejected) == (len(rows), 0), report.problems[:3]
    return {int(k.removeprefix(prefix)): r for k, r in records(world).items() if k and k.startswith(prefix)}


def canonical(text: str | None) -> str | None:
    """Text as an org keeps it: LF line ends, nothing around it, nothing as null."""
    if text is None:
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n").strip() or None


def whole_second(moment: datetime | None) -> datetime | None:
    """An instant as an org keeps it: in UTC, without fractions."""
    if moment is None:
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.replace(microsecond=0)


def shown(record: dict[str, Any]) -> tuple[Any, ...]:
    instant = record["Last_Seen__c"]
    return (
        record["Description"],
        None if record["AnnualRevenue"] is None else Decimal(record["AnnualRevenue"]),
        record["NumberOfEmployees"],
        record["Active__c"],
        record["Customer_Since__c"],
        None if instant is None else datetime.fromisoformat(instant.replace("+0000", "+00:00")),
    )


def expected(row: tuple[Any, ...]) -> tuple[Any, ...]:
    words, amount, number, flag, day, instant = row
    return (
        canonical(words),
        None if amount is None else Decimal(amount),
        number,
        flag,
        None if day is None else day.isoformat(),
        whole_second(instant),
    )


few = settings(
    max_examples=EXAMPLES or 2,
    deadline=None,
    database=None,
    derandomize=not EXAMPLES,
    suppress_health_check=list(HealthCheck),
)


@few
@given(rows=batch(AMOUNTS, NUMBERS, st.booleans(), DAYS, ZONED))
def test_values_survive_by_either_api(stage: World, rows: list[tuple[Any, ...]]) -> None:
    for api in APIS:
        got = sent(stage, "value_rows", rows, api)
        assert {i: shown(r) for i, r in got.items()} == {i: expected(r) for i, r in enumerate(rows)}, api


@few
@given(rows=batch(BIG, SMALL, st.booleans(), DAYS, st.none() | MOMENTS))
def test_big_integers_and_times_without_a_zone_survive_by_either_api(stage: World, rows: list[tuple[Any, ...]]) -> None:
    for api in APIS:
        got = sent(stage, "naive_rows", rows, api)
        assert {i: shown(r) for i, r in got.items()} == {i: expected(r) for i, r in enumerate(rows)}, api


NOTHING = (None, None, True, None)


@pytest.mark.parametrize("api", list(APIS))
def test_what_an_org_writes_in_its_own_way(stage: World, api: str) -> None:
    rows = [
        (" \t outer blanks \n", *NOTHING, None),
        ("", *NOTHING, None),
        (" \r\n\t ", *NOTHING, None),
        ("one\r\ntwo\rthree\nfour", *NOTHING, None),
        ("0012", Decimal("-0.01"), 0, False, date(1700, 1, 1), datetime(2024, 3, 31, 1, 59, 59, 999_999, tzinfo=UTC)),
        ("  #N/A  .", Decimal("9999999999999999.99"), -(2**31), True, date(4000, 12, 31), None),
    ]
    got = [shown(r) for _, r in sorted(sent(stage, "value_rows", rows, api).items())]
    assert [g[0] for g in got] == ["outer blanks", None, None, "one\ntwo\nthree\nfour", "0012", "#N/A  ."]
    assert got[4][1:] == (Decimal("-0.01"), 0, False, "1700-01-01", datetime(2024, 3, 31, 1, 59, 59, tzinfo=UTC))
    assert got[5][1] == Decimal("9999999999999999.99")


@pytest.mark.parametrize("api", list(APIS))
def test_a_fraction_of_a_second_before_1970_is_cut_not_rounded(stage: World, api: str) -> None:
    moment = datetime(1969, 12, 31, 23, 59, 58, 999_999, tzinfo=UTC)
    got = sent(stage, "value_rows", [("x", *NOTHING, moment)], api)
    assert shown(got[0])[5] == whole_second(moment)


def test_the_text_that_means_null_to_bulk_is_refused_there_and_sent_otherwise(stage: World) -> None:
    row = ("#N/A", *NOTHING, None)
    got = sent(stage, "value_rows", [row], "collections")
    assert got[0]["Description"] == "#N/A"
    stage.settings["collections_up_to"] = 0
    stage.org.reset()
    stage.insert("crm.value_rows", [("refused", "n", *row), ("fine", "n", "x", *NOTHING, None)])
    report = stage.run("value")
    assert (report.counts.created, report.counts.rejected) == (1, 1)
    [problem] = report.problems
    assert (problem.key, problem.code) == ("refused", "SEQSYNC_UNSENDABLE_VALUE")
    assert problem.message == "Description is the text #N/A, which Bulk API 2.0 takes for null"


@pytest.mark.parametrize("api", list(APIS))
def test_keys_of_any_shape_find_their_rows_again(stage: World, api: str) -> None:
    keys = [
        "007",
        "7",
        "1e3",
        "1000",
        "a,b",
        'q"q',
        "it's",
        "back\\slash",
        "é",
        "😀",
        "a b",
        "#1",
        "true",
        "x\ty",
        "a;b",
    ]
    stage.settings["collections_up_to"] = APIS[api]
    stage.sequence = crm({**SPEC, "name": f"keys_{api}", "table": "crm.value_rows"})
    stage.org.reset()
    stage.sql("DELETE FROM crm.value_rows")
    stage.insert("crm.value_rows", [(k, k, None, *NOTHING, None) for k in keys])
    report = stage.run(f"keys_{api}")
    assert (report.counts.created, report.counts.adopted, report.counts.rejected) == (len(keys), 0, 0), report.problems
    found = records(stage)
    assert {k: found[k]["Name"] for k in keys} == {k: k for k in keys}
