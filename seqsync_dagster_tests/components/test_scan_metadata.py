"""What an asset shows of a model of which a run has read a part."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg

from seqsync_dagster.components.metadata import of_run
from seqsync_dagster.engine.report import Counts, Scan, SyncReport

NIGHT = datetime(2026, 3, 1, 3, tzinfo=UTC)


def report(scan: Scan | None) -> SyncReport:
    return SyncReport(
        "crm", "a", "1", Counts(model=5), "success", "a: 5 unchanged.", None, (), (), 1, 5, 0, 0, "", scan
    )


def test_rows_that_were_read_are_not_shown_as_the_rows_of_the_model() -> None:
    part = of_run(report(Scan(False, 5, "2026-03-01T12:00:00", NIGHT)))
    assert part["seqsync/scan"] == (
        "Read 5 rows changed since 2026-03-01T12:00:00; last full scan 2026-03-01 03:00 UTC."
    )
    assert part["seqsync/rows_read"] == 5
    assert part["seqsync/last_full_scan"] == dg.MetadataValue.timestamp(NIGHT)
    assert "dagster/row_count" not in part
    for whole in (None, Scan(True, 5, None, NIGHT, "it is due by 0 3 * * * (UTC)")):
        assert of_run(report(whole))["dagster/row_count"] == 5
