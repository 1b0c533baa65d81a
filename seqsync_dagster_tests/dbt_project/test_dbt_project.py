"""The demo's dbt project: its data are what its README says, and dbt builds them."""

from __future__ import annotations

import csv
import filecmp
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

PROJECT = Path(__file__).resolve().parents[2] / "dbt_project"
DBT = Path(sys.executable).with_name("dbt")
TABLES = ("raw_accounts", "raw_workspaces", "raw_users", "raw_workspace_permissions")
MARTS = ("crm_accounts", "crm_workspaces", "crm_contacts", "crm_permissions")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


def script(name: str, *arguments: str, sources: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "SEQSYNC_SOURCES"}
    environment |= {"PYTHONIOENCODING": "utf-8"} | ({"SEQSYNC_SOURCES": sources} if sources else {})
    return subprocess.run(
        [sys.executable, "-B", str(PROJECT / name), *arguments],
        env=environment,
        capture_output=True,
        encoding="utf-8",
    )


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


class Built:
    def __init__(self, folder: Path, sources: str | None, cwd: Path) -> None:
        self.warehouse, self.target = folder / "warehouse.duckdb", folder / "target"
        environment = {k: v for k, v in os.environ.items() if k != "SEQSYNC_SOURCES"}
        environment |= {"SEQSYNC_DUCKDB_PATH": str(self.warehouse)}
        environment |= {"SEQSYNC_SOURCES": sources} if sources else {}
        self.command = subprocess.run(
            [
                str(DBT), "--no-use-colors", "build", "--show-all-deprecations", "--project-dir", str(PROJECT),
                "--profiles-dir", str(PROJECT), "--target-path", str(self.target),
                "--log-path", str(folder / "logs"),
            ],
            env=environment, cwd=cwd, capture_output=True, encoding="utf-8",
        )  # fmt: skip
        assert self.command.returncode == 0, self.command.stdout[-4000:]

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.warehouse), read_only=True) as connection:
            connection.execute("use crm")
            return connection.execute(sql).fetchall()

    def one(self, sql: str) -> Any:
        return self.rows(sql)[0][0]

    def results(self) -> dict[str, tuple[str, int | None]]:
        run = json.loads((self.target / "run_results.json").read_text(encoding="utf-8"))
        return {r["unique_id"].split(".")[2]: (r["status"], r["failures"]) for r in run["results"]}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    return Built(folder, None, cwd=folder)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, Built]]:
    folder = tmp_path_factory.mktemp("changed")
    sources = folder / "it's mine"
    printed = script("change_sources.py", sources=str(sources))
    assert printed.returncode == 0, printed.stderr
    yield sources, printed.stdout, Built(folder, str(sources), cwd=PROJECT)


# ---------------------------------------------------------------- what becomes of the rows


