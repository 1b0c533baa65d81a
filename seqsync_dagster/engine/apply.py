"""Step 4: the plan's rows go to the destination, and every word it says is durable before the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pandas as pd
import sqlalchemy as sa

from seqsync_dagster.destinations.protocol import Answered, Event, InFlight, Operation, Outcomes, Request
from seqsync_dagster.engine.filling import only_where_empty
from seqsync_dagster.engine.pace import Pace
from seqsync_dagster.engine.site import Work
from seqsync_dagster.engine.telling import BatchDone
from seqsync_dagster.errors import BudgetSpent, DestinationUnreachable
from seqsync_dagster.ledger import rows as plan_rows
from seqsync_dagster.ledger.levels import own_lookups
from seqsync_dagster.ledger.rows import MASK, Group
from seqsync_dagster.ledger.tables import ADOPT, CLEAR, CREATE, DELETE, LINK, REFERENCE, UPDATE, StateTables
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.open import Room, pages

#: Rows per frame. Large enough that a frame's fixed costs vanish, small enough that memory stays flat.
PAGE = 10_000

_OPERATIONS: dict[str, Operation] = {
    CREATE: "upsert",
    UPDATE: "update",
    ADOPT: "update",
    LINK: "update",
    DELETE: "delete",
    CLEAR: "update",
    REFERENCE: "update",
}


@dataclass
class _Sending:
    """The sends that the journal holds as in flight, by the last of their rows."""

    number: int = 0
    last_seq: int = 0
    staged: int = -1
    """Outcomes of rows up to here stand beside the plan."""
    open: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Number and first row."""

    def announced(self, last_seq: int) -> tuple[int, int]:
        """Number and first row of the send of the rows up to `last_seq`."""
        if last_seq not in self.open:
            self.number += 1
            self.open[last_seq] = self.number, self.last_seq + 1
            self.last_seq = last_seq
        return self.open[last_seq]


def apply(work: Work, room: Room, tables: StateTables, run_id: str) -> None:
    """Send everything in the plan, parents before children; then every outcome stands beside the plan.

    Raises what the destination raises; then every outcome known so far is in the journal.
    `BudgetSpent` says how many rows wait.
    """
    sending = _Sending()
    groups = plan_rows.groups(room.connection, tables)
    total = sum(g.rows for g in groups)
    pace = Pace(work.sync.name, total, work.log)
    room.connection.commit()
    room.paging()
    for group in groups:
        try:
            _send_group(work, room, tables, run_id, group, sending, pace)
        except BudgetSpent as spent:
            # Raised between two sends only: what was announced has had its last word.
            _finish(work, run_id, sending)
            stage_outcomes(work, room, tables, run_id, anew=True)
            told = room.connection.execute(sa.select(sa.func.count()).select_from(tables.outcome)).scalar_one()
            room.connection.commit()
            waiting = f"{total - told:,} of {total:,} rows of {work.sync.name} wait and go with a later run."
            raise BudgetSpent(f"{spent} {waiting}", total - told) from None
        if own_lookups(work.sync):
            # Rows of the next levels point at these.
            _stage(work, room, tables, run_id, sending, group.last_seq)
        pace.say(f"{group.operation}, level {group.level}")
    _stage(work, room, tables, run_id, sending, sending.last_seq)


def _send_group(
    work: Work, room: Room, tables: StateTables, run_id: str, group: Group, sending: _Sending, pace: Pace
) -> None:
    journal = work.site.journal
    request = request_of(work.sync, group.operation, group.rows, group.lacking)
    sending.last_seq = group.first_seq - 1
    given = answered = 0

    def rows() -> Iterator[pd.DataFrame]:
        nonlocal given
        for frame in frames(work, room, tables, group.operation, group.first_seq, group.last_seq):
            given += len(frame)
            yield frame

    for event in work.site.destination.send(request, rows()):
        if isinstance(event, InFlight):
            number, first_seq = sending.announced(event.last_seq)
            described: dict[str, object] = {"object": request.object, "operation": group.operation}
            described |= {"resumable": event.resumable, "lacking": list(group.lacking)}
            journal.in_flight(work.lease, run_id, number, first_seq, event.last_seq, described, event.token)
        elif isinstance(event, Answered):
            _finish(work, run_id, sending, event.last_seq)
            if event.last_seq - max(sending.staged, group.first_seq - 1) >= PAGE:
                # Now, while the destination may be at work on what follows, it takes nobody's time.
                _stage(work, room, tables, run_id, sending, event.last_seq)
        else:
            take(work, room, tables, run_id, event)
            if isinstance(event, Outcomes):
                answered += len(event.frame)
                _tell(work, group, event, pace)
            elif event.done is not None:
                pace.say(event.text, underway=event.done - answered)
            else:
                work.log(f"{work.sync.name}: {event.text}")
    if answered < given:
        # A run that ends in order takes a row without an outcome for one that waits for its parent.
        raise DestinationUnreachable(
            f"{given - answered:,} of {given:,} rows of {work.sync.name} ({group.operation}) were sent and got no "
            "answer of their own. The others are settled; these stay due and go with the next run."
        )
    _finish(work, run_id, sending)


