"""The rules an administrator switches on: validation rules, duplicate rules and assignment rules.

Salesforce help, "Validation Rules", "Duplicate Rules", "Assignment Rules"; REST API guide, "Duplicate Rule Header",
"Assignment Rule Header".
"""

from __future__ import annotations

import json
import re
import sqlite3
from typing import TYPE_CHECKING, Any

from seqsync_dagster.emulator.errors import RowError
from seqsync_dagster.emulator.faults import OrgRule
from seqsync_dagster.emulator.schema import SObject
from seqsync_dagster.emulator.store import Store

if TYPE_CHECKING:
    from seqsync_dagster.emulator.rules import Row

_VERSION = "v64.0"


def check_rule(
    db: sqlite3.Connection, store: Store, obj: SObject, rule: OrgRule, allow_save: bool, rows: list[Row]
) -> None:
    """Refuse the rows that break a rule of their object, as they would be after the write."""
    if rule.kind == "duplicate_rule" and allow_save and not rule.block:
        return
    names = ", ".join(f'"{name}"' for name in rule.fields)
    known = json.dumps([row.record for row in rows if not row.created])
    sql = f'SELECT "Id", {names} FROM "{obj.name}" WHERE "Id" IN (SELECT value FROM json_each(?))'
    stored = {n: values for n, *values in db.execute(sql, (known,))}
    for row in rows:
        old = stored.get(row.record or 0, [None] * len(rule.fields))
        new = [row.values.get(name, value) for name, value in zip(rule.fields, old, strict=True)]
        if rule.kind == "validation_rule":
            if re.search(rule.matches, "" if new[0] is None else str(new[0])):
                row.error = RowError("FIELD_CUSTOM_VALIDATION_EXCEPTION", rule.message, rule.fields[:1])
        elif (row.created or new != old) and None not in new:
            # A matching rule compares without regard to case, as the columns of text do.
            same = " AND ".join(f'"{name}" = ?' for name in rule.fields)
            sql = f'SELECT "Id" FROM "{obj.name}" WHERE "IsDeleted" = 0 AND {same} AND "Id" != ? ORDER BY "Id" LIMIT 10'
            found = [n for (n,) in db.execute(sql, (*new, row.record or 0))]
            if found:
                row.error = RowError("DUPLICATES_DETECTED", rule.message, (), _duplicates(store, obj, rule, found))


def owner_by(store: Store, rule: OrgRule | None) -> int | None:
    """The user to whom an assignment rule gives the records that are written with it."""
    if rule is None:
        return None
    row = store.reader().execute('SELECT "Id" FROM "User" WHERE "Username" = ?', (rule.owner,)).fetchone()
    return row[0] if row else None


def _duplicates(store: Store, obj: SObject, rule: OrgRule, found: list[int]) -> dict[str, Any]:
    ids = [store.id_of(obj, n) for n in found]
    matched = [
        {
            "additionalInformation": [], "fieldDiffs": [], "matchConfidence": 100.0,
            "record": {
                "attributes": {"type": obj.name, "url": f"/services/data/{_VERSION}/sobjects/{obj.name}/{i}"},
                "Id": i,
            },
        }
        for i in ids
    ]  # fmt: skip
    match = {
        "entityType": obj.name, "errors": [], "matchEngine": "ExactMatchEngine", "matchRecords": matched,
        "rule": f"{obj.name}_Match_Rule", "size": len(ids), "success": True,
    }  # fmt: skip
    result = {
        "allowSave": not rule.block, "duplicateRule": f"{obj.name}_Duplicate_Rule",
        "duplicateRuleEntityType": obj.name, "errorMessage": rule.message, "matchResults": [match],
    }  # fmt: skip
    return {"duplicateResult": result}
