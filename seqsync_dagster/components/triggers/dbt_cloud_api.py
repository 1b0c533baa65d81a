"""Finished runs of a dbt Cloud job, asked for with the client of dagster-dbt.

That client retries, and then throws a failure that does not say why: the reason stands in its log only, so its log is
listened to.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import requests
from dagster_dbt.cloud_v2.client import DbtCloudWorkspaceClient
from dagster_dbt.cloud_v2.types import DbtCloudJobRunStatusType

from seqsync_dagster.environment import FromEnvironment, read_setting
from seqsync_dagster.errors import ConfigurationError, DbtCloudRefused, DbtCloudUnreachable
from seqsync_dagster.sequence.triggers import DbtCloudJob

# A tick has a minute, for two calls at least.
_TIMEOUT_S = 8
_RETRIES = 1
_WAIT_S = 1.0
#: Clocks here and there need not agree.
_AHEAD = timedelta(days=1)
#: No page is asked for after so long.
_PAGES_S = 15


@dataclass(frozen=True, order=True)
class Ended:
    """One run that has ended; the order is that in which they have."""

    finished_at: datetime
    number: int = 0
    status: str = field(default="", compare=False)
    """``success``, ``error``, ``cancelled``, or what dbt Cloud calls it."""
    job: int = field(default=0, compare=False)


def ended_runs(job: DbtCloudJob, after: Ended) -> tuple[list[Ended], Ended]:
    """The job's runs that ended after the run `after`, in order; and the last run of any job that was looked at.

    Raises `DbtCloudUnreachable` when dbt Cloud does not answer or answers an error of its own, `DbtCloudRefused`
    when it refuses, `ConfigurationError` when a setting is not to be had. No message holds the token.
    """
    number, account = _number(job.job, "job"), _number(job.account, "account")
    url = read_setting(job.url, "runs_on: dbt_cloud: url")
    token = read_setting(job.token, "runs_on: dbt_cloud: token").strip()
    if not re.fullmatch(r"[!-~]+", token):
        # Such a header is refused before it is sent, with the token in the message.
        raise ConfigurationError(f"runs_on: dbt_cloud: the value of {job.token.env} is no token of dbt Cloud.")
    client = DbtCloudWorkspaceClient(
        account_id=account,
        token=token,
        access_url=url,
        request_max_retries=_RETRIES,
        request_retry_delay=_WAIT_S,
        request_timeout=_TIMEOUT_S,
    )
    with _said_plainly(client.access_url, account, number, job.token.env):
        known = client.get_job_details(number)
        found = [_ended(run) for run in _runs(client, known["project_id"], known["environment_id"], after)]
    new = sorted(run for run in found if run > after)
    return [run for run in new if run.job == number], new[-1] if new else after


def _runs(client: DbtCloudWorkspaceClient, project: int, environment: int, after: Ended) -> Iterator[Any]:
    upper, offset, end = datetime.now(UTC) + _AHEAD, 0, time.monotonic() + _PAGES_S
    # The runs of the whole environment, as there is no asking for those of one job. Whatever is left then is for the
    # next look, which goes on where this one ended.
    while time.monotonic() < end:
        page, total = client.get_runs_batch(project, environment, after.finished_at, upper, offset)
        yield from page
        offset += len(page)
        if not page or offset >= total:
            return


def _ended(run: Any) -> Ended:
    finished = datetime.fromisoformat(run["finished_at"])
    try:
        status = DbtCloudJobRunStatusType(run["status"]).name.lower()
    except ValueError:
        status = f"status {run['status']}"
    at = finished if finished.tzinfo else finished.replace(tzinfo=UTC)
    return Ended(at, run["id"], status, run["job_definition_id"])


@contextmanager
def _said_plainly(url: str, account: int, job: int, token_env: str) -> Iterator[None]:
    where = f"dbt Cloud at {url}"
    with _listening() as heard:
        try:
            yield
            return
        except dg.Failure:
            pass
        except (requests.RequestException, ValueError, LookupError, TypeError, AttributeError):
            raise DbtCloudUnreachable(
                f"{where} answered something else than its API does. Is the url of dbt_cloud the account's access URL?"
            ) from None
    error = heard[-1] if heard else None
    status = error.response.status_code if error is not None and error.response is not None else None
    match status:
        case 401 | 403:
            text = f"refuses the token of {token_env} ({status}): it must be valid, and may read the runs of the job."
            raise DbtCloudRefused(f"{where} {text}")
        case 404:
            text = f"knows no job {job} in the account {account}, or the token of {token_env} may not see it (404)."
            raise DbtCloudRefused(f"{where} {text}")
        case int() if status < 500 and status not in (408, 429):
            raise DbtCloudRefused(f"{where} refuses to tell about the job {job} ({status}).")
        case int():
            raise DbtCloudUnreachable(f"{where} answered an error ({status}).")
        case None:
            late = isinstance(error, requests.Timeout)
            raise DbtCloudUnreachable(
                f"{where} did not answer within {_TIMEOUT_S} s." if late else f"{where} cannot be reached."
            )


class _Errors(logging.Handler):
    def __init__(self, heard: list[requests.RequestException]) -> None:
        super().__init__(logging.ERROR)
        self._heard, self._thread = heard, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        # Ticks of other sensors run in threads of their own.
        error = sys.exc_info()[1]
        if record.thread == self._thread and isinstance(error, requests.RequestException):
            self._heard.append(error)


@contextmanager
def _listening() -> Iterator[list[requests.RequestException]]:
    """The errors that the client logs meanwhile, while they are handled."""
    heard: list[requests.RequestException] = []
    handler, log = _Errors(heard), dg.get_dagster_logger()
    log.addHandler(handler)
    try:
        yield heard
    finally:
        log.removeHandler(handler)


def _number(setting: int | FromEnvironment, what: str) -> int:
    if isinstance(setting, int):
        return setting
    text = read_setting(setting, f"runs_on: dbt_cloud: {what}")
    if not text.isdecimal():
        # Not its text: it may be a secret that was put under the wrong name.
        raise ConfigurationError(f"runs_on: dbt_cloud: {what} is a number, and {setting.env} holds something else.")
    return int(text)
