"""A run's counts as instruments of OpenTelemetry. Imports OpenTelemetry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from opentelemetry.metrics import Meter

from seqsync_dagster.engine.report import DriftReport, FinishReport, SyncReport

_SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 1800, 3600, 10800, 43200)

Report = SyncReport | FinishReport | DriftReport

#: What a row of the model, or a record, can have become in a run. Every row of a sync's model counts once.
_FATES = (
    *("created", "adopted", "updated", "unchanged", "rejected", "waiting"),
    *("held", "invalid", "skipped", "removed", "absent", "kept"),
)


class Instruments:
    """What is measured. Names and units are of README."""

    def __init__(self, meter: Meter) -> None:
        self.rows = meter.create_counter("seqsync.rows", "{row}", "Rows of a run, by what became of them.")
        self.calls = meter.create_counter("seqsync.api.calls", "{call}", "API calls of the destination.")
        self.drift = meter.create_counter("seqsync.drift.records", "{record}", "Records that a drift check found.")
        self.sequence_s = self._duration(meter, "seqsync.sequence.duration", "From a run's start to its last step.")
        self.sync_s = self._duration(meter, "seqsync.sync.duration", "Of one sync's run, of finish, of a drift check.")
        self.step_s = self._duration(meter, "seqsync.step.duration", "Of a step of a sync's run.")

    @staticmethod
    def _duration(meter: Meter, name: str, text: str):  # type: ignore[no-untyped-def]  # its type has a private name
        return meter.create_histogram(name, "s", text, explicit_bucket_boundaries_advisory=_SECONDS)

    def count(self, report: Report, common: Mapping[str, str]) -> None:
        """Everything that a report counts. `common`: attributes of the sequence and the sync."""
        for sync, fate, rows in _rows(report):
            if rows:
                self.rows.add(rows, {**common, "seqsync.sync": sync, "seqsync.fate": fate})
        if report.api_calls:
            self.calls.add(report.api_calls, dict(common))
        if isinstance(report, DriftReport):
            same = report.checked - report.changed - report.deleted
            for what, records in (("same", same), ("changed", report.changed), ("deleted", report.deleted)):
                if records:
                    self.drift.add(records, {**common, "seqsync.drift": what})


def counts(report: Report) -> Mapping[str, int]:
    """The counts of a report that are not zero, by name, as attributes of a span show them."""
    found: dict[str, int] = {"api_calls": report.api_calls}
    if isinstance(report, SyncReport):
        found |= {"model": report.counts.model, "planned": report.counts.planned}
        found |= {"removals_due": report.counts.removals_due, "references_due": report.counts.references_due}
    if isinstance(report, DriftReport):
        found |= {"checked": report.checked, "changed": report.changed, "deleted": report.deleted}
    for _, fate, rows in _rows(report):
        found[fate] = found.get(fate, 0) + rows
    return {name: number for name, number in found.items() if number}


def _rows(report: Report) -> Iterator[tuple[str, str, int]]:
    """Sync, fate, rows."""
    match report:
        case SyncReport():
            for fate in _FATES:
                yield report.sync, fate, getattr(report.counts, fate)
        case FinishReport():
            for fate, counted in (
                ("removed", report.removed),
                ("removal_rejected", report.rejected),
                ("removal_waiting", report.kept_for_children),
                ("reference_filled", report.referenced),
                ("reference_rejected", report.references_rejected),
                ("reference_held", report.references_held),
                ("reference_waiting", report.references_waiting),
            ):
                for sync, rows in counted.items():
                    yield sync, fate, rows
