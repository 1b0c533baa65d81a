"""The benchmarks run, end to end and tiny. What they measure is for people: no time is ever asserted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from seqsync_dagster_tests.benchmarks import changes, first_load, load, plan


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


@pytest.mark.parametrize("way", ["bare", "files"])
def test_the_load_benchmark_loads_what_it_compares(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load.write_location(tmp_path, 4, 2, way)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "many.definitions", raising=False)
    monkeypatch.delitem(sys.modules, "many", raising=False)
    assert load.load(2, tmp_path) > 0
