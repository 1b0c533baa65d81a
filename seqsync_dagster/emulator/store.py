"""The emulated org on disk: one SQLite file, a table per object, written by one thread at a time."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from seqsync_dagster.emulator.ids import IdSpace, checksum, random_org_id
from seqsync_dagster.emulator.pointing import write_id
from seqsync_dagster.emulator.schema import DECIMAL_TYPES, OBJECTS, TEXT_TYPES, Field, SObject

INTEGRATION_USER = 1
_PEOPLE = ("Ana Kovac", "Bruno Silva", "Chidi Okafor", "Dana Levi", "Emre Yilmaz", "Frida Lund")
_LEFT = "Frida Lund"
_OWN_TABLES = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (token TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS jobs (
    n INTEGER PRIMARY KEY, object TEXT NOT NULL, operation TEXT NOT NULL, key TEXT, line_ending TEXT NOT NULL,
    delimiter TEXT NOT NULL, version REAL NOT NULL, state TEXT NOT NULL, created TEXT NOT NULL,
    modstamp TEXT NOT NULL, uploaded INTEGER NOT NULL DEFAULT 0, handed_in REAL, read INTEGER NOT NULL DEFAULT 0,
    processed INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0, took_ms INTEGER NOT NULL DEFAULT 0,
    error TEXT, header TEXT NOT NULL DEFAULT '', watermark INTEGER NOT NULL DEFAULT 0, soql TEXT,
    assignment TEXT);
CREATE TABLE IF NOT EXISTS job_results (
    job INTEGER NOT NULL, chunk INTEGER NOT NULL, succeeded TEXT NOT NULL, failed TEXT NOT NULL,
    PRIMARY KEY (job, chunk)) WITHOUT ROWID;
"""