def fates(built: Built, *, case_matters: bool = True, owner_required: bool = False) -> dict[str, Counter[str]]:
    """What a sync of every model must end with, by the rules of the README of the dbt project."""
    out: dict[str, Counter[str]] = {}

    def same(key: str | None) -> str | None:
        return key if case_matters or key is None else key.strip().lower()

    def usable(keys: Iterable[str | None]) -> set[str]:
        times = Counter(same(key) for key in keys)
        return {key for key in keys if key is not None and times[same(key)] == 1}

    owners = set(built.rows("select distinct owner_email from crm_accounts where owner_email not like 'left%'"))
    accounts = built.rows("select account_id, name, parent_account_id, owner_email from crm_accounts")
    valid = usable([row[0] for row in accounts])
    by_key = {row[0]: row for row in accounts if row[0] in valid}

    def account_fate(key: str) -> str:
        _, name, parent, owner = by_key[key]
        if parent is not None and (parent not in valid or account_fate(parent) != "sent"):
            return "held"
        if owner_required and owner is not None and (owner,) not in owners:
            return "held"
        return "sent" if name else "rejected"

    account = {key: account_fate(key) for key in by_key}
    out["crm_accounts"] = Counter(account.get(row[0], "invalid") for row in accounts)

    workspaces = built.rows("select workspace_id, account_id, plan from crm_workspaces")
    workspace = {
        key: "held" if account.get(parent) != "sent" else "rejected" if plan == "Legacy" else "sent"
        for key, parent, plan in workspaces
    }
    out["crm_workspaces"] = Counter(workspace.values())

    contacts = built.rows("select contact_id, account_id, workspace_id, last_name, email from crm_contacts")
    valid = usable([row[0] for row in contacts])
    contact: dict[str, str] = {}
    for key, parent, place, last_name, email in contacts:
        if key not in valid:
            continue
        waits = (parent and account.get(parent) != "sent") or (place and workspace.get(place) != "sent")
        refused = last_name is None or (email is not None and not EMAIL.fullmatch(email))
        contact[key] = "held" if waits else "rejected" if refused else "sent"
    out["crm_contacts"] = Counter(contact.get(row[0], "invalid") for row in contacts)

    permissions = built.rows("select workspace_id, contact_id from crm_permissions")
    times = Counter(permissions)
    out["crm_permissions"] = Counter(
        "invalid"
        if person is None or times[place, person] > 1
        else "held"
        if workspace[place] != "sent" or contact.get(person) != "sent"
        else "sent"
        for place, person in permissions
    )
    return out


def as_table(counted: dict[str, Counter[str]]) -> dict[str, tuple[int, ...]]:
    return {model: tuple(c[f] for f in ("sent", "rejected", "held", "invalid")) for model, c in counted.items()}


SENT_REJECTED_HELD_INVALID = {
    "crm_accounts": (394, 3, 1, 6),
    "crm_workspaces": (1476, 2, 22, 0),
    "crm_contacts": (7907, 20, 67, 6),
    "crm_permissions": (9927, 0, 69, 4),
}


def test_fates_of_the_committed_rows(built: Built) -> None:
    assert as_table(fates(built, case_matters=False)) == SENT_REJECTED_HELD_INVALID
    assert as_table(fates(built)) == {
        "crm_accounts": (396, 3, 1, 4),
        "crm_workspaces": (1478, 2, 20, 0),
        "crm_contacts": (7913, 20, 63, 4),
        "crm_permissions": (9931, 0, 65, 4),
    }
    assert as_table(fates(built, case_matters=False, owner_required=True)) == {
        "crm_accounts": (391, 3, 4, 6),
        "crm_workspaces": (1470, 2, 28, 0),
        "crm_contacts": (7895, 20, 79, 6),
        "crm_permissions": (9918, 0, 78, 4),
    }


def test_fates_after_the_change(changed: tuple[Path, str, Built]) -> None:
    assert as_table(fates(changed[2], case_matters=False)) == {
        "crm_accounts": (396, 2, 0, 6),
        "crm_workspaces": (1486, 2, 12, 0),
        "crm_contacts": (7940, 16, 41, 6),
        "crm_permissions": (9944, 0, 46, 4),
    }


def test_readme_says_the_same() -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    for model, counted in SENT_REJECTED_HELD_INVALID.items():
        assert f"| {model} | {sum(counted)} | " + " | ".join(map(str, counted)) + " |" in readme


# ---------------------------------------------------------------- the data


def test_generator_is_deterministic_and_committed(tmp_path: Path) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    assert script("generate_sources.py", "--out", str(first)).returncode == 0
    assert script("generate_sources.py", "--seed", "8", "--out", str(other)).returncode == 0
    names = [f"{table}.csv" for table in TABLES]
    assert filecmp.cmpfiles(first, PROJECT / "sources", names, shallow=False) == (names, [], [])
    assert filecmp.cmpfiles(first, other, names, shallow=False)[0] == []
    assert sum((first / name).stat().st_size for name in names) < 2_500_000


