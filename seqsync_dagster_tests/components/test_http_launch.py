"""A sequence started over plain HTTP: exactly what README shows, against Dagster's own web server."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import dagster as dg
import pytest

from seqsync_dagster_tests.emulator_process import EmulatorProcess, emulator  # noqa: F401

from .test_error_policy import SEQUENCE, Location, fill, org, with_a_schema  # noqa: F401

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
LOCATION = "seqsync_dagster.definitions"
#: Runs start at once, without a daemon.
DAGSTER_YAML = """
telemetry: {enabled: false}
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
"""


def shown(language: str, what: str) -> str:
    """The code of README that holds `what`."""
    return next(code for code in re.findall(rf"```{language}\n(.*?)```", README, re.S) if what in code)


class WebServer:
    """Dagster's web server over a code location."""

    def __init__(self, made: Location, home: Path) -> None:
        self.location, folder = made.module()
        self.home = home
        home.mkdir()
        (home / "dagster.yaml").write_text(DAGSTER_YAML)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "dagster_webserver", "-m", self.location, "-h", "127.0.0.1", "-p", str(port)]
        command += ["--uvicorn-log-level", "info"]
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "DAGSTER_HOME": str(home), "PYTHONUNBUFFERED": "1"},
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        said = ""
        for line in self._process.stdout:
            said += line
            if "Uvicorn running on" in line:
                # Whatever it says from now on is read, so that it never waits for a reader.
                Thread(target=self._process.stdout.read, daemon=True).start()
                return
        self.stop()
        raise RuntimeError(f"the web server did not start: {said}")

    def stop(self) -> None:
        # Its code server and the runs it started are of the same group.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(timeout=60)


@pytest.fixture
def made() -> Iterator[Location]:
    with with_a_schema() as made:
        yield made


@pytest.fixture
def server(made: Location, org: EmulatorProcess, tmp_path: Path) -> Iterator[WebServer]:  # noqa: F811
    fill(made, rows=3, bad=0)
    made.write("crm", SEQUENCE.replace("ERRORS", "{}"))
    web = WebServer(made, tmp_path / "home")
    try:
        yield web
    finally:
        web.stop()


@pytest.mark.timeout(120)
def test_what_readme_shows_starts_a_sequence_and_waits_for_its_end(server: WebServer, org: EmulatorProcess) -> None:  # noqa: F811
    names: dict[str, Any] = {}
    exec(shown("python", "def run_sequence"), names)
    run_sequence: Callable[..., str] = names["run_sequence"]
    run = run_sequence(server.url, server.location, "crm", {"limit": 2}, {"team": "sales"}, ["crm/accounts"])
    assert len(org.records("Account")) == 2 and not org.records("Workspace__c"), "its option, and its selection"
    with dg.DagsterInstance.from_config(str(server.home)) as instance:
        found = instance.get_run_by_id(run)
    assert found and found.tags["team"] == "sales" and found.tags["seqsync/trigger"] == "http"

    with pytest.raises(RuntimeError, match=r"crm was not started: .*unexpected config entry \"limt\""):
        run_sequence(server.url, server.location, "crm", {"limt": 2})
    with pytest.raises(RuntimeError, match=r"crn was not started: .*crn"):
        run_sequence(server.url, server.location, "crn")

    with pytest.raises(RuntimeError, match=r"crm ended as FAILURE: http://127\.0\.0\.1:\d+/runs/[-\w]+"):
        run_sequence(server.url, server.location, "crm", {"plan_id": "crm-nothing"})

    command = shown("sh", "launchRun").replace("http://127.0.0.1:3000", server.url).replace(LOCATION, server.location)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    with dg.DagsterInstance.from_config(str(server.home)) as instance:
        found = instance.get_run_by_id(json.loads(done.stdout)["data"]["launchRun"]["run"]["runId"])
    assert found and found.run_config == {"limit": 100} and found.tags["seqsync/trigger"] == "curl"
