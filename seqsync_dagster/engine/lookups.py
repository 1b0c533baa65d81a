"""Records of the destination that no sync writes, looked up for the rows that differ."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from seqsync_dagster.engine.preflight.mapped import Mapped
from seqsync_dagster.engine.preflight.mapping import check_mapping
from seqsync_dagster.engine.site import Work, checked_account
from seqsync_dagster.ledger import tables as t
from seqsync_dagster.ledger.delta import delta_table, lookup_values, temporary
from seqsync_dagster.ledger.judging import FOUND, OWN_RECORD, found_table
from seqsync_dagster.ledger.registry import Registered
from seqsync_dagster.ledger.tables import Shape, StateTables
from seqsync_dagster.warehouse.open import Room


def find_records(work: Work, room: Room, tables: StateTables, known: Registered | None, mapped: Mapped) -> None:
    """Ask the destination for the records that no sync writes, for the differing rows only."""
    shape = Shape.of(work.sync)
    named = work.sync.mode in ("update", "delete")
    if not shape.lookups and not named:
        return
    temporary(
        room.connection,
        FOUND,
        sa.select(
            sa.cast(sa.null(), sa.Text).label("field"),
            sa.cast(sa.null(), sa.Text).label("value"),
            sa.cast(sa.null(), sa.Text).label("dest_id"),
            sa.cast(sa.null(), sa.Integer).label("matches"),
            sa.cast(sa.null(), sa.Text).label("unusable"),
        ).where(sa.false()),
    )
    for field, lookup in shape.lookups.items():
        values = room.fetch(lookup_values(shape, field))["value"].combine_chunks()
        _find(work, room, known, mapped, field, lookup.lookup, lookup.by, values)
    if named:
        # A record that is gone is looked for once, and not here, unless the operator asks for it.
        by_operator = sa.literal(bool(work.options.only_keys) or work.options.full_resync)
        d, ledger = delta_table(shape), tables.ledger
        unknown = (
            sa.select(d.c.match_text.label("value"))
            .select_from(d.outerjoin(ledger, ledger.c.match_key == d.c.match_key))
            .where(
                d.c.fingerprint.is_not(None),
                d.c.match_text.is_not(None),
                ledger.c.dest_id.is_(None),
                sa.or_(ledger.c.state.is_distinct_from(t.GONE), by_operator),
            )
            .distinct()
        )
        values = room.fetch(unknown)["value"].combine_chunks()
        _find(work, room, known, mapped, OWN_RECORD, work.sync.object, str(work.sync.match), values)
    room.connection.commit()


def _find(
    work: Work,
    room: Room,
    known: Registered | None,
    mapped: Mapped,
    field: str,
    object: str,
    by: str,
    values: pa.Array,
) -> None:
    filling = None if field == OWN_RECORD else (work.sync.object, field)
    if not len(values):
        return
    checked_account(work, known)
    check_mapping(work.site.destination, mapped)
    for table in _distinct_records(work.site.destination.find(object, by, values, filling=filling)):
        room.load(found_table(), table.append_column("field", pa.array([field] * table.num_rows, pa.string())))


def _distinct_records(found: Iterator[pa.Table]) -> Iterator[pa.Table]:
    tables = [t_ for t_ in found if t_.num_rows]
    if not tables:
        return
    records = pa.concat_tables(tables, promote_options="default")
    value = pc.utf8_lower(pc.utf8_trim_whitespace(records["value"].cast(pa.string())))
    nothing = pa.nulls(records.num_rows, pa.string())
    why = records["unusable"].cast(pa.string()) if "unusable" in records.column_names else nothing
    pairs = pa.table({"value": value, "dest_id": records["dest_id"].cast(pa.string()), "unusable": why})
    usable = pairs.filter(pc.is_null(pairs["unusable"])).select(["value", "dest_id"])
    distinct = usable.group_by(["value", "dest_id"]).aggregate([])
    counted = distinct.group_by("value").aggregate([("dest_id", "min"), ("dest_id", "count")])
    yield pa.table(
        {
            "value": counted["value"],
            "dest_id": counted["dest_id_min"],
            "matches": counted["dest_id_count"].cast(pa.int32()),
            "unusable": pa.nulls(counted.num_rows, pa.string()),
        }
    )
    # Told only where no other record could be taken instead.
    rest = pairs.filter(pc.invert(pc.is_in(pairs["value"], value_set=counted["value"].combine_chunks())))
    told = rest.group_by("value").aggregate([("unusable", "min")])
    if told.num_rows:
        yield pa.table(
            {
                "value": told["value"],
                "dest_id": pa.nulls(told.num_rows, pa.string()),
                "matches": pa.array([0] * told.num_rows, pa.int32()),
                "unusable": told["unusable_min"],
            }
        )