def now() -> str:
    """This second, as datetimes are stored: UTC, text that sorts."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def wire_datetime(stored: str) -> str:
    return (stored if "." in stored else stored + ".000") + "+0000"


def _column(f: Field) -> str:
    # Decimals are text: a REAL would not give 123456789012.34 back exactly.
    kind = "TEXT COLLATE NOCASE" if f.type in TEXT_TYPES else "TEXT"
    kind = "INTEGER" if f.type in ("id", "int", "boolean", "reference") else kind
    kind += " PRIMARY KEY" if f.name == "Id" else ""
    kind += f" GENERATED ALWAYS AS ({f.computed}) VIRTUAL" if f.computed else ""
    return f'"{f.name}" {kind}'


def _ddl(obj: SObject) -> Iterator[str]:
    columns = (_column(f) for f in obj.fields.values())
    yield f'CREATE TABLE IF NOT EXISTS "{obj.name}" ({", ".join(columns)})'
    for f in obj.own:
        if f.match or (f.refers and f.writable):
            unique = "UNIQUE " if f.unique else ""
            yield (
                f'CREATE {unique}INDEX IF NOT EXISTS "{obj.name}_{f.name}" ON "{obj.name}" ("{f.name}") '
                f'WHERE "IsDeleted" = 0'
            )


class Store:
    """Connections to the file, and what is known of the org as a whole."""

    def __init__(self, path: Path, org_id: str | None = None, *, production: bool = False) -> None:
        self.production = production
        self.path = path
        self.uploads = path.with_name(path.name + "-uploads")
        self.uploads.mkdir(parents=True, exist_ok=True)
        for cut_short in self.uploads.glob("*.part"):
            cut_short.unlink()
        self._local = threading.local()
        self._lock = threading.Lock()
        self.reader().executescript(_OWN_TABLES)
        with self.write() as db:
            for obj in OBJECTS.values():
                table, *indexes = _ddl(obj)
                db.execute(table)
                self._catch_up(db, obj.name, {f.name: _column(f) for f in obj.fields.values()})
                for index in indexes:
                    db.execute(index)
            self._catch_up(db, "jobs", {"soql": "soql TEXT", "assignment": "assignment TEXT"})
            known = self.setting("org_id")
            if org_id and known and org_id[:15] != known[:15]:
                raise ValueError(f"{path} belongs to organization {known}, not {org_id}")
            self.org_id = (known or org_id or random_org_id())[:15]
            self.org_id += checksum(self.org_id)
            self.ids = IdSpace(self.org_id)
            if not known:
                db.execute("INSERT INTO settings VALUES ('org_id', ?)", (self.org_id,))
                self._seed(db)

    def _catch_up(self, db: sqlite3.Connection, table: str, columns: dict[str, str]) -> None:
        """A file of an earlier version gets the columns that came since."""
        there = {row[1] for row in db.execute(f'PRAGMA table_xinfo("{table}")')}
        for name in columns.keys() - there:
            db.execute(f'ALTER TABLE "{table}" ADD COLUMN {columns[name]}')

    def clear(self) -> None:
        """Everything goes but the organization's id."""
        with self.write() as db:
            for table in ("tokens", "jobs", "job_results", *OBJECTS):
                db.execute(f'DELETE FROM "{table}"')
            db.execute("DELETE FROM settings WHERE name != 'org_id'")
            self._seed(db)
        for upload in self.uploads.iterdir():
            upload.unlink(missing_ok=True)

    def _seed(self, db: sqlite3.Connection) -> None:
        stamp = now()
        db.execute(
            'INSERT INTO "Organization" ("Id", "Name", "IsSandbox", "OrganizationType", "InstanceName", "IsDeleted", '
            '"CreatedDate", "LastModifiedDate") '
            "VALUES (?, 'Emulated Org', ?, 'Enterprise Edition', 'EMU1', 0, ?, ?)",
            (self.ids.org_number, int(not self.production), stamp, stamp),
        )
        for n, name in enumerate(("Integration User", *_PEOPLE), INTEGRATION_USER):
            first, last = name.split()
            email = f"{first}.{last}@example.com".lower()
            db.execute(
                'INSERT INTO "User" ("Id", "Username", "Email", "FirstName", "LastName", "IsActive", "IsDeleted", '
                '"CreatedDate", "LastModifiedDate") VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?)',
                (n, email, email, first, last, int(name != _LEFT), stamp, stamp),
            )

        db.execute(
            'INSERT INTO "Group" ("Id", "Name", "DeveloperName", "Type", "IsDeleted", "CreatedDate", '
            "\"LastModifiedDate\") VALUES (1, 'Support', 'Support', 'Queue', 0, ?, ?)",
            (stamp, stamp),
        )
        # The same developer name for two objects, as orgs have it.
        for n, (obj, developer_name) in enumerate(
            ((o, d) for o in ("Contact", "Account") for d in ("Customer", "Partner")), 1
        ):
            db.execute(
                'INSERT INTO "RecordType" ("Id", "Name", "DeveloperName", "SobjectType", "IsActive", "IsDeleted", '
                '"CreatedDate", "LastModifiedDate") VALUES (?, ?, ?, ?, 1, 0, ?, ?)',
                (n, developer_name, developer_name, obj, stamp, stamp),
            )

    def reader(self) -> sqlite3.Connection:
        """This thread's connection."""
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = sqlite3.connect(self.path, isolation_level=None, timeout=60, cached_statements=256)
            db.execute("PRAGMA journal_mode = WAL")
            # A killed process loses nothing of what it committed: the pages are the kernel's. Only a power cut could.
            db.execute("PRAGMA synchronous = OFF")
            db.execute("PRAGMA cache_size = -16000")
            self._local.db = db
        return db

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction; an exception inside undoes it."""
        db = self.reader()
        with self._lock:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def setting(self, name: str) -> str | None:
        row = self.reader().execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def save_setting(self, name: str, value: str) -> None:
        with self.write() as db:
            db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    def id_of(self, obj: SObject, number: int) -> str:
        return self.ids.encode(obj.prefix, number)

    def wire(self, obj: SObject, field: Field, value: Any) -> Any:
        """A stored value as the API writes it in JSON."""
        if value is None:
            return None
        if field.type == "reference":
            return write_id(self.ids, field, value)
        if field.type == "id":
            return self.ids.encode(obj.prefix, value)
        if field.type == "boolean":
            return bool(value)
        if field.type == "datetime":
            return wire_datetime(value)
        return Decimal(value) if field.type in DECIMAL_TYPES else value

    def records(
        self, obj: SObject, limit: int = -1, offset: int = 0, only: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Living records in the order they were created, or the one whose number is `only`."""
        names = ", ".join(f'"{name}"' for name in obj.fields)
        rows = self.reader().execute(
            f'SELECT {names} FROM "{obj.name}" WHERE "IsDeleted" = 0{" AND Id = ?" if only is not None else ""} '
            'ORDER BY "Id" LIMIT ? OFFSET ?',
            (limit, offset) if only is None else (only, limit, offset),
        )
        for row in rows:
            yield {f.name: self.wire(obj, f, v) for f, v in zip(obj.fields.values(), row, strict=True)}

    def count(self, obj: SObject) -> int:
        row = self.reader().execute(f'SELECT count(*) FROM "{obj.name}" WHERE "IsDeleted" = 0').fetchone()
        return int(row[0])
