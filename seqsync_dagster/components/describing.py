"""What a sync does, in words for a person who has not seen its YAML."""

from __future__ import annotations

from seqsync_dagster.sequence.mappings import ParentLookup, ParentsLookup, RecordLookup
from seqsync_dagster.sequence.sync import SyncSpec


def describe(sync: SyncSpec) -> str:
    """What a sync sends where, for a person who has not seen its YAML."""
    verb = {"upsert": "Creates and updates", "update": "Updates", "insert": "Creates", "delete": "Deletes"}[sync.mode]
    key = " : ".join(sync.key)
    how = f"by the key {key}, which the destination does not know" if sync.match is None else ""
    lines = [f"{verb} {sync.object} from {sync.source}, {how or f'matched on {sync.match} = {key}'}."]
    for name, mapping in sync.mappings():
        match mapping:
            case ParentLookup(if_missing=if_missing) | ParentsLookup(if_missing=if_missing):
                several = [m.parent for m in sync.slots()[name].values()]
                what = "of " + " or ".join("its own sync" if parent == sync.name else parent for parent in several)
                if mapping.deferred:
                    lines.append(f"{name} points to a record {what}; finish fills it in when the row went without it.")
                    continue
                lines.append(f"{name} points to a record {what}; while there is none, the row is: {if_missing}.")
            case RecordLookup(lookup=object_, by=by, if_missing=if_missing):
                lines.append(f"{name} points to the {object_} found by {by}; when there is none: {if_missing}.")
    whose = "whoever created them" if sync.delete_adopted else "if this sync created them"
    if sync.removed == "delete":
        lines.append(f"Records whose rows left the model are deleted by finish, {whose}.")
    elif sync.removed == "clear":
        lines.append(f"Records whose rows left the model lose {', '.join(sync.emptied())} in finish, {whose}.")
    elif sync.mode == "delete":
        lines.append("Finish deletes them, whoever created them; a row that leaves the model is forgotten.")
    else:
        lines.append("Records whose rows left the model are kept.")
    return "\n\n".join(([sync.description] if sync.description else []) + ["\n".join(lines)])
