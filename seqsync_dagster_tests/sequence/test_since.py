"""When a whole model is read, and when only what changed."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from seqsync_dagster.sequence.since import FullScan
from seqsync_dagster_tests.sequence.test_spec import sequence, sync

NIGHTLY = {"cron": "0 3 * * *", "timezone": "Europe/Paris"}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "now", "latest", "after"),
    [
        ("0 3 * * *", "2026-03-28 12:00", "2026-03-28 02:00", "2026-03-29 01:00"),
        # The night in which clocks go forward has no 02:30: it is due as soon as they have.
        ("30 2 * * *", "2026-03-29 01:00", "2026-03-29 01:00", "2026-03-30 00:30"),
        # The night in which clocks go back has two, of which the first counts, also while the second one passes.
        ("30 2 * * *", "2026-10-25 01:10", "2026-10-25 00:30", "2026-10-26 01:30"),
        # The moment itself is one, and a second before it is not.
        ("0 3 * * *", "2026-11-23 02:00", "2026-11-23 02:00", "2026-11-24 02:00"),
        ("0 3 * * *", "2026-11-23 01:59:59", "2026-11-22 02:00", "2026-11-23 02:00"),
    ],
)
def test_a_full_scan_is_due_by_the_clock_of_its_zone(cron: str, now: str, latest: str, after: str) -> None:
    scan = FullScan.model_validate({"cron": cron, "timezone": "Europe/Paris"})
    assert (scan.latest(at(now)), scan.after(at(now))) == (at(latest), at(after))


def test_the_column_stands_alone_or_with_its_overlap() -> None:
    short, long = (
        sequence(sync("a", changed_since=given, full_scan=NIGHTLY)).sync("a").since
        for given in ("updated_at", {"column": "updated_at", "overlap_minutes": 5})
    )
    assert short and long
    assert (short.column, short.overlap) == ("updated_at", timedelta(hours=1))
    assert (long.column, long.overlap) == ("updated_at", timedelta(minutes=5))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"changed_since": "updated_at"}, "changed_since needs full_scan"),
        ({"full_scan": NIGHTLY}, "full_scan needs changed_since"),
        ({"changed_since": "u", "full_scan": {"cron": "0 3 * *"}}, "'0 3 * *' is no cron expression: Wrong number"),
        ({"changed_since": "u", "full_scan": {"cron": "0 0 3 * * *"}}, "It has five fields"),
        ({"changed_since": {"column": "u", "overlap_minutes": math.inf}, "full_scan": NIGHTLY}, "less than or equal"),
        ({"changed_since": "u", "full_scan": {"cron": "0 0 30 2 *"}}, "is no cron expression"),
        ({"changed_since": "u", "full_scan": {**NIGHTLY, "timezone": "Europe/Pari"}}, "Did you mean 'Europe/Paris'?"),
        ({"changed_since": 5, "full_scan": NIGHTLY}, "changed_since is the name of a column, or {column: NAME"),
        ({"changed_since": {"colum": "u"}, "full_scan": NIGHTLY}, "Did you mean 'column'?"),
        ({"changed_since": "u", "full_scan": NIGHTLY, "mode": "delete", "fields": {}}, "no use with mode: delete"),
    ],
)
def test_what_cannot_be_meant_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        sequence(sync("a", **more))
    assert said in str(refused.value)
