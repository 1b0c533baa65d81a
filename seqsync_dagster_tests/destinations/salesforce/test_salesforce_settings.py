"""Settings, and where a token may go."""

from __future__ import annotations

import subprocess
import sys

import pytest
import requests
from pydantic import ValidationError

from seqsync_dagster.destinations.protocol import CallCount
from seqsync_dagster.destinations.salesforce.destination import SalesforceDestination
from seqsync_dagster.destinations.salesforce.settings import LoginWay, SalesforceSettings, checked_url
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


WAYS: list[tuple[LoginWay, dict[str, str]]] = [
    ("client_credentials", {"client_id": "a", "client_secret": SECRET}),
    ("session_id", {"session_id": SECRET}),
    ("jwt_bearer", {"client_id": "a", "username": "u", "private_key": SECRET}),
    ("jwt_bearer", {"client_id": "a", "username": "u", "private_key_file": "key.pem", "audience": "https://b"}),
    ("password", {"username": "u", "password": SECRET}),
    ("password", {"username": "u", "password": SECRET, "security_token": SECRET}),
]


@pytest.mark.parametrize(("way", "given"), WAYS)
def test_the_way_to_log_in_is_known_by_what_is_given(way: LoginWay, given: dict[str, str]) -> None:
    assert SalesforceSettings.model_validate({"url": ORG, **given}).login == way


@pytest.mark.parametrize(
    "given",
    [
        "",
        "client_id",
        "client_secret",
        "client_id client_secret session_id",
        "client_id client_secret username",
        "client_id client_secret audience",
        "client_id username",
        "client_id private_key",
        "client_id username private_key private_key_file",
        "client_id username private_key client_secret",
        "client_id username private_key password",
        "username",
        "username security_token",
        "username password audience",
        "session_id security_token",
    ],
)
def test_anything_else_is_one_clear_message(given: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        SalesforceSettings.model_validate({"url": ORG, **dict.fromkeys(given.split(), SECRET)})
    (error,) = wrong.value.errors()
    assert "give exactly one way to log in: client_id and client_secret" in error["msg"]
    assert error["msg"].endswith(f"Given: {', '.join(sorted(given.split())) or 'none of them'}")
    assert SECRET not in str(wrong.value)


def test_soap_login_ends_with_version_65() -> None:
    given = {"url": ORG, "username": "u", "password": SECRET}
    assert SalesforceSettings.model_validate({**given, "api_version": "64.0"}).login == "password"
    with pytest.raises(
        ValidationError, match=r"does not have from API version 65\.0 on \(api_version is 66\.0\)"
    ) as wrong:
        SalesforceSettings.model_validate({**given, "api_version": "66.0"})
    assert SECRET not in str(wrong.value)


def test_shared_login_hosts_serve_keys_and_passwords_only() -> None:
    for way, given in WAYS:
        settings = {"url": "https://test.salesforce.com", **given}
        if way in ("jwt_bearer", "password"):
            assert SalesforceSettings.model_validate(settings).read_url() == "https://test.salesforce.com"
        else:
            with pytest.raises(ValidationError, match="no client credentials login and is no org"):
                SalesforceSettings.model_validate(settings)


@pytest.mark.parametrize("given", [given for _, given in WAYS])
def test_secrets_are_not_shown(given: dict[str, str]) -> None:
    settings = SalesforceSettings.model_validate({"url": ORG, **given})
    destination = SalesforceDestination(settings, "crm")
    with pytest.raises(ValidationError) as wrong:
        SalesforceSettings.model_validate({"url": ORG, **given, "typo": SECRET})
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


def test_once_a_login_told_where_the_org_is_only_logins_go_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    def request(self: requests.Session, method: str, url: str, **options: object) -> requests.Response:
        sent.append(url)
        reply = requests.Response()
        reply.status_code = 200
        return reply

    monkeypatch.setattr(requests.Session, "request", request)
    session = OrgSession("https://login.salesforce.com", 7.0, CallCount())
    session.move_to(ORG)
    session.request("GET", f"{ORG}/services/data/v64.0/query/")
    session.request("POST", "https://login.salesforce.com/services/oauth2/token")
    for elsewhere in ("https://login.salesforce.com/services/data/v64.0/query/", f"{ORG}/services/oauth2/token"):
        with pytest.raises(DestinationRefused, match="Nothing was sent there"):
            session.request("GET", elsewhere)
    assert len(sent) == 2


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
        ("POST", "/services/Soap/u/64.0", ("login", False)),
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
