"""What a run must do, in plain Python over dictionaries: no SQL, no hash, no journal.

It follows the words of the documentation, not the statements of the planner, so that one can judge the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, str | None]
Refuses = Callable[[Mapping[str, Any]], bool]


def canonical(text: str | None) -> str | None:
    """A key as the destination compares it."""
    return (text or "").strip().lower() or None


@dataclass
class Entry:
    """What is known of one key. `held` are the values the destination has acknowledged, as the model had them."""

    held: tuple[str | None, ...] | None = None
    exists: bool = False
    state: str = "invalid"
    refused: tuple[str | None, ...] | None = None
    record: dict[str, Any] = field(default_factory=dict)
    parents: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """By field and parent sync."""
    means: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """The parents that the acknowledged row names."""
    lacking: dict[tuple[str, str], str] = field(default_factory=dict)
    """Fields that the record went without, with the key of the parent they mean."""


class SyncOracle:
    """One sync and the records it has written."""

    def __init__(self, spec: Mapping[str, Any], refuses: Refuses = lambda values: False) -> None:
        self.name: str = spec["name"]
        self.key: str = spec["key"]
        self.deletes: bool = spec.get("removed") == "delete"
        self.fields: dict[str, Any] = spec["fields"]
        self.refuses = refuses
        self.entries: dict[str, Entry] = {}
        self.has_run = False

    def references(self) -> dict[str, list[tuple[str, str]]]:
        """Field -> parent syncs, each with its model column."""
        mapped = {f: m for f, m in self.fields.items() if isinstance(m, dict)}
        several = {f: m.get("parents", [m] if "parent" in m else []) for f, m in mapped.items()}
        return {f: [(m["parent"], m["from"]) for m in each] for f, each in several.items() if each}

    def lookups(self) -> dict[tuple[str, str], tuple[str, str]]:
        """Field and parent sync -> that sync and the model column."""
        return {(f, parent): (parent, column) for f, each in self.references().items() for parent, column in each}

    def run(self, model: Sequence[Row], parents: Mapping[str, SyncOracle], whole: bool = True) -> Counter[str]:
        """One run over the model; counts as a report names them. `whole`: what is not in it has left it."""
        self.has_run = True
        for entry in self.entries.values():
            if entry.state == "acknowledged" and any(self._exists(k) for k in entry.lacking.values()):
                entry.held = None
        counts: Counter[str] = Counter(model=len(model))
        acknowledged = {e.held: k for k, e in self.entries.items() if e.held is not None}
        rows = [tuple(row.values()) for row in model]
        gone = set(acknowledged) - set(rows)
        differing = [row for row, values in zip(model, rows, strict=True) if values not in acknowledged]
        keys = Counter(canonical(row[self.key]) for row in differing)
        before = {k: (e.held, e.exists) for k, e in self.entries.items()}
        counts["unchanged"] = len(model) - len(differing)
        shared = {k for k in keys if k is not None and self._taken(k, gone)} | {k for k, n in keys.items() if n > 1}
        for key in shared & set(before):
            if before[key][0] is not None and before[key][0] not in gone:
                counts["unchanged"] -= 1
                counts["invalid"] += 1
        sendable: dict[str, Row] = {}
        blocked: dict[str, set[str]] = {}
        for row in differing:
            key = canonical(row[self.key])
            if key is None:
                counts["invalid"] += 1
            elif key in shared:
                counts["invalid"] += 1
                self.entries.setdefault(key, Entry())
            elif self._several_parents(row):
                counts["rejected"] += 1
                entry = self.entries.setdefault(key, Entry())
                entry.state, entry.refused = "rejected", tuple(row.values())
            elif key in self.entries and self.entries[key].refused == tuple(row.values()):
                counts["waiting"] += 1
            elif self._parent_missing(row, parents, keys):
                self._hold(key, counts)
            else:
                sendable[key] = row
                blocked[key] = self._blockers(row)
        self._send(sendable, blocked, counts)
        if whole:
            self._depart(before, gone, keys, counts)
        for key, entry in self.entries.items():
            if entry.state in ("rejected", "held") and entry.held is not None and key not in keys:
                entry.state, entry.refused = "acknowledged", None
        return counts

    def _exists(self, key: str) -> bool:
        return key in self.entries and self.entries[key].exists

    def _taken(self, key: str, gone: set[Any]) -> bool:
        entry = self.entries.get(key)
        return entry is not None and entry.held is not None and entry.held not in gone

    def _several_parents(self, row: Row) -> bool:
        filled = [[c for _, c in each if canonical(row[c]) is not None] for each in self.references().values()]
        return any(len(columns) > 1 for columns in filled)

    def _parent_missing(self, row: Row, parents: Mapping[str, SyncOracle], keys: Counter[str | None]) -> bool:
        for parent, column in self.lookups().values():
            wanted = canonical(row[column])
            known = self.entries if parent == self.name else parents[parent].entries
            if wanted is None or (wanted in known and known[wanted].exists):
                continue
            if parent != self.name or wanted not in keys:
                return True
        return False

    def _blockers(self, row: Row) -> set[str]:
        wanted = {canonical(row[c]) for p, c in self.lookups().values() if p == self.name}
        return {w for w in wanted if w is not None and not (w in self.entries and self.entries[w].exists)}

    def _hold(self, key: str, counts: Counter[str]) -> None:
        counts["held"] += 1
        entry = self.entries.setdefault(key, Entry())
        entry.state, entry.refused = "held", None

    def _send(self, sendable: dict[str, Row], blocked: dict[str, set[str]], counts: Counter[str]) -> None:
        waiting = dict(sendable)
        stuck = {k for k in sendable if self._above(k, blocked) - set(sendable)}
        while waiting:
            ready = [k for k in waiting if not blocked[k] & (set(waiting) | (set(blocked[k]) - set(sendable)))]
            if not ready:
                loops = [self._above(k, blocked) for k in waiting if k not in stuck and k in self._above(k, blocked)]
                ready = sorted({min(loop & set(waiting)) for loop in loops})
                for key in ready:
                    blocked[key] = set()
            if not ready:
                break
            for key in ready:
                row = waiting.pop(key)
                # A parent of the same run that was refused a moment ago keeps its children.
                if not all(self.entries[b].exists for b in blocked[key]):
                    self._hold(key, counts)
                    continue
                self._write(key, row, counts, without=not blocked[key])
        for key in waiting:
            self._hold(key, counts)

    def _above(self, key: str, blocked: Mapping[str, set[str]]) -> set[str]:
        """Everything that a row waits for, directly or not."""
        found: set[str] = set()
        fresh = set(blocked[key])
        while fresh:
            found |= fresh
            fresh = {up for k in fresh for up in blocked.get(k, set())} - found
        return found

    def _write(self, key: str, row: Row, counts: Counter[str], without: bool = False) -> None:
        entry = self.entries.setdefault(key, Entry())
        record = self._record(row)
        parents = {f: canonical(row[c]) for f, (_, c) in self.lookups().items()}
        if self.refuses({**record, **{f: k for (f, _), k in parents.items()}}):
            counts["rejected"] += 1
            entry.state, entry.refused = "rejected", tuple(row.values())
            return
        counts["updated" if entry.exists else "created"] += 1
        there = {k for k, e in self.entries.items() if e.exists}
        entry.held, entry.exists, entry.state, entry.refused = tuple(row.values()), True, "acknowledged", None
        entry.record = record
        own = {f for f, (p, _) in self.lookups().items() if p == self.name}
        # Only where a loop is broken does a row go before its parent.
        entry.lacking = {f: k for f, k in parents.items() if without and f in own and k and k not in there}
        entry.parents = {f: None if f in entry.lacking else k for f, k in parents.items()}
        entry.means = parents

    def close(self) -> int:
        """Fill in what records went without; how many."""
        filled = 0
        for entry in self.entries.values():
            due = {f: k for f, k in entry.lacking.items() if self._exists(k)} if entry.exists else {}
            if due and entry.state in ("acknowledged", "rejected", "held"):
                entry.parents |= due
                entry.lacking = {f: k for f, k in entry.lacking.items() if f not in due}
                filled += 1
        return filled

    def _record(self, row: Row) -> dict[str, Any]:
        record: dict[str, Any] = {}
        for name, mapping in self.fields.items():
            if isinstance(mapping, str):
                record[name] = (row[mapping] or "").strip() or None
            elif "constant" in mapping:
                record[name] = mapping["constant"]
        return record

    def _depart(
        self, before: Mapping[str, tuple[Any, bool]], gone: set[Any], keys: Counter[str | None], counts: Counter[str]
    ) -> None:
        for key, (held, exists) in before.items():
            entry = self.entries[key]
            if key in keys or (held is not None and held not in gone):
                continue
            if not exists:
                del self.entries[key]
            elif entry.state not in ("left", "removal_due"):
                counts["removals_due" if self.deletes else "removals_kept"] += 1
                entry.state, entry.held = "removal_due" if self.deletes else "left", None
                entry.refused = None


class SequenceOracle:
    """Syncs in running order, and the org that results."""

    def __init__(self, specs: Sequence[Mapping[str, Any]], refuses: Mapping[str, Refuses] | None = None) -> None:
        self.objects = {s["name"]: s["object"] for s in specs}
        self.syncs = {s["name"]: SyncOracle(s, (refuses or {}).get(s["name"], lambda values: False)) for s in specs}

    def run(self, name: str, model: Sequence[Row], whole: bool = True) -> Counter[str]:
        """See `SyncOracle.run`."""
        return self.syncs[name].run(model, self.syncs, whole)

    def finish(self) -> Counter[str]:
        """Fill in references; delete what is due, children first, and nothing that a record we wrote still means."""
        removed: Counter[str] = Counter()
        for sync in self.syncs.values():
            sync.close()
        for name in reversed(self.syncs):
            sync = self.syncs[name]
            while free := [k for k, e in sync.entries.items() if e.state == "removal_due" and not self._used(name, k)]:
                for key in free:
                    del sync.entries[key]
                    removed[name] += 1
            for key in self._looped(name):
                del sync.entries[key]
                removed[name] += 1
        return removed

    def _looped(self, name: str) -> set[str]:
        """What is due, and pointed at by nothing but what goes with it."""
        due = {k for k, e in self.syncs[name].entries.items() if e.state == "removal_due"}
        while kept := {k for k in due if self._users(name, k) - {(name, d) for d in due}}:
            due -= kept
        return due

    def _used(self, name: str, key: str) -> bool:
        return bool(self._users(name, key))

    def _users(self, name: str, key: str) -> set[tuple[str, str]]:
        return {
            (child.name, own)
            for child in self.syncs.values()
            for f, (parent, _) in child.lookups().items()
            if parent == name
            for own, entry in child.entries.items()
            if entry.exists and entry.means.get(f) == key and (child.name, own) != (name, key)
        }

    def org(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Object -> key -> fields; lookups as the parent's object and key."""
        return {
            self.objects[n]: {k: {**e.record, **self._points(s, e)} for k, e in s.entries.items() if e.exists}
            for n, s in self.syncs.items()
        }

    def _points(self, sync: SyncOracle, entry: Entry) -> dict[str, str | None]:
        points: dict[str, str | None] = dict.fromkeys(sync.references())
        points |= {f: f"{self.objects[parent]} {k}" for (f, parent), k in entry.parents.items() if k is not None}
        return points

    def states(self) -> dict[str, dict[str, str]]:
        """Sync -> key -> state."""
        return {n: {k: e.state for k, e in s.entries.items()} for n, s in self.syncs.items()}


def org_of(records: Callable[[str], list[dict[str, Any]]], oracle: SequenceOracle) -> dict[str, Any]:
    """The real org in the oracle's words. Fails when a key stands in it twice."""
    found = {obj: records(obj) for obj in oracle.objects.values()}
    keys = {r["Id"]: f"{obj} {canonical(r['External_Id__c'])}" for obj, rows in found.items() for r in rows}
    result: dict[str, Any] = {}
    for name, obj in oracle.objects.items():
        sync, shown = oracle.syncs[name], {}
        for record in found[obj]:
            key = canonical(record["External_Id__c"])
            assert key not in shown, f"{obj} {key} is in the org twice"
            fields = {f: record[f] for f in sync.fields}
            shown[key] = {f: keys.get(v, v) if f in sync.references() else v for f, v in fields.items()}
        result[obj] = shown
    return result
