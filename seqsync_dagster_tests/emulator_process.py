"""The emulated Salesforce as a process of its own, for any test that needs an org.

In a `conftest.py` (importing the names is what makes pytest see the fixtures)::

    from seqsync_dagster_tests.emulator_process import emulator, module_emulator  # noqa: F401

and in a test ``def test_x(emulator: EmulatorProcess)``: an org of its own, in a few milliseconds.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import requests

CLIENT_ID, CLIENT_SECRET = "demo", "demo-secret"


class EmulatorProcess:
    """A running emulator; `restart` brings the same store up again, on the same port."""

    def __init__(self, store: Path, *options: str) -> None:
        self.store, self.options, self._port = store, options, 0
        self._admin = requests.Session()
        self.start()

    def start(self, *, anywhere: bool = False) -> None:
        """Serve the store where it was before, or on a free port: somebody may have taken the old one meanwhile."""
        if anywhere:
            self._port = 0
        command = [sys.executable, "-m", "seqsync_dagster.emulator", "--store", str(self.store)]
        self.process = subprocess.Popen(
            [*command, "--port", str(self._port), *self.options], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"the emulator did not start: exit code {self.process.wait()}")
        self._port = urlsplit(self.url).port or 0

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        self.process.terminate()
        return self._reap()

    def kill(self) -> int:
        """End it as a crash would."""
        self.process.kill()
        return self._reap()

    def _reap(self) -> int:
        code = self.process.wait(timeout=20)
        if self.process.stdout:
            self.process.stdout.close()
        self._admin.close()
        return code

    def restart(self, kill: bool = False) -> None:
        _ = self.kill() if kill else self.stop()
        self.start()

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        reply = self._admin.request(method, f"{self.url}/emulator/{path}", json=body, timeout=60)
        if not reply.ok:
            raise RuntimeError(f"{method} {path}: {reply.status_code} {reply.text}")
        return reply.json()

    def calls(self) -> dict[str, Any]:
        """API calls made since the start or the last reset: {"calls": {"GET /...": n}, "total", "row_bearing"}."""
        reply: dict[str, Any] = self._call("GET", "calls")
        return reply

    def reset_calls(self) -> None:
        self._call("POST", "calls/reset")

    def records(self, obj: str) -> list[dict[str, Any]]:
        """Every living record, all fields."""
        reply: list[dict[str, Any]] = self._call("GET", f"records/{obj}")
        return reply

    def by_external_id(self, obj: str) -> dict[str, dict[str, Any]]:
        return {r["External_Id__c"]: r for r in self.records(obj)}

    def seed(self, obj: str, records: list[dict[str, Any]]) -> list[str]:
        """Insert records behind the API's back (no call is counted); their ids."""
        replies = self._call("POST", f"records/{obj}", records)
        refused = [r for r in replies if not r["success"]]
        if refused:
            raise RuntimeError(f"not valid: {refused[:3]}")
        return [r["id"] for r in replies]

    def remove(self, obj: str, record_id: str) -> None:
        """Delete a record behind the API's back."""
        self._call("DELETE", f"records/{obj}/{record_id}")

    def merge(self, obj: str, master: str, *losers: str) -> None:
        """Merge records into one, as a person does in the org."""
        self._call("POST", "merge", {"object": obj, "master": master, "losers": losers})

    def fault(self, kind: str, path_contains: str = "", times: int | None = None, **more: Any) -> None:
        """A fault or a rule of `seqsync_dagster.emulator.faults`, with any of its keys; strikes once unless told."""
        given = {"path_contains": path_contains, "times": times}
        self._call("POST", "faults", {"fault": kind, **{k: v for k, v in given.items() if v not in ("", None)}, **more})

    def clear_faults(self) -> None:
        self._call("DELETE", "faults")

    def settings(self, **settings: Any) -> None:
        """bulk_delay_s, bulk_rows_per_s (None: as fast as it can)."""
        self._call("POST", "settings", settings)

    def reset(self) -> None:
        """An org without records, jobs, tokens, faults and settings, as after its first start; its id stays."""
        self._call("POST", "reset")

    def expire_tokens(self) -> None:
        self._call("POST", "expire_tokens")

    def login(self) -> Api:
        """A client that has a token."""
        return Api(self.url)


