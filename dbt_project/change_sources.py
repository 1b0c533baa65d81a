"""Changes a little of the demo's raw data and prints exactly what, to see a sync send just that.

    SEQSYNC_SOURCES=/some/folder python dbt_project/change_sources.py [--seed 7]
    SEQSYNC_SOURCES=/some/folder python dbt_project/change_sources.py --reset

The folder is a working copy of the committed `sources`, made when it is not there yet; dbt reads it when
SEQSYNC_SOURCES names it; a relative one counts from the dbt project. The committed files themselves are
never changed. Each run is one more change.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from generate_sources import (
    BAD_EMAILS,
    CHILDREN,
    COLUMNS,
    COMMITTED,
    NAMELESS,
    PROJECT,
    SPECIAL_ACCOUNTS,
    Row,
    Tables,
    company_name,
    email_for,
    make_user,
    read_tables,
    write_tables,
)

RENAMED, REPRICED, ADDED, FIXED, REMOVED, NAMED = 5, 7, 3, 4, 6, 1


@dataclass(frozen=True)
class Change:
    kind: str
    table: str
    key: str
    column: str = ""
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        if not self.column:
            return f"{self.table}  {self.key}  {self.kind.split()[-1]}"
        before, after = (json.dumps(text, ensure_ascii=False) for text in (self.before, self.after))
        return f"{self.table}  {self.key}  {self.column}: {before} -> {after}"


def working_folder(given: str) -> Path:
    if not given:
        sys.exit(
            "SEQSYNC_SOURCES is not set. Set it to a folder of your own, for dbt (and Dagster) and for this "
            "script alike: the committed sources are not changed."
        )
    folder = (PROJECT / given).resolve()
    if folder == COMMITTED:
        sys.exit(f"SEQSYNC_SOURCES is the committed folder, which is not changed: {COMMITTED}")
    return folder


def reset(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for table in COLUMNS:
        shutil.copyfile(COMMITTED / f"{table}.csv", folder / f"{table}.csv")


def change(tables: Tables, seed: int) -> list[Change]:
    """Changes `tables` in place. Only rows that a sync can send are touched, bar those it repairs."""
    accounts, workspaces, users, permissions = (tables[table] for table in COLUMNS)
    # Every change adds contacts: with their number in the seed, the next change is another one.
    rng = random.Random(f"{seed}:{len(users)}")
    changes: list[Change] = []

    def edit(kind: str, table: str, rows: list[Row], count: int, column: str, value: Callable[[Row], str]) -> None:
        for row in sorted(rng.sample(rows, min(count, len(rows))), key=lambda row: row["id"]):
            before, after = row[column], value(row)
            while after == before:
                after = value(row)
            row[column] = after
            changes.append(Change(kind, table, row["id"], column, before, after))

    clean = [row for row in workspaces if row["account_id"] not in CHILDREN and row["plan"] != "Legacy"]
    removable = sendable_permissions(users, clean, permissions)

    no_key_or_special = ("", *SPECIAL_ACCOUNTS)
    ordinary = [row for row in accounts if row["id"].strip().upper() not in no_key_or_special]
    edit("accounts renamed", "raw_accounts", ordinary, RENAMED, "name", lambda _: company_name(rng))
    nameless = [row for row in accounts if row["id"] in NAMELESS and not row["name"].strip()]
    nameless.sort(key=lambda row: row["id"])
    edit("accounts named", "raw_accounts", nameless[:NAMED], NAMED, "name", lambda _: company_name(rng))

    priced = [row for row in clean if row["mrr"].strip() and row["plan"] != "Free"]

    def dearer(row: Row) -> str:
        return str(Decimal(row["mrr"]) + rng.randrange(10, 500))

    edit("mrr changed", "raw_workspaces", priced, REPRICED, "mrr", dearer)

    bad = [row for row in users if row["email"] in BAD_EMAILS]

    def repaired(row: Row) -> str:
        return email_for(int(row["id"].removeprefix("CON-")), rng)

    edit("e-mails repaired", "raw_users", bad, FIXED, "email", repaired)

    last = max(int(row["id"].strip()[4:]) for row in users if row["id"].strip())
    for number in range(last + 1, last + 1 + ADDED):
        home = rng.choice(clean)
        users.append(make_user(rng, number, home["account_id"], home["id"]))
        changes.append(Change("contacts added", "raw_users", users[-1]["id"]))

    removed = rng.sample(removable, min(REMOVED, len(removable)))
    for row in sorted(removed, key=lambda row: (row["workspace_id"], row["user_id"])):
        permissions.remove(row)
        key = f"{row['workspace_id']}/{row['user_id']}"
        changes.append(Change("permissions removed", "raw_workspace_permissions", key))
    return changes


def sendable_permissions(users: list[Row], clean: list[Row], permissions: list[Row]) -> list[Row]:
    places = {row["id"] for row in clean}
    seen = Counter(row["id"].strip().upper() for row in users)
    people = {
        row["id"]
        for row in users
        if row["workspace_id"] in places
        and row["last_name"].strip()
        and row["email"] not in BAD_EMAILS
        and seen[row["id"].strip().upper()] == 1
    }
    pairs = Counter((row["workspace_id"], row["user_id"]) for row in permissions)
    return [
        row
        for row in permissions
        if row["workspace_id"] in places
        and row["user_id"].strip()
        and row["user_id"] in people
        and pairs[row["workspace_id"], row["user_id"]] == 1
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Change a little of the raw data, and say what.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--reset", action="store_true", help="back to the committed data, and nothing else")
    arguments = parser.parse_args()

    folder = working_folder(os.environ.get("SEQSYNC_SOURCES", ""))
    if arguments.reset:
        reset(folder)
        print(f"{folder} holds the committed data.")
        return
    if not all((folder / f"{table}.csv").exists() for table in COLUMNS):
        reset(folder)
    tables = read_tables(folder)
    changes = change(tables, arguments.seed)
    write_tables(tables, folder)
    for made in changes:
        print(made)
    counted = Counter(made.kind for made in changes)
    print(f"{len(changes)} changes in {folder}: " + ", ".join(f"{kind} {n}" for kind, n in counted.items()))


if __name__ == "__main__":
    main()
