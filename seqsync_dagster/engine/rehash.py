"""A field that is taken out of a mapping is no reason to send anything."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from seqsync_dagster.engine.site import Work
from seqsync_dagster.errors import ModelMissing, StateError
from seqsync_dagster.ledger import registry
from seqsync_dagster.ledger.fingerprint import OUT_OF_STEP, Model, mapping_digest, type_that_counts
from seqsync_dagster.ledger.mapping_change import remembered_mapping, taken_out
from seqsync_dagster.ledger.registry import Registered
from seqsync_dagster.ledger.rehash import rehash
from seqsync_dagster.ledger.tables import StateTables
from seqsync_dagster.warehouse.open import Room
from seqsync_dagster.warehouse.source import ModelSource


def without_taken_out(
    work: Work,
    room: Room,
    tables: StateTables,
    source: ModelSource,
    known: Registered,
    model: Model,
    *,
    for_review: bool,
) -> Registered:
    """Where the mapping has only lost fields, make the ledger speak of the others; what is known of it from then on.

    Needs the columns of the lost fields, to tell the rows that are as they were acknowledged from the others:
    where the model has lost them too, every row is due, as after any change. Commits.
    """
    sync, connection = work.sync, room.connection
    lost = taken_out(known.mapping, known.mapping_digest, sync, model.types)
    if lost is None or known.hash_name != room.hash_name:
        return known
    columns = sorted(lost.types)
    try:
        relation = room.model(source, columns)
    except ModelMissing:
        return known
    types = room.column_types(sa.select(*[relation.c[c] for c in columns]))
    if any(type_that_counts(types[c]) != lost.types[c] for c in columns):
        return known
    fields = ", ".join(lost.fields)
    if for_review:
        # The plan may be one of a mapping that nobody has decided on yet; the ledger is that of the other one.
        raise StateError(
            f"sync {sync.name}: {fields} was taken out of the mapping since the last run. The first run with the new "
            "mapping takes note of that, and sends nothing for it; plans can be made after it."
        )
    before = Model(relation, types)
    names = (work.site.sequence.name, sync.name)

    def act() -> int:
        registry.claim(connection, tables, *names, work.epoch)
        count = rehash(connection, before, sync, tables, columns)
        registry.update(
            connection,
            tables,
            *names,
            mapping_digest=mapping_digest(sync, model.types),
            mapping=remembered_mapping(sync, model.types),
            **dict[str, Any](OUT_OF_STEP),
        )
        connection.commit()
        return count

    count = room.frugally(act)
    work.log(
        f"{sync.name}: {fields} was taken out of the mapping: its values stay, {count} rows are compared without it"
    )
    again = registry.read(connection, tables, *names)
    assert again is not None
    return again