def test_build_passes_with_the_expected_warnings(built: Built) -> None:
    results = built.results()
    assert {status for status, _ in results.values()} == {"success", "pass", "warn"}
    assert {name: n for name, (status, n) in results.items() if status == "warn"} == {
        "crm_accounts_owner_email_is_known": 1,
        "not_null_crm_accounts_account_id": 2,
        "not_null_crm_accounts_name": 3,
        "unique_crm_accounts_account_id": 1,
        "unique_ignoring_case_crm_accounts_account_id": 2,
        "crm_contacts_account_id_exists": 6,
        "crm_contacts_email_looks_right": 12,
        "not_null_crm_contacts_contact_id": 2,
        "not_null_crm_contacts_last_name": 8,
        "unique_crm_contacts_contact_id": 1,
        "unique_ignoring_case_crm_contacts_contact_id": 2,
        "crm_workspaces_plan_is_known": 1,
        "crm_permissions_key_is_unique": 1,
        "not_null_crm_permissions_contact_id": 2,
    }
    assert "deprecat" not in built.command.stdout.lower()


def test_every_mart_has_error_severity_tests_that_pass(built: Built) -> None:
    nodes = json.loads((built.target / "manifest.json").read_text(encoding="utf-8"))["nodes"].values()
    results = built.results()
    errors: Counter[str] = Counter()
    for node in nodes:
        if node["resource_type"] == "test" and node["config"]["severity"].lower() == "error":
            errors[node["attached_node"].split(".")[-1]] += 1
            assert results[node["name"]] == ("pass", 0)
    assert all(errors[mart] >= 2 for mart in MARTS)
    described = [node for node in nodes if node["name"] in MARTS]
    assert len(described) == 4
    for node in described:
        assert node["description"]
        assert all(column["description"] for column in node["columns"].values())


def test_columns_and_types(built: Built) -> None:
    found: dict[str, dict[str, str]] = {}
    for table, column, kind in built.rows(
        "select table_name, column_name, data_type from information_schema.columns "
        "where table_schema = 'crm' and table_name like 'crm%' order by ordinal_position"
    ):
        found.setdefault(table, {})[column] = kind
    assert {t: [c for c, kind in cs.items() if kind == "VARCHAR"] for t, cs in found.items()} == {
        "crm_accounts": [
            "account_id", "name", "website", "industry", "city", "country", "phone", "description",
            "parent_account_id", "owner_email",
        ],
        "crm_workspaces": ["workspace_id", "account_id", "name", "plan", "region"],
        "crm_contacts": [
            "contact_id", "account_id", "workspace_id", "first_name", "last_name", "email", "phone", "title",
            "description",
        ],
        "crm_permissions": ["workspace_id", "contact_id", "role"],
    }  # fmt: skip
    assert {t: {c: kind for c, kind in cs.items() if kind != "VARCHAR"} for t, cs in found.items()} == {
        "crm_accounts": {
            "employees": "INTEGER",
            "annual_revenue": "DECIMAL(18,2)",
            "customer_since": "DATE",
            "last_seen_at": "TIMESTAMP WITH TIME ZONE",
            "is_active": "BOOLEAN",
        },
        "crm_workspaces": {
            "seats": "INTEGER",
            "mrr": "DECIMAL(16,2)",
            "trial_ends_at": "TIMESTAMP WITH TIME ZONE",
        },
        "crm_contacts": {"birthdate": "DATE"},
        "crm_permissions": {"joined_on": "DATE"},
    }


def test_text_arrives_as_it_was_written(built: Built) -> None:
    def as_read(columns: tuple[str, ...], table: str) -> Counter[tuple[str | None, ...]]:
        rows = read_csv(PROJECT / "sources" / f"{table}.csv")
        return Counter(tuple(row[c] if row[c].strip() else None for c in columns) for row in rows)

    accounts = built.rows("select account_id, name, city, description, parent_account_id from crm_accounts")
    assert Counter(accounts) == as_read(("id", "name", "city", "description", "parent_id"), "raw_accounts")
    contacts = built.rows("select contact_id, first_name, last_name, title, description from crm_contacts")
    assert Counter(contacts) == as_read(("id", "first_name", "last_name", "job_title", "notes"), "raw_users")


