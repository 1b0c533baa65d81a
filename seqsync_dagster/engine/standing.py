"""Whether a sequence may go on below a sync: what a failure stops, what it tells, and when it is mended.

A failure stands in the journal from the run that failed to the first one that ends in order, so that
every run, from wherever it is started, knows of it. What it stops is the sequence's to say (`errors`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from seqsync_dagster.errors import SequenceStopped
from seqsync_dagster.journal.failures import Failure
from seqsync_dagster.ledger import tables as t
from seqsync_dagster.sequence.graph import ancestors, descendants
from seqsync_dagster.sequence.spec import SequenceSpec
from seqsync_dagster.sequence.words import FINISH

if TYPE_CHECKING:
    from seqsync_dagster.engine.report import SyncReport
    from seqsync_dagster.engine.site import Site
    from seqsync_dagster.journal.store import Journal


@dataclass(frozen=True)
class Standing:
    """How a sync stands after a run."""

    stops: bool
    """Whether the syncs below it wait."""
    text: str
    """What a person must know of it: cause, numbers, since when, who waits. Empty when all is well."""
    mended: bool = False
    """Whether syncs below it had been waiting until this run."""


def stops(sequence: SequenceSpec, failure: Failure) -> bool:
    """Whether the syncs below wait for this failure to be mended, as the sequence says now."""
    errors = sequence.errors_of(sequence.sync(failure.sync))
    return (errors.fatal if failure.kind == "fatal" else errors.rejected_rows) == "stop"


def check_may_run(sequence: SequenceSpec, journal: Journal, name: str) -> None:
    """Raise `SequenceStopped` while a sync above `name` (a sync, or ``finish``) keeps those below it waiting."""
    above = [s.name for s in sequence.syncs] if name == FINISH else ancestors(sequence, name)
    found = [f for f in journal.failures_of(sequence.name).of(above) if stops(sequence, f)] if above else []
    if not found:
        return
    syncs = tuple(dict.fromkeys(f.sync for f in found))
    causes = " ".join(f"{f.sync} is stopped {_since(f)}: {f.reason}" for f in found)
    raise SequenceStopped(
        f"{sequence.name}/{name} waits for {' and '.join(syncs)}. {causes} Nothing was sent. It goes on by itself "
        f"with the first run after {_until(found)}.",
        syncs,
    )


def after_error(sequence: SequenceSpec, journal: Journal, name: str, error: str, holder: str) -> Standing:
    """How the sequence stands after a run of `name` broke off with `error`; kept in the journal."""
    failure = journal.failures_of(sequence.name).note(name, "fatal", holder, _sentence(error))
    return Standing(stops(sequence, failure), _told(sequence, failure, error))


def after_run(site: Site, report: SyncReport, holder: str) -> Standing:
    """How the sequence stands after a run that came to its end; kept in the journal."""
    sequence, name = site.sequence, report.sync
    failures = site.journal.failures_of(sequence.name)
    was = [f for f in failures.of([name]) if stops(sequence, f)]
    failures.forget(name, "fatal")
    if report.verdict == "over_limit":
        c = report.counts
        acknowledged = c.created + c.adopted + c.updated
        failure = failures.note(
            name,
            "rejected",
            holder,
            _sentence(report.summary),
            refused=c.rejected,
            judged=c.rejected + acknowledged,
            every=not acknowledged,
        )
        return Standing(stops(sequence, failure), _told(sequence, failure, report.summary))
    for failure in failures.of([name]):
        refused = _still_refused(site, name)
        if not _over(sequence, failure, report, refused):
            failures.forget(name, "rejected")
        elif stops(sequence, failure):
            return Standing(
                True, _told(sequence, failure, f"{name}: {refused} rows are refused still. {report.summary}")
            )
        else:
            return Standing(False, "")
    return Standing(False, "", mended=bool(was))


def waiting(sequence: SequenceSpec, name: str) -> list[str]:
    """Who waits while `name` is stopped: every sync below it, and ``finish``."""
    return [*descendants(sequence, name), FINISH]


def _over(sequence: SequenceSpec, failure: Failure, report: SyncReport, refused: int) -> bool:
    limit = sequence.errors_of(sequence.sync(failure.sync)).max_rejected
    c = report.counts
    none_went = failure.every and not (c.created or c.adopted or c.updated)
    return limit.exceeded(refused, failure.judged) or (none_went and refused > 0)


def _still_refused(site: Site, name: str) -> int:
    """Rows that are refused and will be tried again. Those given up on (quarantined) stop nothing any more."""
    sync = site.sequence.sync(name)
    with site.warehouse.open(site.sequence.name, name) as room:
        ledger = t.StateTables.of(site.sequence, sync, room.schema).ledger
        refused = sa.select(sa.func.count()).where(ledger.c.state == t.REJECTED, ledger.c.retry_at.is_not(None))
        return int(room.connection.execute(refused).scalar_one())


def _told(sequence: SequenceSpec, failure: Failure, what: str) -> str:
    below = waiting(sequence, failure.sync)
    listed = " and ".join(filter(None, [", ".join(below[:-1]), below[-1]]))
    verb = "waits" if len(below) == 1 else "wait"
    if stops(sequence, failure):
        text = f"{listed} {verb} until {_until([failure])}."
    elif failure.kind == "fatal":
        text = f"{listed} {'goes' if len(below) == 1 else 'go'} on all the same (errors: fatal: continue)."
    else:
        text = f"{listed} {'goes' if len(below) == 1 else 'go'} on; only rows whose parent is missing are held."
    return f"{_sentence(what)} {text} Failing {_since(failure)}."


def _until(failures: Sequence[Failure]) -> str:
    ways = []
    if fatal := [f.sync for f in failures if f.kind == "fatal"]:
        ways.append(f"a run of {' and of '.join(fatal)} ends in order")
    if rejected := [f.sync for f in failures if f.kind == "rejected"]:
        ways.append(
            f"the refused rows of {' and '.join(rejected)} are within max_rejected again, or given up on (quarantined)"
        )
    return " and ".join(ways)


def _since(failure: Failure) -> str:
    return f"since {failure.since:%Y-%m-%d %H:%M:%S} UTC ({failure.holder})"


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