class Api(requests.Session):
    """A plain client: paths are relative to /services/data/v64.0."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        reply = requests.post(f"{url}/services/oauth2/token", data=form, timeout=30)
        reply.raise_for_status()
        self.token: dict[str, Any] = reply.json()
        self.headers["Authorization"] = f"Bearer {self.token['access_token']}"

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
        path = url.decode() if isinstance(url, bytes) else url
        if not path.startswith("http"):
            path = self.url + (path if path.startswith("/services") else f"/services/data/v64.0/{path}")
        options.setdefault("timeout", 60)
        return super().request(method, path, *args, **options)

    def query(self, soql: str) -> list[dict[str, Any]]:
        """All pages of a query."""
        reply = self.get("query", params={"q": soql})
        found: list[dict[str, Any]] = []
        while True:
            page = reply.json()
            assert reply.ok, page
            found += page["records"]
            if page["done"]:
                return found
            reply = self.get(page["nextRecordsUrl"])

    def start_job(self, csv: str | bytes, operation: str, obj: str, **job: Any) -> str:
        """Hand a Bulk job in; its id."""
        body = {"object": obj, "operation": operation, **job}
        if operation == "upsert":
            body.setdefault("externalIdFieldName", "External_Id__c")
        reply = self.post("jobs/ingest", json=body)
        assert reply.status_code == 200, reply.text
        job_id = str(reply.json()["id"])
        data = csv.encode() if isinstance(csv, str) else csv
        uploaded = self.put(f"jobs/ingest/{job_id}/batches", data=data, headers={"Content-Type": "text/csv"})
        assert (uploaded.status_code, uploaded.content) == (201, b"")
        assert self.patch(f"jobs/ingest/{job_id}", json={"state": "UploadComplete"}).status_code == 200
        return job_id

    def wait_for(self, job_id: str, *states: str) -> dict[str, Any]:
        """Poll until the job is in one of the states (default: ended)."""
        states = states or ("JobComplete", "Failed", "Aborted")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            job: dict[str, Any] = self.get(f"jobs/ingest/{job_id}").json()
            if job["state"] in states:
                return job
            time.sleep(0.01)
        raise TimeoutError(f"job {job_id} is {job['state']}, not {states}")

    def run_job(self, csv: str | bytes, operation: str, obj: str, **job: Any) -> dict[str, Any]:
        return self.wait_for(self.start_job(csv, operation, obj, **job))


class Loopback(requests.Session):
    """simple-salesforce always speaks https; this sends it to the emulator's http instead."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._base = urlsplit(url)

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
        asked = urlsplit(url.decode() if isinstance(url, bytes) else url)
        here = urlunsplit((self._base.scheme, self._base.netloc, asked.path, asked.query, ""))
        options.setdefault("timeout", 60)
        return super().request(method, here, *args, **options)


@pytest.fixture(scope="session")
def worker_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    """The process behind `emulator`. Only the conftest of all tests imports it, so that there is one per worker."""
    process = EmulatorProcess(tmp_path_factory.mktemp("org") / "org.sqlite")
    try:
        yield process
    finally:
        process.kill()


def ready(worker_emulator: EmulatorProcess) -> EmulatorProcess:
    """The worker's process with an org as new, whatever an earlier test did to either."""
    if worker_emulator.options:
        worker_emulator.kill()
        worker_emulator.options = ()
    if worker_emulator.process.poll() is not None:
        worker_emulator.start(anywhere=True)
    worker_emulator.reset()
    return worker_emulator


@pytest.fixture
def emulator(worker_emulator: EmulatorProcess) -> EmulatorProcess:
    """An org for one test, which may also stop, kill and restart it, with other options too."""
    return ready(worker_emulator)


@pytest.fixture(scope="module")
def module_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    """An org for the tests of one module, which must not be in each other's way."""
    process = EmulatorProcess(tmp_path_factory.mktemp("org") / "org.sqlite")
    try:
        yield process
    finally:
        process.stop()