def _tell(work: Work, group: Group, outcomes: Outcomes, pace: Pace) -> None:
    if len(outcomes.frame):
        seconds = pace.add(len(outcomes.frame))
        rejected = int(outcomes.frame["code"].notna().sum())
        work.site.tell(
            BatchDone(
                sync=work.sync.name,
                operation=group.operation,
                level=group.level,
                rows=len(outcomes.frame),
                rejected=rejected,
                done=pace.done,
                total=pace.total,
                seconds=seconds,
            )
        )


def request_of(sync: SyncSpec, operation: str, rows: int, lacking: Sequence[str] = ()) -> Request:
    """What the destination is asked to do with `rows` rows of a plan's operation; `lacking`: fields they go without."""
    return Request(
        object=sync.object,
        operation="insert" if operation == CREATE and sync.mode == "insert" else _OPERATIONS[operation],
        match=sync.match if operation == CREATE else None,
        rows=rows,
        ignore_nulls=() if operation == CLEAR else tuple(dict.fromkeys((*plan_rows.ignored_nulls(sync), *lacking))),
        options=sync.options,
    )


def _finish(work: Work, run_id: str, sending: _Sending, last_seq: int | None = None) -> None:
    """Note that the sends of rows up to `last_seq`, or all of them, have had their last word."""
    for last in sorted(sending.open):
        if last_seq is None or last <= last_seq:
            work.site.journal.finish_send(work.lease, run_id, sending.open.pop(last)[0])


def take(work: Work, room: Room, tables: StateTables, run_id: str, event: Event) -> None:
    """Make what a destination said of its rows durable."""
    if isinstance(event, Outcomes) and len(event.frame):
        work.site.journal.record(work.lease, run_id, _masked(work, room, tables, event.frame))


def _masked(work: Work, room: Room, tables: StateTables, frame: pd.DataFrame) -> pd.DataFrame:
    """The outcomes with sensitive values cut out of the destination's messages, which like to quote them."""
    if not work.sync.sensitive:
        return frame
    spoken = frame[frame["code"].notna() & frame["message"].notna()]
    if spoken.empty:
        return frame
    secrets = plan_rows.sensitive_values(room.connection, tables, work.sync, [int(s) for s in spoken["seq"]])
    room.connection.commit()
    messages = frame["message"].copy()
    for index, seq, message in zip(spoken.index, spoken["seq"], spoken["message"], strict=True):
        # Longest first, so that a value inside another does not leave a readable rest.
        for value in sorted(secrets.get(int(seq), ()), key=len, reverse=True):
            # The destination quotes a value as it was sent: trimmed, with its line ends made one.
            for form in (value, value.replace("\r\n", "\n").replace("\r", "\n")):
                message = message.replace(form, MASK).replace(form.strip(), MASK)
        messages[index] = message
    return frame.assign(message=messages)


def frames(
    work: Work, room: Room, tables: StateTables, operation: str, first: int, last: int
) -> Iterator[pd.DataFrame]:
    """The plan's rows `first`..`last` as frames of at most PAGE rows, Arrow types kept."""
    for start, end in pages(first, last, PAGE):
        table = room.fetch(plan_rows.page(tables, work.sync, operation, start, end))
        # No transaction stays open while a frame travels.
        room.connection.commit()
        if table.num_rows:
            table = only_where_empty(work.site.destination, work.sync, operation, table)
            yield table.to_pandas(types_mapper=pd.ArrowDtype)


def _stage(work: Work, room: Room, tables: StateTables, run_id: str, sending: _Sending, answered: int) -> None:
    """Copy what is not there yet; of the rows up to `answered` it is all that will ever be said."""
    stage_outcomes(work, room, tables, run_id, after_seq=sending.staged)
    sending.staged = answered


def stage_outcomes(
    work: Work, room: Room, tables: StateTables, run_id: str, *, after_seq: int = -1, anew: bool = False
) -> None:
    """Copy the journal's outcomes beside the plan: for references within the run, and for settling."""
    condition = sa.true() if anew else tables.outcome.c.seq > after_seq
    room.paging()
    room.connection.execute(sa.delete(tables.outcome).where(condition))
    room.connection.commit()
    for chunk in work.site.journal.outcomes(run_id, after_seq=-1 if anew else after_seq):
        room.load(tables.outcome, chunk)
        # What an open transaction has appended stays in memory: 65 bytes a row.
        room.connection.commit()
