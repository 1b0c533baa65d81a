"""What messages say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from seqsync_dagster.engine.report import RowProblem
from seqsync_dagster.notify.notice import MAX_TEXT, Letter, Matter, Notice, distinct, letter
from seqsync_dagster.sequence.durations import span

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_the_most_frequent_errors_come_first_and_each_once() -> None:
    rows = [RowProblem(f"K{n}", "rejected", f"CODE_{n % 7}", "text") for n in range(20)]
    found = distinct([*rows, RowProblem("last", "rejected", "CODE_6", "text"), RowProblem("x", "held", "CODE_6", "y")])
    assert [(e.code, e.rows, e.key) for e in found] == [
        ("CODE_0", 3, "K0"),
        ("CODE_1", 3, "K1"),
        ("CODE_2", 3, "K2"),
        ("CODE_3", 3, "K3"),
        ("CODE_4", 3, "K4"),
    ]


def test_a_letter_stays_the_same_when_it_is_kept() -> None:
    notice = Notice(
        "raised", "crm", "accounts", (Matter("failed", NOON),), NOON, text="x" * 5000, counts={"created": 1200}
    )
    made = letter(notice)
    assert Letter.from_json(made.to_json()) == made
    assert made.body == f"{'x' * (MAX_TEXT - 1)}…\n\nFailed since 2026-05-01 12:00:00 UTC\nRows: 1,200 created"
    assert made.event["conditions"] == [{"name": "failed", "since": "2026-05-01T12:00:00.000+00:00", "until": None}]
    assert (made.event["run"], made.event["waiting"]) == (None, [])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.6, "1m"), (3600, "1h"), (3725, "1h 2m"), (3605, "1h"), (180_000, "2d 2h"), (-5, "0s")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert span(timedelta(seconds=seconds)) == text