def test_values_keep_their_meaning(built: Built) -> None:
    assert built.one("select max(annual_revenue) from crm_accounts") == Decimal("1234567890123456.78")
    assert built.one("select count(*) from crm_accounts where customer_since = date '2024-02-29'") >= 1
    source = {row["id"]: row for row in read_csv(PROJECT / "sources" / "raw_workspaces.csv")}
    for key, mrr, at in built.rows("select workspace_id, mrr, epoch_us(trial_ends_at) from crm_workspaces"):
        assert mrr == (Decimal(source[key]["mrr"]) if source[key]["mrr"].strip() else None)
        if source[key]["trial_ends_at"]:
            moment = source[key]["trial_ends_at"]
            assert at == (datetime.fromisoformat(moment) - EPOCH) // timedelta(microseconds=1), moment
    births = [row[0] for row in built.rows("select birthdate from crm_contacts where birthdate is not null")]
    assert all(isinstance(birth, date) for birth in births)


@pytest.mark.parametrize(
    ("what", "sql", "expected"),
    [
        ("accounts", "select count(*) from crm_accounts", 404),
        ("workspaces", "select count(*) from crm_workspaces", 1500),
        ("contacts", "select count(*) from crm_contacts", 8000),
        ("permissions", "select count(*) from crm_permissions", 10_000),
        ("accounts with a parent", "select count(parent_account_id) from crm_accounts", 61),
        (
            "accounts between two others",
            "select count(*) from crm_accounts where parent_account_id is not null "
            "and account_id in (select parent_account_id from crm_accounts)",
            17,
        ),
        ("null account keys", "select count(*) from crm_accounts where account_id is null", 2),
        ("same account key", "select count(*) from crm_accounts where account_id = 'ACC-0117'", 2),
        (
            "account keys apart by case and blank",
            "select count(*) from crm_accounts where account_id in ('ACC-0042', 'acc-0042 ')",
            2,
        ),
        ("nameless accounts", "select count(*) from crm_accounts where name is null", 3),
        ("owners who left", "select count(*) from crm_accounts where owner_email like 'left.company@%'", 3),
        ("Legacy plans", "select count(*) from crm_workspaces where plan = 'Legacy'", 2),
        (
            "workspaces of nameless accounts",
            "select count(*) from crm_workspaces join crm_accounts a using (account_id) where a.name is null",
            15,
        ),
        (
            "contacts of nameless accounts",
            "select count(*) from crm_contacts join crm_accounts a using (account_id) where a.name is null",
            40,
        ),
        (
            "contacts of accounts that do not exist",
            "select count(*) from crm_contacts anti join crm_accounts using (account_id) where account_id is not null",
            6,
        ),
        ("contacts without last name", "select count(*) from crm_contacts where last_name is null", 8),
        ("null contact keys", "select count(*) from crm_contacts where contact_id is null", 2),
        ("contacts of nobody", "select count(*) from crm_contacts where account_id is null", 60),
        ("null half of a composite key", "select count(*) from crm_permissions where contact_id is null", 2),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) and "select" not in value else "",
)
def test_mess_counted(built: Built, what: str, sql: str, expected: int) -> None:
    assert built.one(sql) == expected, what


@pytest.mark.parametrize(
    "condition",
    [
        "regexp_matches(d, '\\p{Arabic}')",
        "regexp_matches(d, '\\p{Hebrew}')",
        "regexp_matches(d, '\\p{Han}')",
        "regexp_matches(d, '\\p{Hiragana}')",
        "regexp_matches(d, '\\p{Greek}')",
        "regexp_matches(d, '\\p{Cyrillic}')",
        "regexp_matches(d, '\\p{Devanagari}')",
        "regexp_matches(d, '[\\x{1F300}-\\x{1FAFF}]')",
        "d like '%é%'",
        "d like '%O''Brien%'",
        "d like '%,%'",
        "d like '%\"%'",
        "d = '\"'",
        "contains(d, chr(9))",
        "contains(d, chr(13) || chr(10))",
        "contains(replace(d, chr(13) || chr(10), ''), chr(10))",
        "d like '% ' and length(d) > 2",
        "d like '=%'",
        "d in ('Null', 'null')",
        "length(d) between 2000 and 5200",
    ],
)
def test_mess_in_text(built: Built, condition: str) -> None:
    texts = (
        "select name as d from crm_accounts union all select description from crm_accounts union all "
        "select last_name from crm_contacts union all select first_name from crm_contacts union all "
        "select title from crm_contacts union all select description from crm_contacts"
    )
    assert built.one(f"select count(*) from ({texts}) where {condition}") > 0


