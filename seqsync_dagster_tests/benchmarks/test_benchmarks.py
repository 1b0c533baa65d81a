"""The benchmarks run, end to end and tiny. What they measure is for people: no time is ever asserted."""

from __future__ import annotations

import pytest

from seqsync_dagster_tests.benchmarks import changes, first_load, plan


def test_the_planning_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    plan.main(["--rows", "1000", "--postgres-rows", "1000", "--repeat", "1"])
    assert capsys.readouterr().out.count("1% changed, anywhere") == 2


def test_the_benchmark_of_changes_runs(capsys: pytest.CaptureFixture[str]) -> None:
    changes.main(["--rows", "300", "--pairs", "1", "--org-s", "0.01"])
    shown = capsys.readouterr().out
    assert "300 at 0.01 s: apply" in shown and "finish_send" in shown


def test_the_first_load_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    first_load.main(["--rows", "3000", "--parents"])
    assert "settle_completed" in capsys.readouterr().out
