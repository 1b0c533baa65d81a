"""The destination's objects as assets that nobody here builds: where the lineage of the syncs ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from seqsync_dagster.engine.report import Counts
    from seqsync_dagster.sequence.spec import SequenceSpec


def object_key(destination: str, object_: str) -> dg.AssetKey:
    """Of an object of a connection, e.g. ``salesforce/Contact``."""
    return dg.AssetKey([destination, object_])


#: Connection and object -> the syncs that write to it, as sequence and sync.
Writers = Mapping[tuple[str, str], Sequence[tuple[str, str]]]


def writers_of(sequences: Iterable[SequenceSpec]) -> Writers:
    """Who writes to which object, of all sequences of a code location; by name."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for sequence in sorted(sequences, key=lambda each: each.name):
        for sync in sequence.syncs if sequence.show_objects else ():
            found.setdefault((sequence.destination, sync.object), []).append((sequence.name, sync.name))
    return found


def object_specs(sequence: SequenceSpec, writers: Writers, kind: str) -> Iterator[dg.AssetSpec]:
    """The objects that `sequence` writes, each below all syncs that write to it.

    An asset can be defined once only: of several sequences that write to an object, the first by name defines it.
    """
    for object_ in dict.fromkeys(sync.object for sync in sequence.syncs):
        syncs = writers.get((sequence.destination, object_), ())
        if syncs and syncs[0][0] == sequence.name:
            written_by = ", ".join("/".join(sync) for sync in syncs)
            yield dg.AssetSpec(
                object_key(sequence.destination, object_),
                deps=[dg.AssetKey([*sync]) for sync in syncs],
                description=f"Records of {object_} in {sequence.destination}, written by {written_by}.",
                group_name=sequence.destination,
                kinds={kind},
            )


def written(sequence: SequenceSpec, sync_name: str, counts: Counts, url: str = "") -> Iterator[dg.AssetMaterialization]:
    """What Dagster is told of the object when a run has changed records of it; nothing when it has not."""
    changed: dict[str, Any] = {
        f"seqsync/{name}": count
        for name, count in (
            ("created", counts.created),
            ("updated", counts.updated),
            ("adopted", counts.adopted - counts.adopted_as_is),
            ("removed", counts.removed),
        )
        if count
    }
    if changed and sequence.show_objects:
        if url:
            changed["records"] = dg.MetadataValue.url(url)
        yield dg.AssetMaterialization(
            object_key(sequence.destination, sequence.sync(sync_name).object),
            description=f"Written by {sequence.name}/{sync_name}.",
            metadata={**changed, "seqsync/sync": f"{sequence.name}/{sync_name}"},
        )
