"""Alerts of a run, by the run itself: what it finds is compared with what was told, and told when it has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from seqsync_dagster.engine.report import DriftReport, FinishReport, SyncReport
from seqsync_dagster.engine.telling import PlanReady
from seqsync_dagster.errors import GuardTripped, LeaseLost, PlanOutdated, SeqsyncError, SequenceStopped, Unfulfillable
from seqsync_dagster.notify.channels import Channel, channels, unknown_address
from seqsync_dagster.notify.judging import Facts, Refused
from seqsync_dagster.notify.notice import Notice, distinct, event
from seqsync_dagster.notify.telling import Announcer
from seqsync_dagster.sequence.alerts import addresses
from seqsync_dagster.sequence.words import FINISH, drift_step, sync_of_step

if TYPE_CHECKING:
    from seqsync_dagster.components.watching import Beginning, Ending, Watch
    from seqsync_dagster.engine.telling import Told
    from seqsync_dagster.journal.store import Journal
    from seqsync_dagster.sequence.alerts import Alert
    from seqsync_dagster.sequence.spec import SequenceSpec

OpenJournal = Callable[[], AbstractContextManager["Journal"]]

#: Run tag: the channels that could not be told.
ALERT_FAILED = "seqsync/alert_failed"

#: Where the web UI is, for the links in messages.
UI_URL = "SEQSYNC_UI_URL"

#: How long a step that has ended waits for its messages to arrive.
PATIENCE_S = 5.0

#: What is a sequence's own, and not that of each of its syncs.
WHOLE = ""
_OF_THE_WHOLE = ("failed", "no_run_in")


def has_alerts(sequence: SequenceSpec) -> bool:
    """Whether anybody is to be told of anything."""
    return bool(sequence.alerts or any(sync.alerts for sync in sequence.syncs))


def check_addresses(sequence: SequenceSpec, error: Callable[..., Exception]) -> None:
    """Raise what `error` makes when an address that stands in the file leads nowhere."""
    places: list[tuple[tuple[str | int, ...], Sequence[Alert]]] = [(("alerts",), sequence.alerts)]
    places += [(("syncs", n, "alerts"), sync.alerts) for n, sync in enumerate(sequence.syncs)]
    for place, alerts in places:
        who = f"sync {sequence.syncs[int(place[1])].name!r}: " if len(place) > 1 else ""
        for index, name, address in addresses(alerts):
            if reason := unknown_address(address.get_secret_value(), webhook=name == "webhook"):
                raise error(f"{who}{name}: {reason}", *place, index, name)


def channels_of(sequence: SequenceSpec, name: str) -> list[Channel]:
    """Who is told of one step, or of the sequence as a whole, and of what."""
    if name == WHOLE:
        found = channels(sequence.alerts)
        return [
            replace(c, conditions={n: each for n, each in c.conditions.items() if n in _OF_THE_WHOLE}, events=())
            for c in found
        ]
    sync = sync_of_step(name)
    own = sequence.alerts_of(sync)[len(sequence.alerts) :]
    shared = [
        alert.model_copy(update={"when": tuple(c for c in alert.when if c.name != "no_run_in")})
        for alert in sequence.alerts
    ]
    return channels([*own, *shared])


def everybody(sequence: SequenceSpec) -> dict[str, list[Channel]]:
    """Who is told of each step, and of the sequence as a whole."""
    names = [WHOLE, FINISH, *(sync.name for sync in sequence.syncs)]
    found = {name: channels_of(sequence, name) for name in names}
    return found | {drift_step(sync.name): found[sync.name] for sync in sequence.syncs if sync.drift is not None}


def end_what_is_gone(sequence: SequenceSpec, journal: Journal, announcer: Announcer, run_id: str | None) -> None:
    """Tell that what was told of syncs which are not in the sequence any more is over, and forget it.

    Else it would be told as soon as it has lasted, and of a later sync of that name nobody would hear.
    """
    book, now = journal.alerts_of(sequence.name), utc_now()
    nothing = Facts(
        failed=False,
        guarded=False,
        refused=Refused(0, 0, 0),
        held=0,
        took=timedelta(0),
        drifted=0,
        whole=True,
        last_run=now,
    )
    for name in sorted(book.told_of() - everybody(sequence).keys()):
        text = f"{sequence.name}/{name} is no sync of {sequence.name} any more. Nothing is told of it from now on."
        notice = notice_of(sequence, name, now, run_id, text)
        announcer.turn(journal, notice, nothing, channels_of(sequence, name))
        book.forget(name)


def utc_now() -> datetime:
    """The time that alerts go by."""
    return datetime.now(UTC)


def alerting(open_journal: OpenJournal) -> Watch:
    """Follows the steps of a sequence that has alerts."""

    def follow(beginning: Beginning) -> _Following | None:
        found = channels_of(beginning.sequence, beginning.name)
        return _Following(beginning, found, open_journal) if found else None

    return follow


def run_url(run_id: str) -> str | None:
    """Where Dagster shows a run; None when nobody said where its web UI is."""
    base = os.environ.get(UI_URL, "").rstrip("/")
    return f"{base}/runs/{run_id}" if base else None


class _Following:
    """One step, from its beginning to its end."""

    def __init__(
        self,
        beginning: Beginning,
        found: Sequence[Channel],
        open_journal: OpenJournal,
    ) -> None:
        self._beginning, self._channels = beginning, found
        self._open_journal = open_journal
        self._announcer = Announcer(beginning.sequence.name, found, beginning.run_id, open_journal)
        self._began = time.monotonic()
        self._problems: list[tuple[str, str]] = []
        """Who could not be told, and why."""
        self._event("started")
        self._kept(lambda journal: journal.alerts_of(self._sequence.name).began(self._name, self._run_id, utc_now()))

    @property
    def _sequence(self) -> SequenceSpec:
        return self._beginning.sequence

    @property
    def _name(self) -> str:
        return self._beginning.name

    @property
    def _run_id(self) -> str:
        return self._beginning.run_id

    def told(self, told: Told) -> None:
        """The plan is ready: a full resync begins now, and may take hours."""
        if not isinstance(told, PlanReady):
            return
        counts = _nonzero(told.counts)
        self._event("plan_ready", plan_id=told.plan_id, counts=counts, full_resync=told.resync_reason)
        if told.resync_reason is not None:
            notice = self._notice("", counts={"planned": told.counts.planned})
            facts = Facts(resync_reason=told.resync_reason)
            self._kept(lambda journal: self._announcer.turn(journal, notice, facts, self._channels))

    def ended(self, ending: Ending) -> None:
        """The last word: tell what has changed, and what earlier runs could not."""
        report = ending.report
        counts = _nonzero(report.counts) if isinstance(report, SyncReport) else {}
        self._event(
            "finished",
            outcome=ending.how,
            text=ending.text[:1000],
            counts=counts,
            error=type(ending.error).__name__ if ending.error is not None else None,
            seconds=round(time.monotonic() - self._began, 3),
        )
        facts = facts_of(ending, timedelta(seconds=time.monotonic() - self._began), utc_now())
        notice = self._ending_notice(ending)
        # A run that came to its end held the sync's lease: whoever had it before is gone, whatever Dagster thinks.
        took_over = ending.report is not None
        if not self._kept(lambda journal: self._last_word(journal, facts, notice, took_over)):
            self._announcer.without_journal(notice, facts, self._channels)
        for undelivered in self._announcer.close(PATIENCE_S):
            self._problems.append((undelivered.channel.label, undelivered.reason))
        self._show_problems()

    def _last_word(self, journal: Journal, facts: Facts, notice: Notice, took_over: bool) -> None:
        # What waits is older than what comes now.
        self._announcer.take_up(journal)
        self._announcer.turn(journal, notice, facts, self._channels)
        if self._name == FINISH:
            end_what_is_gone(self._sequence, journal, self._announcer, self._run_id)
        if self._name == FINISH and facts.failed is False:
            of_all = replace(notice, sync=WHOLE, owners=self._sequence.owners)
            whole = Facts(failed=False, last_run=notice.at)
            self._announcer.turn(journal, of_all, whole, channels_of(self._sequence, WHOLE))
        # Last: of a process that is killed before, the sensor tells.
        journal.alerts_of(self._sequence.name).ended(self._name, self._run_id, took_over=took_over)

    def _ending_notice(self, ending: Ending) -> Notice:
        from seqsync_dagster.engine.standing import waiting

        report = ending.report
        notice = self._notice(ending.text)
        if isinstance(report, SyncReport):
            refused = [p for p in report.problems if p.status in ("rejected", "waiting")]
            notice = replace(notice, counts=_nonzero(report.counts), errors=distinct(refused or report.problems))
        elif isinstance(report, FinishReport):
            problems = (*report.problems, *report.reference_problems)
            removed = {"removed": sum(report.removed.values()), "removals_rejected": sum(report.rejected.values())}
            notice = replace(notice, counts={n: c for n, c in removed.items() if c}, errors=distinct(problems))
        elif isinstance(report, DriftReport):
            drifted = {"checked": report.checked, "changed": report.changed, "deleted": report.deleted}
            notice = replace(notice, counts={n: c for n, c in drifted.items() if c})
        if ending.stops:
            notice = replace(notice, waiting=tuple(waiting(self._sequence, self._name)))
        return notice

    def _notice(self, text: str, **more: object) -> Notice:
        return replace(notice_of(self._sequence, self._name, utc_now(), self._run_id, text), **more)  # type: ignore[arg-type]

    def _event(self, kind: str, **more: object) -> None:
        for channel in self._channels:
            if kind in channel.events:
                url = run_url(self._run_id)
                made = event(kind, utc_now(), self._sequence.name, self._name, self._run_id, url, **more)
                self._announcer.send(channel, made)

    def _kept(self, what: Callable[[Journal], object]) -> bool:
        """Do something with the journal; whether that was possible."""
        try:
            with self._open_journal() as journal:
                what(journal)
        except SeqsyncError as error:
            self._problems.append(("the journal", str(error)))
            return False
        except Exception as defect:
            # Not its text: it may quote an address.
            self._problems.append(("the journal", f"{type(defect).__name__}."))
            return False
        return True

    def _show_problems(self) -> None:
        if not self._problems:
            return
        context = self._beginning.context
        label = f"{self._sequence.name}/{self._name}"
        problems = dict.fromkeys(f"{who}: {why}" for who, why in self._problems)
        context.log.warning(
            f"{label}: somebody could not be told, and the sync goes on all the same. {' '.join(problems)} "
            "Alerts are kept and tried again with the next run; events of a webhook are not."
        )
        show_failed(context.instance, self._run_id, [who for who, _ in self._problems])


def show_failed(instance: dg.DagsterInstance, run_id: str, names: Collection[str]) -> None:
    """Tag a run with who could not be told."""
    run = instance.get_run_by_id(run_id)
    before = run.tags.get(ALERT_FAILED, "").split(", ") if run is not None else []
    instance.add_run_tags(run_id, {ALERT_FAILED: ", ".join(sorted({*filter(None, before), *names}))})


def notice_of(sequence: SequenceSpec, name: str, at: datetime, run_id: str | None, text: str) -> Notice:
    """What every message about a step, or about the sequence as a whole, says."""
    owners, links = sequence.owners, sequence.links
    with suppress(KeyError):
        sync = sequence.sync(sync_of_step(name))
        owners, links = sync.owners or owners, {**links, **sync.links}
    return Notice(
        kind="raised",
        sequence=sequence.name,
        sync=name,
        matters=(),
        at=at,
        text=text,
        run_id=run_id,
        run_url=run_url(run_id) if run_id else None,
        owners=owners,
        runbook=links.get("runbook"),
    )


def facts_of(ending: Ending, took: timedelta, now: datetime) -> Facts:
    """What a step's end says of the conditions.

    Nothing, when another run is at the sync, when somebody stopped the run, when the destination still works, when a
    sync above is stopped (that one's message names who waits), or when what somebody asked the run
    for cannot be done.
    """
    if ending.how in ("refused", "cancelled", "in_progress"):
        return Facts()
    if isinstance(ending.error, SequenceStopped | LeaseLost | PlanOutdated | Unfulfillable):
        return Facts()
    report, failed = ending.report, ending.how == "failed"
    match report:
        case SyncReport(counts=c):
            fresh = c.rejected - c.rejected_again
            judged = c.created + c.adopted - c.adopted_as_is + c.updated + fresh
            return Facts(
                failed=failed,
                guarded=False,
                refused=Refused(c.rejected + c.waiting, fresh, judged),
                held=c.held,
                took=took,
                resync_reason=report.resync_reason,
                whole=True,
                some_rows=report.some_rows,
                last_run=now,
            )
        case FinishReport():
            refused = sum(report.rejected.values()) + sum(report.references_rejected.values())
            done = sum(report.removed.values()) + sum(report.referenced.values())
            return Facts(
                failed=failed,
                refused=Refused(refused + sum(report.references_waiting.values()), refused, done + refused),
                held=sum(report.references_held.values()),
                took=took,
                last_run=now,
            )
        case DriftReport():
            return Facts(failed=failed, drifted=report.drifted, took=took)
    return Facts(failed=failed, guarded=True if isinstance(ending.error, GuardTripped) else None)


def _nonzero(counts: object) -> dict[str, int]:
    return {name: number for name, number in vars(counts).items() if number}
