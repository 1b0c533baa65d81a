"""Writing records: the rules every row passes, whichever API it came by, and the SQL that applies it.

Rows go through in groups of at most a few hundred: each rule looks at the whole group with one query.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from seqsync_dagster.emulator.errors import RowError
from seqsync_dagster.emulator.faults import OrgRule
from seqsync_dagster.emulator.ids import MalformedIdError, WrongTypeError
from seqsync_dagster.emulator.orgrules import check_rule
from seqsync_dagster.emulator.pointing import lookups_to, number_of, places, write_id
from seqsync_dagster.emulator.schema import OBJECTS, Column, Field, SObject
from seqsync_dagster.emulator.store import INTEGRATION_USER, Store, now
from seqsync_dagster.emulator.values import Clean, MistypedError, RefusedError, cleaner

NO_SUCH_RECORD = RowError("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id")
DELETED = RowError("ENTITY_IS_DELETED", "entity is deleted")

MistypedMaker = Callable[[Field, Any], RowError]


@dataclass(slots=True)
class Row:
    """One row to write, and what became of it. A cell of None sets its field to null."""

    cells: list[tuple[Column, Any]]
    record: int | None = None
    created: bool = False
    error: RowError | None = None
    values: dict[str, Any] = field(default_factory=dict)
    parents: list[tuple[Column, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Guards:
    """What may refuse a row that is valid in itself: locks, and the rules of the org's administrator."""

    locked: Callable[[Row], bool] = lambda _: False
    rules: tuple[OrgRule, ...] = ()
    allow_save: bool = False
    owner: int | None = None
    """To whom an assignment rule gives the records."""


NO_GUARDS = Guards()


def _fold(text: str) -> str:
    """Two texts are equal to SQLite's NOCASE, which folds ASCII only, when their folds are."""
    if text.isascii():
        return text.lower()
    return "".join(c.lower() if c < "\x80" else c for c in text)


