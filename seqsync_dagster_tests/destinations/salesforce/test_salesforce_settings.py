"""Settings, and where a token may go."""

from __future__ import annotations

import subprocess
import sys

import pytest
import requests
from pydantic import ValidationError

from seqsync_dagster.destinations.protocol import CallCount
from seqsync_dagster.destinations.salesforce.destination import SalesforceDestination
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings, checked_url
from seqsync_dagster.destinations.salesforce.transport import LOGIN_DOMAIN, OrgSession, kind_of
from seqsync_dagster.environment import FromEnvironment
from seqsync_dagster.errors import ConfigurationError, DestinationRefused

SECRET = "s3cr3t-never-shown"
ORG = "https://acme.my.salesforce.com"


def test_urls() -> None:
    assert checked_url(" https://acme.my.salesforce.com/lightning ") == ORG
    assert checked_url("http://127.0.0.1:8765/") == "http://127.0.0.1:8765"
    assert checked_url("http://localhost:1") == "http://localhost:1"
    assert checked_url("http://[::1]:1") == "http://[::1]:1"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://acme.my.salesforce.com", "in the clear. Use https://acme.my.salesforce.com"),
        ("http://127.0.0.1.evil.example", "in the clear"),
        ("acme.my.salesforce.com", "not a web address"),
        ("ftp://acme", "not a web address"),
        ("https://acme:99999", "not a web address"),
        ("https://user:pw@acme.my.salesforce.com", "carries a user"),
        ("https://login.salesforce.com", "no client credentials login"),
    ],
)
def test_refused_urls(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        checked_url(url)
    assert says in str(refused.value)
    assert "pw" not in str(refused.value)
    with pytest.raises(ValidationError):
        SalesforceSettings(url=url, session_id="x")


def test_one_way_to_log_in() -> None:
    with pytest.raises(ValidationError, match="client_id and client_secret"):
        SalesforceSettings(url=ORG, client_id="only")
    with pytest.raises(ValidationError, match="not both"):
        SalesforceSettings(url=ORG, client_id="a", client_secret="b", session_id="c")


def test_secrets_are_not_shown() -> None:
    settings = SalesforceSettings(url=ORG, client_id="id", client_secret=SECRET)
    destination = SalesforceDestination(settings, "crm")
    with pytest.raises(ValidationError) as wrong:
        SalesforceSettings.model_validate({"client_id": "a", "client_secret": SECRET, "typo": SECRET})
    shown = (repr(settings), str(settings), repr(destination), str(destination), str(wrong.value))
    assert SECRET not in "".join(shown)


def test_the_environment_is_read_when_connecting_only(monkeypatch: pytest.MonkeyPatch) -> None:
    url = FromEnvironment(env="SEQSYNC_TEST_SF_URL")
    destination = SalesforceDestination(SalesforceSettings(url=url, session_id=FromEnvironment(env="NOWHERE")), "crm")
    with pytest.raises(ConfigurationError, match="SEQSYNC_TEST_SF_URL"):
        destination.account()
    monkeypatch.setenv("SEQSYNC_TEST_SF_URL", "http://acme.example")
    with pytest.raises(ConfigurationError, match="in the clear"):
        destination.account()


def test_a_token_goes_to_its_own_org_only(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    def request(self: requests.Session, method: str, url: str, **options: object) -> requests.Response:
        sent.append(f"{method} {url} {options['allow_redirects']} {options['timeout']}")
        reply = requests.Response()
        reply.status_code = 200
        return reply

    monkeypatch.setattr(requests.Session, "request", request)
    calls = CallCount()
    session = OrgSession(ORG, 7.0, calls)
    session.request("GET", f"{ORG}/services/data/v64.0/query/")
    session.request("POST", f"https://{LOGIN_DOMAIN}.salesforce.com/services/oauth2/token")
    for elsewhere in ("https://evil.example/x", "http://acme.my.salesforce.com/x", f"{ORG}:8443/x"):
        with pytest.raises(DestinationRefused, match="Nothing was sent there"):
            session.request("GET", elsewhere)
    assert sent == [
        f"GET {ORG}/services/data/v64.0/query/ False (7.0, 7.0)",
        f"POST {ORG}/services/oauth2/token False (7.0, 7.0)",
    ]
    assert calls.by_kind == {"query": 1, "login": 1}


def test_loopback_is_reached_without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    session = OrgSession("http://127.0.0.1:9", 1.0, CallCount())
    assert not session.trust_env
    assert OrgSession(ORG, 1.0, CallCount()).trust_env
    with pytest.raises(requests.ConnectionError, match="port=9"):
        session.request("GET", "https://127.0.0.1/services/data/")


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/services/data/v64.0/jobs/ingest", ("bulk create", False)),
        ("PUT", "/services/data/v64.0/jobs/ingest/750/batches", ("bulk upload", True)),
        ("PATCH", "/services/data/v64.0/jobs/ingest/750", ("bulk state", False)),
        ("GET", "/services/data/v64.0/jobs/ingest/750", ("bulk poll", False)),
        ("GET", "/services/data/v64.0/jobs/ingest/750/unprocessedrecords", ("bulk results", False)),
        ("PATCH", "/services/data/v64.0/composite/sobjects/Account/Ext__c", ("collections", True)),
        ("GET", "/services/data/v64.0/query/", ("query", False)),
        ("GET", "/services/data/v64.0/sobjects/Account/describe", ("describe", False)),
        ("POST", "/services/oauth2/token", ("login", False)),
    ],
)
def test_calls_are_counted_by_what_they_do(method: str, path: str, kind: tuple[str, bool]) -> None:
    assert kind_of(method, path) == kind


def test_settings_load_without_heavy_libraries() -> None:
    script = (
        "import sys, seqsync_dagster.destinations.salesforce.settings;"
        "print([m for m in ('pandas', 'pyarrow', 'requests', 'simple_salesforce', 'dagster') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