# ---------------------------------------------------------------- the change


def by_key(table: str, folder: Path) -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {}
    for row in read_csv(folder / f"{table}.csv"):
        key = f"{row['workspace_id']}/{row['user_id']}" if table == TABLES[3] else row["id"]
        rows.setdefault(key, []).append(json.dumps(row, ensure_ascii=False))
    return rows


def test_change_does_exactly_what_it_prints(changed: tuple[Path, str, Built]) -> None:
    folder, printed, _ = changed
    *lines, summary = printed.splitlines()
    read = [re.fullmatch(r"(\S+)  (\S+)  (.*)", line) for line in lines]
    told = {(m[1], m[2]): m[3] for m in read if m}
    assert len(told) == len(lines) == 26
    assert summary.endswith(
        "accounts renamed 5, accounts named 1, mrr changed 7, e-mails repaired 4, contacts added 3, "
        "permissions removed 6"
    )
    differing: dict[tuple[str, str], str] = {}
    for table in TABLES:
        before, after = by_key(table, PROJECT / "sources"), by_key(table, folder)
        for key in before.keys() | after.keys():
            if before.get(key) == after.get(key):
                continue
            if key not in before or key not in after:
                differing[table, key] = "added" if key in after else "removed"
                continue
            [old], [new] = before[key], after[key]
            old_row, new_row = json.loads(old), json.loads(new)
            [column] = [c for c in old_row if old_row[c] != new_row[c]]
            was, now = (json.dumps(row[column], ensure_ascii=False) for row in (old_row, new_row))
            differing[table, key] = f"{column}: {was} -> {now}"
    assert differing == told
    assert ("raw_accounts", "ACC-0138") in told


def test_only_what_changed_is_different_in_the_models(built: Built, changed: tuple[Path, str, Built]) -> None:
    different = {}
    for mart in MARTS:
        before, after = (Counter(b.rows(f"select * from {mart}")) for b in (built, changed[2]))
        different[mart] = ((before - after).total(), (after - before).total())
    assert different == {
        "crm_accounts": (6, 6),
        "crm_workspaces": (7, 7),
        "crm_contacts": (4, 7),
        "crm_permissions": (6, 0),
    }


def test_change_again_and_reset(tmp_path: Path) -> None:
    folder = tmp_path / "again"
    first = script("change_sources.py", sources=str(folder)).stdout
    second = script("change_sources.py", sources=str(folder)).stdout
    assert len(second.splitlines()) == 27
    assert first != second
    assert script("change_sources.py", "--reset", sources=str(folder)).returncode == 0
    names = [f"{table}.csv" for table in TABLES]
    assert filecmp.cmpfiles(folder, PROJECT / "sources", names, shallow=False) == (names, [], [])
    assert script("change_sources.py", sources=str(folder)).stdout == first


@pytest.mark.parametrize("sources", [None, "sources", str(PROJECT / "sources")])
def test_committed_data_are_never_changed(sources: str | None) -> None:
    before = {file.name: file.read_bytes() for file in (PROJECT / "sources").iterdir()}
    refused = script("change_sources.py", sources=sources)
    assert refused.returncode == 1
    assert "SEQSYNC_SOURCES" in refused.stderr
    assert before == {file.name: file.read_bytes() for file in (PROJECT / "sources").iterdir()}
