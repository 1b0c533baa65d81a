"""Records that are there already for rows that a plan would create."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from seqsync_dagster.engine.differing import differing_fields
from seqsync_dagster.engine.preflight.mapped import Mapped
from seqsync_dagster.engine.preflight.mapping import check_mapping
from seqsync_dagster.engine.site import Work, checked_account
from seqsync_dagster.ledger import drift, existing
from seqsync_dagster.ledger.fingerprint import Model
from seqsync_dagster.ledger.registry import Registered
from seqsync_dagster.ledger.tables import StateTables
from seqsync_dagster.warehouse.open import Room, pages

#: Rows and records that are held in memory at a time.
PAGE = 10_000
_LOGGED_EVERY = 10


@dataclass(frozen=True)
class Search:
    """What a search for records needs to know."""

    work: Work
    room: Room
    tables: StateTables
    known: Registered | None
    mapped: Mapped
    case_sensitive: bool
    """Of the match field."""
    model: Model
    """For its types; the model itself is not read any more."""


def note_shared(search: Search) -> None:
    """While the model can be read: what several of its rows have in the fields of `adopt_by`. Needs DELTA."""
    work, room = search.work, search.room
    if work.sync.adopt_by and existing.new_rows(room.connection, work.sync, search.tables):
        sensitive = _case_sensitive(search)
        existing.write_shared(room.connection, search.model, work.sync, search.tables, sensitive)
        room.connection.commit()


def find_existing(search: Search) -> bool:
    """Look for records of the rows in JUDGED, and judge these rows anew; whether the destination was asked.

    Raises what the destination raises, and `ConfigurationError` when the mapping does not fit it.
    """
    work, asked = search.work, False
    if work.sync.match is None:
        # Only inserts do without, and their records are never written again.
        return False
    if _adopting(search):
        asked |= _adopt(search)
    asked |= _look_for_gone(search)
    return (bool(work.sync.adopt_by) and _link(search)) or asked


def _adopting(search: Search) -> bool:
    """Whether the ledger is new: until a run over the whole model has ended in order, rows may have records."""
    work, known = search.work, search.known
    if work.sync.first_run != "adopt" or work.options.full_resync:
        return False
    return known is None or known.policy_digest is None


def _adopt(search: Search) -> bool:
    work, room = search.work, search.room
    sync, connection = work.sync, room.connection
    rows = existing.judged(sync)
    which = existing.not_yet_acknowledged(rows, search.tables)
    seeking = room.frugally(
        lambda: existing.write_seekers(connection, rows, which, rows.c.match_text, [rows.c.match_key])
    )
    if not seeking:
        return False
    fields = [f for f, _ in sync.mappings()]
    read = _read(search, [str(sync.match)], fields, seeking)
    found = room.frugally(lambda: existing.write_matched(connection, search.case_sensitive))
    connection.commit()
    if not found:
        work.log(f"{sync.name}: {seeking} rows looked for their records, none of them is there")
        return True
    pairs = room.frugally(lambda: existing.write_pairs(room, sync, fields, found))
    existing.create_differing(connection)
    connection.commit()
    room.paging()
    differing = _compare(search, pairs, fields, read)
    room.frugally(lambda: existing.adopt_matched(connection, sync))
    connection.commit()
    work.log(f"{sync.name}: {found} of {seeking} rows have a record already, {differing} of these differ")
    return True


def _look_for_gone(search: Search) -> bool:
    """A record that was merged into another, or made anew, may have the key again: ask once."""
    work, room = search.work, search.room
    sync, connection = work.sync, room.connection
    rows = existing.judged(sync)
    if not existing.count(connection, rows, existing.gone(rows)):
        return False
    due = existing.not_looked_for(rows, search.tables)
    seeking = room.frugally(
        lambda: existing.write_seekers(connection, rows, due, rows.c.match_text, [rows.c.match_key])
    )
    if seeking:
        _read(search, [str(sync.match)], [], seeking)
    else:
        existing.create_records(connection, 1, 0)
    connection.commit()
    found = room.frugally(lambda: existing.write_matched(connection, search.case_sensitive))
    connection.commit()
    room.frugally(lambda: existing.replace_gone(connection, sync))
    connection.commit()
    if seeking:
        work.log(f"{sync.name}: {seeking} records are gone, {found} rows have another one now")
    return True


def _case_sensitive(search: Search) -> list[bool]:
    """Of the fields of `adopt_by`, after checking that they are there."""
    work = search.work
    checked_account(work, search.known)
    check_mapping(work.site.destination, search.mapped)
    fields = work.site.destination.describe(work.sync.object).fields
    return [fields[f].case_sensitive for f in work.sync.adopt_by]


def _link(search: Search) -> bool:
    """Records without a key whose fields equal those of a row that would be created."""
    work, room = search.work, search.room
    sync, connection = work.sync, room.connection
    rows = existing.judged(sync)
    if not existing.count(connection, rows, existing.created(rows, search.tables)):
        return False
    sensitive = _case_sensitive(search)
    seeking = room.frugally(lambda: existing.write_linkable(connection, search.model, sync, search.tables, sensitive))
    if not seeking:
        return True
    _read(search, sync.adopt_by, [], seeking, empty=sync.match)
    found = room.frugally(lambda: existing.write_candidates(connection, sensitive))
    connection.commit()
    if not found:
        return True
    room.frugally(lambda: existing.write_matching(connection, sync))
    if _adopting(search):
        # What has the key was found before.
        existing.create_records(connection, 1, 0)
    else:
        _read(search, [str(sync.match)], [], found)
    connection.commit()
    room.frugally(lambda: existing.write_matched(connection, search.case_sensitive))
    connection.commit()
    room.frugally(lambda: existing.link(connection, search.model, sync))
    connection.commit()
    work.log(f"{sync.name}: {found} rows without a record have the {', '.join(sync.adopt_by)} of one without a key")
    return True


def _compare(search: Search, pairs: drift.Expected, fields: Sequence[str], read: set[str]) -> int:
    """Note the keys of the pairs that differ in a field that was read; how many there are."""
    work, room, differing = search.work, search.room, 0
    held_names = [existing.held_column(i) for i in range(len(fields))]
    for part, first, last in drift.expected_pages(room, pairs, PAGE):
        page = room.fetch(drift.expected_page(part, work.sync, fields, first, last, held_names))
        room.connection.commit()
        sent = page.select(range(page.num_columns - len(fields), page.num_columns)).rename_columns(list(fields))
        held = page.select(held_names).rename_columns(list(fields))
        meant = work.site.destination.as_stored(work.sync.object, sent)
        masks = [d for name, _, _, d in differing_fields(work.sync, sent, meant, held) if name in read]
        differs = reduce(pc.or_, masks, pc.invert(page["compared"].combine_chunks()))
        keys = page.select(["match_key"]).filter(differs)
        if keys.num_rows:
            room.load(existing.differing(), keys)
            room.connection.commit()
        work.lease.check()
        differing += keys.num_rows
    return differing


def _read(search: Search, by: Sequence[str], fields: Sequence[str], rows: int, empty: str | None = None) -> set[str]:
    """Read the records that the seekers ask for into their table; the fields that can be compared."""
    work, room = search.work, search.room
    connection = room.connection
    checked_account(work, search.known)
    check_mapping(work.site.destination, search.mapped)
    existing.create_records(connection, len(by), len(fields))
    connection.commit()
    room.paging()

    def asked() -> Iterator[pa.Array]:
        for first, last in pages(1, rows, PAGE):
            values = room.fetch(existing.asked_page(first, last))["asked"].combine_chunks()
            # No transaction stays open while the destination answers.
            connection.commit()
            yield values

    target = existing.records(len(by), len(fields))
    named = {f"by:{f}": existing.by_column(i) for i, f in enumerate(by)}
    named |= {f: existing.held_column(i) for i, f in enumerate(fields)}
    comparable: set[str] = set()
    read = 0
    found = work.site.destination.read_matching(work.sync.object, by, fields, asked(), rows, empty=empty)
    for number, table in enumerate(_in_pages(found), start=1):
        comparable |= set(fields) & set(table.column_names)
        room.load(target, table.rename_columns([named.get(c, c) for c in table.column_names]))
        connection.commit()
        work.lease.check()
        read += table.num_rows
        if number % _LOGGED_EVERY == 0:
            work.log(f"{work.sync.name}: {read} records of {work.sync.object} read")
    return comparable


def _in_pages(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The tables put together to pages: every load costs, whatever its size."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(w.num_rows for w in waiting) >= PAGE:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()
