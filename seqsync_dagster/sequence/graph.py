"""The DAG of a sequence: which sync waits for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import TYPE_CHECKING

from seqsync_dagster.sequence.strict import nearest

if TYPE_CHECKING:
    from seqsync_dagster.sequence.spec import SequenceSpec
    from seqsync_dagster.sequence.sync import SyncSpec


def check(sequence: SequenceSpec) -> None:
    """Raise `ValueError` for what is wrong between syncs: names, parents, keys, cycles, double writers."""
    by_name: dict[str, SyncSpec] = {}
    for sync in sequence.syncs:
        if sync.name in by_name:
            raise ValueError(f"two syncs are named {sync.name!r}; a name stands for one sync.")
        if sync.name == "finish":
            raise ValueError("a sync cannot be named 'finish': that is the sequence's closing asset.")
        by_name[sync.name] = sync
    for sync in sequence.syncs:
        for parent, slots in sync.parents().items():
            field = sync.field_of(slots[0])
            if parent not in by_name:
                raise ValueError(
                    f"sync {sync.name!r}: {field} points to the parent {parent!r}, "
                    f"which is no sync of this sequence.{nearest(parent, by_name)} "
                    f"Syncs: {', '.join(by_name)}."
                )
            if by_name[parent].mode == "delete":
                raise ValueError(
                    f"sync {sync.name!r}: {field} points to the parent {parent!r}, whose rows are those of deleted "
                    "records (mode: delete)."
                )
            _check_width(sync, by_name[parent])
        _check_after(sync, by_name)
    _check_writers(sequence)
    order(sequence)


def _check_width(sync: SyncSpec, parent: SyncSpec) -> None:
    for slot, mapping in sync.parent_lookups().items():
        if mapping.parent == parent.name and len(mapping.from_) != len(parent.key):
            raise ValueError(
                f"sync {sync.name!r}: {sync.field_of(slot)} needs {len(parent.key)} column(s) in from, as many as the "
                f"key of {parent.name!r} has ({', '.join(parent.key)}); found {', '.join(mapping.from_)}."
            )


def _check_after(sync: SyncSpec, by_name: Mapping[str, SyncSpec]) -> None:
    for other in sync.after:
        if other == sync.name:
            raise ValueError(f"sync {sync.name!r}: after names the sync itself. Take it out.")
        if other not in by_name:
            raise ValueError(
                f"sync {sync.name!r}: after names {other!r}, which is no sync of this sequence."
                f"{nearest(other, by_name)} Syncs: {', '.join(by_name)}."
            )


def _check_writers(sequence: SequenceSpec) -> None:
    """No field of an object has two sources: neither in one sync, nor in two.

    Names of objects and fields are one whatever their case: so the destination reads them, and would take the last.
    Two syncs may match on the same field, each with fields of its own: the same key writes the same value there.
    """
    writers: dict[tuple[str, str], str] = {}
    for sync in sequence.syncs:
        spelt = {sync.match.lower(): sync.match} if sync.match is not None else {}
        for field, _ in sync.mappings():
            twin = spelt.setdefault(field.lower(), field)
            if twin != field:
                raise ValueError(
                    f"sync {sync.name!r}: {twin} and {field} are one field of {sync.object}; "
                    "the destination does not tell upper and lower case apart. Keep one of them."
                )
            other = writers.setdefault((sync.object.lower(), field.lower()), sync.name)
            if other != sync.name:
                raise ValueError(
                    f"syncs {other!r} and {sync.name!r} both write {sync.object}.{field}; "
                    "the last one to run would win. Map it in one of them."
                )
    for sync in sequence.syncs:
        writer = writers.get((sync.object.lower(), (sync.match or "").lower()))
        # A sync that never creates only reads its match field.
        if writer is not None and sync.mode in ("upsert", "insert"):
            raise ValueError(
                f"syncs {writer!r} and {sync.name!r} both write {sync.object}.{sync.match}: {sync.name!r} creates "
                f"records by it, and {writer!r} has it in fields and could give a record another's key. "
                f"Take it out of the fields of {writer!r}."
            )


def waits_for(sequence: SequenceSpec, name: str) -> dict[str, list[str]]:
    """The other syncs that run before this one, each with the reasons.

    A reason is a field that points to the other sync, ``after``, or ``order: listed``.
    """
    sync = sequence.sync(name)
    found: dict[str, list[str]] = {}
    for slot, lookup in sync.parent_lookups().items():
        if lookup.parent != name and not lookup.deferred:
            found.setdefault(lookup.parent, []).append(sync.field_of(slot))
    for other in sync.after:
        found.setdefault(other, []).append("after")
    if sequence.order == "listed":
        listed = [s.name for s in sequence.syncs]
        place = listed.index(name)
        if place:
            found.setdefault(listed[place - 1], []).append("order: listed")
    return found


def order(sequence: SequenceSpec) -> list[str]:
    """Names of the syncs, each after those it waits for; among equals as listed.

    Raises `ValueError` for a cycle, naming what makes it and how it could be opened.
    """
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for sync in sequence.syncs:
        sorter.add(sync.name, *waits_for(sequence, sync.name))
    try:
        sorter.prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1][::-1]
        raise ValueError(_circle(sequence, cycle)) from None
    listed = [s.name for s in sequence.syncs]
    done: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        ready.extend(sorter.get_ready())
        ready.sort(key=listed.index)
        name = ready.pop(0)
        done.append(name)
        sorter.done(name)
    return done


def _circle(sequence: SequenceSpec, cycle: Sequence[str]) -> str:
    """What a reader must know of a cycle: its edges, and which of them could go."""
    edges = [
        (child, parent, reason) for child, parent in pairwise(cycle) for reason in waits_for(sequence, child)[parent]
    ]
    lookups = [(child, field) for child, _, field in edges if field in sequence.sync(child).slots()]
    wanted = [edge for edge in edges if (edge[0], edge[2]) not in lookups]
    # A row that must not be sent without its parent cannot be sent first and get the parent later.
    nullable = [
        f"{child}.{f}"
        for child, f in lookups
        if all(m.if_missing != "reject" for m in sequence.sync(child).slots()[f].values())
    ]
    ways = []
    if nullable:
        ways.append(
            f"mark one of these lookups with deferred: true, where the destination lets the field be empty at first: "
            f"{', '.join(nullable)}"
        )
    if lookups:
        ways.append(f"take one of the lookups out: {', '.join(f'{child}.{f}' for child, f in lookups)}")
    ways += [_without(*edge) for edge in wanted]
    text = "; or ".join(ways)
    return f"the syncs wait for each other in a circle: {' -> '.join(cycle)}. {text[:1].upper()}{text[1:]}."


def _without(child: str, parent: str, reason: str) -> str:
    if reason == "after":
        return f"take {parent!r} out of the after of {child!r}"
    return f"list {child!r} above {parent!r}, or take order: listed out"


def levels(sequence: SequenceSpec) -> list[list[str]]:
    """The syncs by their distance from the beginning: those of one level wait for none of each other."""
    depth: dict[str, int] = {}
    for name in order(sequence):
        depth[name] = max((depth[other] + 1 for other in waits_for(sequence, name)), default=0)
    found: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for name, level in depth.items():
        found[level].append(name)
    return found


def children(sequence: SequenceSpec, name: str) -> list[tuple[str, list[str]]]:
    """The other syncs that point to this one, each with its slots that do."""
    return [(s.name, s.parents()[name]) for s in sequence.syncs if s.name != name and name in s.parents()]


def ancestors(sequence: SequenceSpec, name: str) -> list[str]:
    """Every sync that this one waits for, directly or not, in running order."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for other in waits_for(sequence, waiting.pop()):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return [n for n in order(sequence) if n in found]


def descendants(sequence: SequenceSpec, name: str) -> list[str]:
    """Every sync that waits for this one, directly or not, in running order."""
    running = order(sequence)
    found: set[str] = set()
    for candidate in running:
        if any(other == name or other in found for other in waits_for(sequence, candidate)):
            found.add(candidate)
    return [n for n in running if n in found]