class Writer:
    """One operation on one object, for groups of rows; `write` wants an open transaction."""

    def __init__(
        self, store: Store, obj: SObject, operation: str, key: Field | None, mistyped: MistypedMaker,
        guards: Guards = NO_GUARDS, watermark: int | None = None,
    ) -> None:  # fmt: skip
        self.store, self.obj, self.operation, self.key = store, obj, operation, key
        self.mistyped, self.guards = mistyped, guards
        # Rows of one Bulk job cannot be each other's parents: those above the watermark are not seen.
        self.watermark = watermark
        self._cleaners: dict[str, Clean] = {
            f.name: cleaner(f, store.ids) for f in obj.fields.values() if f.writable or f.type == "boolean"
        }

    def clean(self, rows: Iterable[Row]) -> None:
        """The rules that need no look at the store; no transaction is needed either."""
        for row in rows:
            if row.error is None:
                try:
                    self._clean(row)
                except RefusedError as refused:
                    row.error = refused.error

    def write(self, db: sqlite3.Connection, rows: list[Row]) -> None:
        """Apply what `clean` let through."""
        if self.operation in ("delete", "hardDelete"):
            self._delete(db, [r for r in rows if r.error is None])
            return
        for step in (self._find_parents, self._match, self._check_references):
            step(db, [r for r in rows if r.error is None])
        for row in rows:
            if row.error is None:
                self._complete(row)
        for rule in self.guards.rules:
            check_rule(db, self.store, self.obj, rule, self.guards.allow_save, [r for r in rows if r.error is None])
        if self.guards.owner is not None:
            for row in rows:
                row.values["OwnerId"] = self.guards.owner
        self._number(db, [r for r in rows if r.error is None])
        self._check_unique(db, [r for r in rows if r.error is None])
        self._apply(db, [r for r in rows if r.error is None])

    def _clean(self, row: Row) -> None:
        for column, raw in row.cells:
            target = column.field
            if target.type == "id":
                self._take_id(row, raw)
            elif not target.writable or not self.obj.writable:
                row.error = not_writable(target.name)
                return
            elif column.via is not None and raw is not None:
                row.parents.append((column, str(raw).strip()))
            elif raw is not None:
                try:
                    row.values[target.name] = self._cleaners[target.name](raw)
                except MistypedError:
                    row.error = self.mistyped(target, raw)
                    return
            elif target.type == "boolean":
                message = f"{target.label}: value not of required type: "
                raise RefusedError("INVALID_TYPE_ON_FIELD_IN_RECORD", message, target.name)
            elif target.name == "OwnerId":
                raise RefusedError("INVALID_CROSS_REFERENCE_KEY", "Owner ID: owner cannot be blank", "OwnerId")
            else:
                row.values[target.name] = None
        if row.record is None and self.operation in ("update", "delete", "hardDelete"):
            raise RefusedError("MISSING_ARGUMENT", f"Id not specified in {_article(self.operation)} call")
        if self.operation == "upsert" and self.key and self.key.name != "Id" and not row.values.get(self.key.name):
            raise RefusedError("MISSING_ARGUMENT", f"{self.key.name} not specified")

    def _take_id(self, row: Row, raw: Any) -> None:
        if self.operation == "insert":
            raise RefusedError("INVALID_FIELD_FOR_INSERT_UPDATE", "cannot specify Id in an insert call", "Id")
        if self.operation == "upsert" and self.key and self.key.name != "Id":
            raise RefusedError("INVALID_FIELD", "The Id field should not be specified in the sobject data.", "Id")
        if not raw:
            return
        try:
            row.record = self.store.ids.decode(str(raw), self.obj.prefix)
        except MalformedIdError:
            raise RefusedError("MALFORMED_ID", f"{self.obj.label} ID: malformed id {raw}", "Id") from None
        except WrongTypeError:
            message = f"{self.obj.label} ID: id value of incorrect type: {raw}"
            raise RefusedError("MALFORMED_ID", message, "Id") from None

    def _living(self, db: sqlite3.Connection, obj: SObject, by: Field, values: list[str]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for n, value in db.execute(
            f'SELECT "Id", "{by.name}" FROM "{obj.name}" WHERE "IsDeleted" = 0 '
            f'AND "{by.name}" IN (SELECT value FROM json_each(?))',
            (json.dumps(values),),
        ):
            found[_fold(value)].append(n)
        return found

    def _find_parents(self, db: sqlite3.Connection, rows: list[Row]) -> None:
        wanted: dict[Column, list[str]] = defaultdict(list)
        for row in rows:
            for column, value in row.parents:
                wanted[column].append(value)
        for column, values in wanted.items():
            parent, via = OBJECTS[column.parent], column.via
            assert via is not None
            found = self._living(db, parent, via, values)
            for row in rows:
                for other, value in row.parents:
                    if other != column or row.error:
                        continue
                    numbers = found.get(_fold(value), [])
                    if self.watermark is not None and parent is self.obj:
                        numbers = [n for n in numbers if n <= self.watermark]
                    if len(numbers) == 1:
                        row.values[column.field.name] = number_of(column.field, parent, numbers[0])
                    elif numbers:
                        row.error = self._several(parent, via, numbers)
                    else:
                        row.error = RowError(
                            "INVALID_FIELD",
                            f"Foreign key external ID: {value} not found for field {via.name} in entity {parent.name}",
                        )

    def _several(self, obj: SObject, by: Field, numbers: list[int]) -> RowError:
        ids = ", ".join(self.store.id_of(obj, n)[:15] for n in numbers)
        message = f"{by.label}: more than one record found for external id field: [{ids}]"
        return RowError("DUPLICATE_EXTERNAL_ID", message)

    def _match(self, db: sqlite3.Connection, rows: list[Row]) -> None:
        if self.operation == "insert":
            return
        if self.operation == "upsert" and self.key is not None and self.key.name != "Id":
            key, seen = self.key, set()
            found = self._living(db, self.obj, key, [row.values[key.name] for row in rows])
            for row in rows:
                value = _fold(row.values[key.name])
                numbers = found.get(value, [])
                if value in seen:
                    given = row.values[key.name]
                    row.error = RowError("DUPLICATE_VALUE", f"Duplicate external id specified: {given}", (key.name,))
                elif len(numbers) > 1:
                    row.error = self._several(self.obj, key, numbers)
                elif numbers:
                    row.record = numbers[0]
                    # Matched without regard to case, and left as it is stored.
                    del row.values[key.name]
                seen.add(value)
            return
        self._check_living(db, [row for row in rows if row.record is not None])

    def _check_living(self, db: sqlite3.Connection, rows: list[Row]) -> None:
        state = dict(
            db.execute(
                f'SELECT "Id", "IsDeleted" FROM "{self.obj.name}" WHERE "Id" IN (SELECT value FROM json_each(?))',
                (json.dumps([row.record for row in rows]),),
            )
        )
        seen: set[int | None] = set()
        for row in rows:
            if row.record not in state:
                row.error = NO_SUCH_RECORD
            elif state[row.record]:
                row.error = DELETED
            elif row.record in seen:
                given = self.store.id_of(self.obj, row.record or 0)
                row.error = RowError("DUPLICATE_VALUE", f"Duplicate id specified: {given}")
            seen.add(row.record)

    def _check_references(self, db: sqlite3.Connection, rows: list[Row]) -> None:
        for lookup in (f for f in self.obj.fields.values() if f.refers):
            pointing = [row for row in rows if row.values.get(lookup.name) is not None]
            if not pointing:
                continue
            listed = json.dumps(list({row.values[lookup.name] for row in pointing}))
            alive = {
                first + n
                for parent, first in places(lookup)
                for (n,) in db.execute(
                    f'SELECT "Id" FROM "{parent.name}" '
                    f'WHERE "IsDeleted" = 0 AND "Id" IN (SELECT value - {first} FROM json_each(?))',
                    (listed,),
                )
            }
            if lookup.name == "OwnerId":
                self._refuse_inactive(db, pointing)
            for row in pointing:
                if row.values[lookup.name] not in alive and row.error is None:
                    row.error = RowError(NO_SUCH_RECORD.code, NO_SUCH_RECORD.message, (lookup.name,))

    def _refuse_inactive(self, db: sqlite3.Connection, rows: list[Row]) -> None:
        inactive = {n for (n,) in db.execute('SELECT "Id" FROM "User" WHERE "IsActive" = 0')}
        for row in rows:
            owner = row.values["OwnerId"]
            if owner in inactive and row.error is None:
                user = self.store.id_of(OBJECTS["User"], owner)[:15]
                message = f"operation performed with inactive user [{user}] as owner of {self.obj.label.lower()}"
                row.error = RowError("INACTIVE_OWNER_OR_USER", message, ("OwnerId",))

    def _complete(self, row: Row) -> None:
        row.created = row.record is None
        if row.created:
            missing = [f.name for f in self.obj.required if row.values.get(f.name) is None]
        else:
            missing = [f.name for f in self.obj.required if row.values.get(f.name, 0) is None]
        kept = [name for name in row.values if self.obj.fields[name].fixed]
        if kept and not row.created:
            row.error = not_writable(kept[0])
        elif missing:
            message = f"Required fields are missing: [{', '.join(missing)}]"
            row.error = RowError("REQUIRED_FIELD_MISSING", message, tuple(missing))
        elif self.guards.locked(row):
            row.error = self._locked(row)

    def _locked(self, row: Row) -> RowError:
        """A write locks the record and its parents ("Locking" in the Bulk API 2.0 guide's data load tips)."""
        held = [self.store.id_of(self.obj, row.record)] if row.record is not None and not row.created else []
        for lookup in (f for f in self.obj.own if f.refers and row.values.get(f.name)):
            held.append(write_id(self.store.ids, lookup, row.values[lookup.name]))
        named = f" or {len(held)} records: {','.join(held)}" if held else ""
        return RowError("UNABLE_TO_LOCK_ROW", f"unable to obtain exclusive access to this record{named}")

    def _number(self, db: sqlite3.Connection, rows: list[Row]) -> None:
        (last,) = db.execute(f'SELECT coalesce(max("Id"), 0) FROM "{self.obj.name}"').fetchone()
        for row in rows:
            if row.created:
                last += 1
                row.record = last

    def _check_unique(self, db: sqlite3.Connection, rows: list[Row]) -> None:
        for unique in self.obj.uniques:
            setting = [row for row in rows if row.values.get(unique.name) is not None]
            if not setting or (self.operation == "upsert" and unique is self.key):
                continue
            taken = self._living(db, self.obj, unique, [row.values[unique.name] for row in setting])
            for row in setting:
                value = _fold(row.values[unique.name])
                others = [n for n in taken.get(value, []) if n != row.record]
                if others:
                    holder = self.store.id_of(self.obj, others[0])[:15]
                    message = f"duplicate value found: {unique.name} duplicates value on record with id: {holder}"
                    row.error = RowError("DUPLICATE_VALUE", message)
                elif row.record is not None:
                    taken[value].append(row.record)

    def _apply(self, db: sqlite3.Connection, rows: list[Row]) -> None:
        stamp = now()
        defaults: dict[str, Any] = {f.name: 0 if f.type == "boolean" else None for f in self.obj.stored}
        defaults |= {"OwnerId": INTEGRATION_USER, "CreatedDate": stamp, "LastModifiedDate": stamp}
        new = [{**defaults, **row.values, "Id": row.record} for row in rows if row.created]
        if new:
            marks = ", ".join(f":{name}" for name in defaults)
            names = ", ".join(f'"{name}"' for name in defaults)
            db.executemany(f'INSERT INTO "{self.obj.name}" ({names}) VALUES ({marks})', new)
        shapes: dict[tuple[str, ...], list[tuple[Any, ...]]] = defaultdict(list)
        for row in rows:
            if not row.created:
                shapes[tuple(row.values)].append((*row.values.values(), stamp, row.record))
        for names_set, tuples in shapes.items():
            sets = ", ".join(f'"{name}" = ?' for name in (*names_set, "LastModifiedDate"))
            db.executemany(f'UPDATE "{self.obj.name}" SET {sets} WHERE "Id" = ?', tuples)

    def _delete(self, db: sqlite3.Connection, rows: list[Row]) -> None:
        self._check_living(db, rows)
        rows = [row for row in rows if row.error is None]
        for row in rows:
            if self.guards.locked(row):
                row.error = self._locked(row)
        roots = {row.record: row for row in rows if row.error is None and row.record is not None}
        doomed = self._doomed(db, list(roots))
        for name, numbers in doomed.items():
            for child, lookup, first in lookups_to(name):
                if on_delete(lookup) == "restrict":
                    self._keep_parents(db, child, lookup, first, numbers, doomed, roots)
        stamp = now()
        for name, numbers in doomed.items():
            gone = json.dumps([n for n, root in numbers.items() if roots[root].error is None])
            for child, lookup, first in lookups_to(name):
                if on_delete(lookup) == "clear":
                    db.execute(
                        f'UPDATE "{child.name}" SET "{lookup.name}" = NULL, "LastModifiedDate" = ? '
                        f'WHERE "IsDeleted" = 0 AND "{lookup.name}" IN (SELECT value + {first} FROM json_each(?))',
                        (stamp, gone),
                    )
            db.execute(
                f'UPDATE "{name}" SET "IsDeleted" = 1, "LastModifiedDate" = ? '
                'WHERE "Id" IN (SELECT value FROM json_each(?))',
                (stamp, gone),
            )

    def _doomed(self, db: sqlite3.Connection, numbers: list[int]) -> dict[str, dict[int, int]]:
        """What goes with these records, by object: each record with the one whose deletion takes it along."""
        doomed: dict[str, dict[int, int]] = {self.obj.name: {n: n for n in numbers}}
        fresh = [(self.obj.name, doomed[self.obj.name])]
        while fresh:
            name, parents = fresh.pop()
            for child, lookup, first in lookups_to(name):
                if on_delete(lookup) != "cascade":
                    continue
                known = doomed.setdefault(child.name, {})
                pointing = _pointing(db, child, lookup, first, parents)
                found = {n: parents[parent] for n, parent in pointing if n not in known}
                known |= found
                if found:
                    fresh.append((child.name, found))
        return doomed

    def _keep_parents(
        self, db: sqlite3.Connection, child: SObject, lookup: Field, first: int, parents: dict[int, int],
        doomed: dict[str, dict[int, int]], roots: dict[int, Row],
    ) -> None:  # fmt: skip
        for number, parent in _pointing(db, child, lookup, first, parents):
            root = roots[parents[parent]]
            if number not in doomed.get(child.name, {}) and root.error is None:
                root.error = RowError(
                    "DELETE_FAILED",
                    f"Your attempt to delete {self.store.id_of(self.obj, root.record or 0)} could not be completed "
                    f"because it is associated with the following {child.label}s.",
                )


def not_writable(name: str) -> RowError:
    return RowError(
        "INVALID_FIELD_FOR_INSERT_UPDATE",
        f"Unable to create/update fields: {name}. Please check the security settings of this field "
        "and verify that it is read/write for your profile or permission set.",
        (name,),
    )


def on_delete(lookup: Field) -> str:
    """What the deletion of a parent does to those who point at it ("Object Relationships Overview" of the help)."""
    if lookup.fixed:
        return "cascade"
    # Salesforce keeps a merged record's master as it was, whatever becomes of it.
    if lookup.name == "MasterRecordId":
        return "keep"
    return "restrict" if lookup.required else "clear"


def _pointing(
    db: sqlite3.Connection, child: SObject, lookup: Field, first: int, parents: Iterable[int]
) -> list[tuple[int, int]]:
    """The children of these parents, each with its parent; `first`: see `lookups_to`."""
    return db.execute(
        f'SELECT "Id", "{lookup.name}" - {first} FROM "{child.name}" '
        f'WHERE "IsDeleted" = 0 AND "{lookup.name}" IN (SELECT value + {first} FROM json_each(?))',
        (json.dumps(list(parents)),),
    ).fetchall()


def _article(operation: str) -> str:
    return f"an {operation}" if operation[0] in "aeiou" else f"a {operation}"
