"""The HTTP session under simple-salesforce and under our own calls."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests

from seqsync_dagster.destinations.protocol import CallCount
from seqsync_dagster.destinations.salesforce.budget import Budget
from seqsync_dagster.destinations.salesforce.errors import TRANSIENT_STATUSES
from seqsync_dagster.destinations.salesforce.settings import is_loopback
from seqsync_dagster.errors import DestinationRefused

#: simple-salesforce builds its login address as ``https://{domain}.salesforce.com``. With this
#: domain the session can send it to the org's own host, whatever that is called.
LOGIN_DOMAIN = "seqsync-login"
_LOGIN_HOST = f"{LOGIN_DOMAIN}.salesforce.com"

#: A host that is there takes a connection in milliseconds, after a lost packet in 1, 3 or 7 s.
_CONNECT_S = 10.0
#: A login does no work on rows, whatever `timeout_s` leaves room for.
_LOGIN_S = 30.0

_JOB_KINDS = {"POST": "bulk create", "PUT": "bulk upload", "PATCH": "bulk state", "GET": "bulk poll"}


def kind_of(method: str, path: str) -> tuple[str, bool]:
    """What a call is counted as, and whether it carries rows to be written."""
    if "/jobs/ingest" in path:
        if path.rstrip("/").lower().endswith(("results", "records")):
            return "bulk results", False
        return _JOB_KINDS.get(method, "bulk"), method == "PUT"
    if "/composite/sobjects" in path:
        return "collections", True
    if "/query" in path:
        return "query", False
    if "/sobjects" in path:
        return "describe", False
    return ("login" if _is_login(path) else "other"), False


def _is_login(path: str) -> bool:
    return path.startswith(("/services/oauth2/", "/services/Soap/"))


class TransientReplyError(Exception):
    """The org, or a gateway before it, answered that it cannot answer now."""

    def __init__(self, status: int, content: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.content = content


class ForeignReplyError(Exception):
    """A page for people: somebody on the way answered in the org's place."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    # Without an auth of its own, requests lets ~/.netrc replace the Authorization header.
    return request


class OrgSession(requests.Session):
    """Talks to one org only: with time limits, counted, never handing the token to another host.

    Logins go to `url` always, and so does everything else until `move_to` tells where the org is.
    """

    def __init__(self, url: str, timeout_s: float, calls: CallCount, budget: Budget | None = None) -> None:
        super().__init__()
        self._budget = budget or Budget(None, calls)
        self._login = self._org = urlsplit(url)
        self.answered = False
        """Whether somebody at one of the addresses has answered anything yet."""
        self._timeout = (min(timeout_s, _CONNECT_S), timeout_s)
        self._calls = calls
        self.auth = _no_netrc
        if is_loopback(url):
            # A proxy for the outside world cannot reach this machine's own ports.
            self.trust_env = False
            self.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True

    def move_to(self, url: str) -> None:
        """Take `url` for the org from now on: a login said that it lives there."""
        self._org = urlsplit(url)

    # The base class spells out some twenty optional arguments; all pass through.
    def request(self, method: str | bytes, url: str | bytes, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send one call after checking where it goes."""
        verb = method.decode() if isinstance(method, bytes) else method
        parts = urlsplit(url.decode() if isinstance(url, bytes) else url)
        origin = self._login if _is_login(parts.path) else self._org
        if parts.netloc == _LOGIN_HOST or is_loopback(origin.geturl()):
            # simple-salesforce forces https and forgets where a loopback org listens.
            parts = parts._replace(scheme=origin.scheme, netloc=origin.netloc)
        if (parts.scheme, parts.netloc) != (origin.scheme, origin.netloc):
            raise DestinationRefused(
                f"salesforce: a call would have gone to {parts.netloc}, which is not the org at "
                f"{origin.netloc}. Nothing was sent there. Set url to the org's own My Domain."
            )
        kind, row_bearing = kind_of(verb, parts.path)
        self._calls.add(kind, row_bearing=row_bearing)
        if kind != "login":
            self._budget.made()
        if options.get("timeout") is None:
            options["timeout"] = self._timeout
            if kind == "login":
                options["timeout"] = (self._timeout[0], min(self._timeout[1], _LOGIN_S))
        # A redirect would carry rows or a token to a place nobody configured.
        options["allow_redirects"] = False
        reply = super().request(verb, urlunsplit(parts), **options)
        self.answered = True
        self._budget.heard(reply.headers.get("Sforce-Limit-Info"))
        if reply.status_code in TRANSIENT_STATUSES:
            # simple-salesforce takes such bodies, HTML among them, for the JSON it expected.
            raise TransientReplyError(reply.status_code, reply.content)
        if reply.ok and reply.headers.get("Content-Type", "").startswith("text/html"):
            # The APIs answer in JSON, XML or CSV; taken for one of them, a page fails in some odd place.
            raise ForeignReplyError(reply.status_code)
        return reply


def bearer(token: str) -> Mapping[str, str]:
    """The header that says who calls."""
    return {"Authorization": f"Bearer {token}"}
