"""What triggers say of themselves, before there is any Dagster."""

from __future__ import annotations

import pytest

from seqsync_dagster.sequence.triggers import circle_of_sequences, never_comes


@pytest.mark.parametrize(
    ("cron", "never"),
    [
        ("0 0 31 4,6 *", True),
        ("0 0 30-31 2 *", True),
        ("0 0 31 2-4 *", False),
        ("0 0 29 2 *", False),
        ("0 0 28,31 2 *", False),
        ("0 0 31 4 1", False),
        ("0 0 31 * *", False),
        ("0 0 */31 4 *", False),
        ("@daily", False),
    ],
)
def test_a_day_that_no_month_has(cron: str, never: bool) -> None:
    assert never_comes(cron) == never


def test_circles() -> None:
    after = {"a": ["b", "x"], "b": ["c"], "c": ["a"], "d": ["a"]}
    assert circle_of_sequences("a", after) == ["a", "b", "c", "a"]
    assert circle_of_sequences("d", after) == [], "it waits for a circle, and is not in it"
    assert circle_of_sequences("x", after) == []
