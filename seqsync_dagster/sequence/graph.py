"""The DAG of a sequence: which sync waits for which."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import TYPE_CHECKING

from seqsync_dagster.sequence.strict import nearest

if TYPE_CHECKING:
    from seqsync_dagster.sequence.spec import SequenceSpec, SyncSpec


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
        for parent, fields in sync.parents().items():
            if parent not in by_name:
                raise ValueError(
                    f"sync {sync.name!r}: {fields[0]} points to the parent {parent!r}, "
                    f"which is no sync of this sequence.{nearest(parent, by_name)} "
                    f"Syncs: {', '.join(by_name)}."
                )
            _check_width(sync, by_name[parent])
    _check_writers(sequence)
    order(sequence)


def _check_width(sync: SyncSpec, parent: SyncSpec) -> None:
    for field, mapping in sync.parent_lookups().items():
        if mapping.parent == parent.name and len(mapping.from_) != len(parent.key):
            raise ValueError(
                f"sync {sync.name!r}: {field} needs {len(parent.key)} column(s) in from, as many as the key "
                f"of {parent.name!r} has ({', '.join(parent.key)}); found {', '.join(mapping.from_)}."
            )


def _check_writers(sequence: SequenceSpec) -> None:
    """No field of an object has two sources: neither in one sync, nor in two.

    Names of objects and fields are one whatever their case: so the destination reads them, and would take the last.
    Two syncs may match on the same field, each with fields of its own: the same key writes the same value there.
    """
    writers: dict[tuple[str, str], str] = {}
    for sync in sequence.syncs:
        spelt = {sync.match.lower(): sync.match}
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
        writer = writers.get((sync.object.lower(), sync.match.lower()))
        # A sync that never creates only reads its match field.
        if writer is not None and sync.mode == "upsert":
            raise ValueError(
                f"syncs {writer!r} and {sync.name!r} both write {sync.object}.{sync.match}: {sync.name!r} creates "
                f"records by it, and {writer!r} has it in fields and could give a record another's key. "
                f"Take it out of the fields of {writer!r}."
            )


def order(sequence: SequenceSpec) -> list[str]:
    """Names of the syncs, parents before children; among equals as listed.

    Raises `ValueError` for a cycle, naming the lookups that make it.
    """
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for sync in sequence.syncs:
        sorter.add(sync.name, *sync.waits_for())
    try:
        sorter.prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1][::-1]
        lookups = [
            f"{child}.{field}"
            for child, parent in pairwise(cycle)
            for field, lookup in sequence.sync(child).parent_lookups().items()
            if lookup.parent == parent and not lookup.deferred
        ]
        raise ValueError(
            f"the syncs wait for each other in a circle: {' -> '.join(cycle)}. Add deferred: true to one of these "
            "lookups, whose field may be empty in the destination, so that rows go without it and finish fills it "
            f"in; or take it out: {', '.join(lookups)}."
        ) from None
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


def children(sequence: SequenceSpec, name: str) -> list[tuple[str, list[str]]]:
    """The other syncs that point to this one, each with its fields that do."""
    return [(s.name, s.parents()[name]) for s in sequence.syncs if s.name != name and name in s.parents()]


def descendants(sequence: SequenceSpec, name: str) -> list[str]:
    """Every sync that waits for this one, directly or not, in running order."""
    found: set[str] = set()
    for candidate in order(sequence):
        if any(p == name or p in found for p in sequence.sync(candidate).waits_for()):
            found.add(candidate)
    return [n for n in order(sequence) if n in found]
