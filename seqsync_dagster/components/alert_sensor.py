"""The sensor that tells what a run cannot say any more: that it was killed, that it hangs, that there is none."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from seqsync_dagster.components.alerting import (
    WHOLE,
    channels_of,
    end_what_is_gone,
    everybody,
    notice_of,
    utc_now,
)
from seqsync_dagster.components.outcome import OUTCOME
from seqsync_dagster.components.triggers.runs import elsewhere, own_location
from seqsync_dagster.errors import SeqsyncError
from seqsync_dagster.notify.judging import Facts
from seqsync_dagster.notify.telling import Announcer

if TYPE_CHECKING:
    from seqsync_dagster.components.alerting import OpenJournal
    from seqsync_dagster.journal.alerts import StepUnderWay
    from seqsync_dagster.journal.store import Journal
    from seqsync_dagster.notify.channels import Channel
    from seqsync_dagster.sequence.spec import SequenceSpec

#: How long one look waits for its messages to arrive.
PATIENCE_S = 10.0

#: How long a step is kept whose run this Dagster does not know.
_FORGOTTEN_AFTER = timedelta(days=7)

#: Ended runs that are looked through for one of this code location.
_LATEST = 20

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]


def build_watch(sequence: SequenceSpec, open_journal: OpenJournal) -> dg.SensorDefinition:
    """The sensor ``<sequence>_watch``. It starts no run, so it is on from the beginning."""

    @dg.sensor(
        name=f"{sequence.name}_watch",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Tells those who follow {sequence.name} what a run cannot say itself: that it was killed, that it "
        "hangs, that there was none for too long. Tries messages again that could not be delivered. Starts no run.",
    )
    def tick(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = utc_now()
        before = json.loads(context.cursor) if context.cursor else {"since": now.isoformat(), "killed": []}
        since, killed = datetime.fromisoformat(before["since"]), list(before["killed"])
        try:
            said = _look(context, sequence, open_journal, now, since, killed)
        except SeqsyncError as error:
            context.log.warning(f"What is to be told cannot be known: {error}")
            said = str(error)
        cursor = {"since": before["since"], "killed": killed[-20:]}
        return dg.SensorResult(skip_reason=said, cursor=json.dumps(cursor))

    return tick


def _look(
    context: dg.SensorEvaluationContext,
    sequence: SequenceSpec,
    open_journal: OpenJournal,
    now: datetime,
    watching_since: datetime,
    killed: list[str],
) -> str:
    told = everybody(sequence)
    listening = {channel.digest: channel for channels in told.values() for channel in channels}
    # A name of its own: what failed at the last look is tried again.
    announcer = Announcer(sequence.name, list(listening.values()), f"watch {uuid.uuid4().hex}", open_journal)
    with open_journal() as journal:
        look = _Look(context.instance, sequence, journal, announcer, now, killed, own_location(context))
        # First: of what is forgotten nobody can be told that it is over.
        end_what_is_gone(sequence, journal, announcer, None)
        journal.alerts_of(sequence.name).forget_others({n: [c.digest for c in found] for n, found in told.items()})
        announcer.take_up(journal)
        look.at_steps()
        look.at_runs(watching_since)
        look.at_syncs(watching_since)
        look.at_what_has_begun()
    undelivered = announcer.close(PATIENCE_S)
    failed = sorted({f"{each.channel.label}: {each.reason}" for each in undelivered})
    if failed:
        text = f"Messages that could not be delivered and are tried again: {len(undelivered)}. {' '.join(failed)}"
        context.log.warning(text)
        return text
    return f"Messages delivered: {announcer.sent}." if announcer.sent else "Nothing new to tell."


@dataclass(frozen=True)
class _Look:
    """One look at a sequence."""

    instance: dg.DagsterInstance
    sequence: SequenceSpec
    journal: Journal
    announcer: Announcer
    now: datetime
    killed: list[str]
    """Runs of which it was told, now or before, that their steps had no last word."""
    location: str | None
    """Code location of the sequence; another one may have a job of the same name."""

    def at_steps(self) -> None:
        """Steps without a last word: whose run has ended was killed."""
        book = self.journal.alerts_of(self.sequence.name)
        for step in book.under_way():
            run = self.instance.get_run_by_id(step.run_id)
            if run is None:
                # Of another Dagster with the same journal, or deleted.
                if self.now - step.began_at > _FORGOTTEN_AFTER:
                    book.ended(step.sync, step.run_id)
                continue
            if run.is_finished:
                if run.status != dg.DagsterRunStatus.SUCCESS:
                    self._tell_failed(step, f"ended ({run.status.value.lower()})")
                    self.killed.append(step.run_id)
                book.ended(step.sync, step.run_id)
            elif step.silent:
                self._tell_failed(step, "gives no sign of life any more")
            else:
                self._tell_slow(step)

    def _tell_failed(self, step: StepUnderWay, how: str) -> None:
        text = (
            f"Run {step.run_id[:8]} {how}, and {self.sequence.name}/{step.sync} had no last word: its process was "
            "killed, or lost its machine. No row is lost: the next run looks first what became of those in flight."
        )
        self._turn(step.sync, Facts(failed=True), channels_of(self.sequence, step.sync), text, step.run_id)

    def _tell_slow(self, step: StepUnderWay) -> None:
        took = self.now - step.began_at
        # That a step is not slow yet is no recovery.
        late = [
            replace(c, conditions={"slower_than": c.conditions["slower_than"]})
            for c in channels_of(self.sequence, step.sync)
            if "slower_than" in c.conditions and took > (c.conditions["slower_than"].after or timedelta(0))
        ]
        self._turn(step.sync, Facts(took=took), late, "It is at work still.", step.run_id, only=True)

    def at_runs(self, watching_since: datetime) -> None:
        """The last run of the job: that it failed where no sync could tell, and how long ago it was."""
        filters = dg.RunsFilter(job_name=self.sequence.name, statuses=_ENDED)
        records = self.instance.get_run_records(filters, limit=_LATEST)
        latest = next((r for r in records if not elsewhere(r.dagster_run, self.location)), None)
        ended = watching_since
        facts, text, run_id = Facts(), "", None
        if latest is not None:
            run, run_id = latest.dagster_run, latest.dagster_run.run_id
            if latest.end_time:
                ended = datetime.fromtimestamp(latest.end_time, UTC)
            if run.is_success:
                facts, text = Facts(failed=False), f"Run {run_id[:8]} has ended in order."
            elif run.tags.get(OUTCOME) != "failed" and ended >= watching_since and run_id not in self.killed:
                facts, text = Facts(failed=True), self._what_failed(run_id)
        self._turn(WHOLE, replace(facts, last_run=ended), channels_of(self.sequence, WHOLE), text, run_id)

    def _what_failed(self, run_id: str) -> str:
        failed = [
            stats.step_key
            for stats in self.instance.get_run_step_stats(run_id)
            if stats.status == dg.StepEventStatus.FAILURE
        ]
        what = f"These steps failed: {', '.join(failed[:5])}." if failed else "No step of it has begun."
        return f"Run {run_id[:8]} of {self.sequence.name} failed, and it was no sync's doing. {what}"

    def at_syncs(self, watching_since: datetime) -> None:
        """The last run of each sync that somebody asked about by itself."""
        for sync in self.sequence.syncs:
            asking = [
                replace(c, conditions={"no_run_in": c.conditions["no_run_in"]})
                for c in channels_of(self.sequence, sync.name)
                if "no_run_in" in c.conditions
            ]
            if asking:
                key = dg.AssetKey([self.sequence.name, sync.name])
                latest = self.instance.get_latest_materialization_event(key)
                ended = datetime.fromtimestamp(latest.timestamp, UTC) if latest is not None else watching_since
                self._turn(sync.name, Facts(last_run=ended), asking, "", None, only=True)

    def at_what_has_begun(self) -> None:
        """What becomes worth telling by lasting, whether anything runs or not."""
        for sync, channel, _ in self.journal.alerts_of(self.sequence.name).begun():
            whose = [c for c in channels_of(self.sequence, sync) if c.digest == channel]
            self._turn(sync, Facts(only_later=True), whose, "", None)

    def _turn(
        self,
        name: str,
        facts: Facts,
        channels: list[Channel],
        text: str,
        run_id: str | None,
        *,
        only: bool = False,
    ) -> None:
        notice = notice_of(self.sequence, name, self.now, run_id, text)
        self.announcer.turn(self.journal, notice, facts, channels, only=only)
