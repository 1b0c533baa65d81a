"""A dbt Cloud job starts a sequence: dagster-dbt's own client, over HTTP, against a local stand-in of the API."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import datetime

import dagster as dg
import pytest

from seqsync_dagster.components.triggers import TRIGGER, dbt_cloud_api

from .dbt_cloud_server import ACCOUNT, ERROR, JOB, SUCCESS, TOKEN, DbtCloud, serve
from .location import PAIR, location
from .test_triggers import Sensor, end, start

RUNS_ON = f"""  runs_on:
    - dbt_cloud:
        job: {JOB}
        account: {{env: TEST_DBT_CLOUD_ACCOUNT}}
        token: {{env: TEST_DBT_CLOUD_TOKEN}}
        url: {{env: TEST_DBT_CLOUD_URL}}
    - {{every: 1h}}
  syncs:"""


@pytest.fixture(scope="module")
def defs() -> Iterator[dg.Definitions]:
    with location(crm=PAIR.replace("  syncs:", RUNS_ON, 1)) as made:
        yield made.load()


@pytest.fixture(scope="module")
def server() -> Iterator[DbtCloud]:
    with serve() as made:
        yield made


@pytest.fixture
def cloud(server: DbtCloud, monkeypatch: pytest.MonkeyPatch) -> DbtCloud:
    server.runs, server.answer = [], None
    monkeypatch.setenv("TEST_DBT_CLOUD_URL", f"{server.url}/")
    monkeypatch.setenv("TEST_DBT_CLOUD_TOKEN", TOKEN)
    monkeypatch.setenv("TEST_DBT_CLOUD_ACCOUNT", str(ACCOUNT))
    monkeypatch.setattr(dbt_cloud_api, "_WAIT_S", 0.01)
    return server


@pytest.fixture
def sensor(defs: dg.Definitions, instance: dg.DagsterInstance, cloud: DbtCloud) -> Sensor:
    """A sensor that had its first tick."""
    cloud.end()
    made = Sensor(defs, instance, "crm_dbt_cloud")
    assert made.tick() == f"Runs of the dbt Cloud job {JOB} that end from now on count."
    return made


def test_a_successful_run_starts_the_syncs_once(sensor: Sensor, cloud: DbtCloud) -> None:
    nothing = f"No run of the dbt Cloud job {JOB} has ended since the last look."
    assert sensor.tick() == nothing, "what had ended before the first tick is old"
    run = cloud.end()
    request = sensor.tick()
    assert isinstance(request, dg.RunRequest)
    assert request.tags[TRIGGER] == f"dbt Cloud job {JOB} run {run}"
    assert {key.to_user_string() for key in request.asset_selection or []} == {
        "crm/accounts",
        "crm/contacts",
        "crm/finish",
    }
    assert sensor.tick() == nothing


def test_only_success_of_that_job_counts(sensor: Sensor, cloud: DbtCloud) -> None:
    failed = cloud.end(ERROR)
    assert sensor.tick() == f"Run {failed} of the dbt Cloud job {JOB} does not count: it ended as error."
    cloud.end(job=99)
    assert sensor.tick() == f"No run of the dbt Cloud job {JOB} has ended since the last look."
    good = cloud.end(SUCCESS)
    cloud.end(ERROR)
    request = sensor.tick()
    assert isinstance(request, dg.RunRequest) and request.run_key == str(good)


def test_many_runs_between_two_ticks_are_one_run(sensor: Sensor, cloud: DbtCloud) -> None:
    for _ in range(120):
        cloud.end(job=99)
    cloud.end()
    last = cloud.end()
    request = sensor.tick()
    assert isinstance(request, dg.RunRequest) and request.run_key == str(last)
    assert isinstance(sensor.tick(), str)
    # What was looked at is not asked for again, whosever runs they were.
    cloud.end(job=99)
    sensor.tick()
    sensor.tick()
    assert datetime.fromisoformat(cloud.asked_since[-1]) == datetime.fromisoformat(cloud.runs[-1]["finished_at"])


def test_news_during_a_run_waits_for_its_end(sensor: Sensor, cloud: DbtCloud, instance: dg.DagsterInstance) -> None:
    running = start(instance)
    cloud.end()
    assert sensor.tick() == f"crm is already running: run {running[:8]} (started)."
    end(instance, running)
    assert isinstance(sensor.tick(), dg.RunRequest)


REFUSED = {
    401: "refuses the token of TEST_DBT_CLOUD_TOKEN (401): it must be valid, and may read the runs of the job.",
    403: "refuses the token of TEST_DBT_CLOUD_TOKEN (403): it must be valid, and may read the runs of the job.",
    404: f"knows no job {JOB} in the account {ACCOUNT}, or the token of TEST_DBT_CLOUD_TOKEN may not see it (404).",
    400: f"refuses to tell about the job {JOB} (400).",
}
FOR_NOW = {
    500: "answered an error (500). The next look is in 60 s.",
    503: "answered an error (503). The next look is in 60 s.",
    429: "answered an error (429). The next look is in 60 s.",
    200: "answered something else than its API does. Is the url of dbt_cloud the account's access URL? "
    "The next look is in 60 s.",
}


def refusal(sensor: Sensor) -> str:
    with pytest.raises(dg.Failure) as caught:
        sensor.tick()
    return str(caught.value.description)


def test_errors_of_the_api_are_told_and_nothing_is_lost(
    sensor: Sensor,
    cloud: DbtCloud,
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    caplog: pytest.LogCaptureFixture,
) -> None:
    where = f"dbt Cloud at {cloud.url}"
    for status, said in REFUSED.items():
        cloud.answer = status, "<html>no</html>"
        assert refusal(sensor) == f"{where} {said}"
    for status, said in FOR_NOW.items():
        cloud.answer = status, "<html>not now</html>"
        assert sensor.tick() == f"{where} {said}"
    cloud.answer = 200, '{"data": []}'
    assert str(sensor.tick()).startswith(f"{where} answered something else")
    assert TOKEN not in caplog.text
    # Another trigger of the same sequence goes on meanwhile.
    assert isinstance(Sensor(defs, instance, "crm_every").tick(), dg.RunRequest)
    cloud.end()
    cloud.answer = None
    assert isinstance(sensor.tick(), dg.RunRequest)


def test_no_answer(sensor: Sensor, cloud: DbtCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbt_cloud_api, "_TIMEOUT_S", 1)
    monkeypatch.setattr(dbt_cloud_api, "_RETRIES", 0)
    cloud.silent.set()
    assert sensor.tick() == f"dbt Cloud at {cloud.url} did not answer within 1 s. The next look is in 60 s."
    cloud.silent.clear()
    cloud.released.set()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("TEST_DBT_CLOUD_URL", url)
        assert sensor.tick() == f"dbt Cloud at {url} cannot be reached. The next look is in 60 s."


def test_settings_are_read_at_the_tick_and_kept_out_of_messages(
    sensor: Sensor, cloud: DbtCloud, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEST_DBT_CLOUD_TOKEN", f"{TOKEN}\n")
    assert isinstance(sensor.tick(), str), "an end of line is easily copied with it"
    monkeypatch.setenv("TEST_DBT_CLOUD_TOKEN", "dbtc wrong")
    assert refusal(sensor) == "runs_on: dbt_cloud: the value of TEST_DBT_CLOUD_TOKEN is no token of dbt Cloud."
    assert "dbtc" not in caplog.text
    monkeypatch.delenv("TEST_DBT_CLOUD_TOKEN")
    assert refusal(sensor) == (
        "runs_on: dbt_cloud: token is read from the environment variable TEST_DBT_CLOUD_TOKEN, which is not set. "
        "Set it where Dagster runs, e.g. export TEST_DBT_CLOUD_TOKEN=..."
    )
    monkeypatch.setenv("TEST_DBT_CLOUD_ACCOUNT", "acme")
    assert (
        refusal(sensor) == "runs_on: dbt_cloud: account is a number, and TEST_DBT_CLOUD_ACCOUNT holds something else."
    )
