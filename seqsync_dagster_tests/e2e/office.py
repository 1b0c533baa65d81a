"""Everything that a person at a desk has: this code location in Dagster's web UI, an emulated org, and a browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import Page, expect, sync_playwright

from seqsync_dagster_tests.emulator_process import CLIENT_ID, CLIENT_SECRET, EmulatorProcess

ROOT = Path(__file__).resolve().parents[2]
LOCATION = "seqsync_dagster.definitions"
_DAGSTER_YAML = """\
telemetry: {enabled: false}
nux: {enabled: false}
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
"""
_START_S, _RUN_S = 120, 240


def chromium() -> str | None:
    """Debian's browser, or another of its kind; None when there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass
class Office:
    """The servers, and what is read from Dagster behind the browser's back."""

    url: str
    org: EmulatorProcess
    pictures: Path | None = None

    def shoot(self, page: Page, name: str, height: int = 900) -> None:
        """Keep what the page shows as a picture, where pictures are wanted."""
        if self.pictures is not None:
            page.set_viewport_size({"width": 1500, "height": height})
            # The page lays itself out anew, and moves what it draws.
            page.wait_for_timeout(1500)
            page.screenshot(path=self.pictures / f"{name}.png")
            page.set_viewport_size({"width": 1500, "height": 900})

    def graphql(self, query: str, **variables: Any) -> Any:
        """Ask Dagster."""
        reply = requests.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=30)
        return reply.json()["data"]

    def until(self, holds: Callable[[], bool], what: str, seconds: float = 30) -> None:
        """Wait until something holds that Dagster says."""
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(f"after {seconds:.0f} s it is not so that {what}")
            time.sleep(0.1)

    def ended(self, run_id: str) -> str:
        """How a run ended, once it has."""
        ask = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        until = time.monotonic() + _RUN_S
        while time.monotonic() < until:
            status: str = self.graphql(ask, id=run_id)["runOrError"]["status"]
            if status in ("SUCCESS", "FAILURE", "CANCELED"):
                return status
            time.sleep(0.2)
        raise TimeoutError(f"run {run_id} is still {status}")


@contextmanager
def office(folder: Path, pictures: Path | None = None) -> Iterator[Office]:
    """An office of its own in `folder`: nothing has run yet."""
    home = folder / "dagster_home"
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text(_DAGSTER_YAML)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "DAGSTER_HOME": str(home),
        "SEQSYNC_DUCKDB_PATH": str(folder / "warehouse.duckdb"),
        "SEQSYNC_WAREHOUSE_URL": f"duckdb:///{folder}/warehouse.duckdb",
        "SEQSYNC_SOURCES": str(folder / "sources"),
        "SALESFORCE_CLIENT_ID": CLIENT_ID,
        "SALESFORCE_CLIENT_SECRET": CLIENT_SECRET,
    }
    made = [sys.executable, str(ROOT / "dbt_project" / "change_sources.py"), "--reset"]
    subprocess.run(made, env=environment, check=True, stdout=subprocess.DEVNULL)
    org = EmulatorProcess(folder / "org.sqlite")
    try:
        with _webserver(environment | {"SALESFORCE_URL": org.url}, folder / "webserver.log") as url:
            yield Office(url, org, pictures)
    finally:
        org.stop()


@contextmanager
def browser_page() -> Iterator[Page]:
    """A page of a real browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(),
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
        )
        try:
            page = browser.new_page(viewport={"width": 1500, "height": 900})
            page.set_default_timeout(60_000)
            expect.set_options(timeout=30_000)
            yield page
        finally:
            browser.close()


@contextmanager
def _webserver(environment: dict[str, str], log: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dagster_webserver", "-m", LOCATION, "-h", "127.0.0.1", "-p", str(port)]
    with log.open("w") as file:
        # A session of its own: the servers that it starts are stopped with it.
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, process, log)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if json.loads(requests.get(f"{url}/server_info", timeout=5).text):
                return
        except (requests.RequestException, ValueError):
            time.sleep(0.2)
    raise RuntimeError(f"the web server did not start:\n{log.read_text()[-3000:]}")
