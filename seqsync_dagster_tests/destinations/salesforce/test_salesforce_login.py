"""Logging in with a key or a password, and going on when a token expires in the middle of things."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from seqsync_dagster.destinations.protocol import CallCount
from seqsync_dagster.destinations.salesforce import login
from seqsync_dagster.destinations.salesforce.destination import SalesforceDestination
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings
from seqsync_dagster.errors import ConfigurationError, DestinationRefused, DestinationUnreachable
from seqsync_dagster_tests.destinations.salesforce.conftest import Connect
from seqsync_dagster_tests.destinations.salesforce.sending import accounts, drain, upsert
from seqsync_dagster_tests.emulator_process import CLIENT_ID, EmulatorProcess

SECRET = "s3cr3t-never-shown"


def pem(key: RSAPrivateKey, passphrase: bytes | None = None) -> str:
    lock: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock).decode()


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


@pytest.fixture
def org(emulator: EmulatorProcess, key: RSAPrivateKey) -> EmulatorProcess:
    """An org whose app holds the key's public half."""
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    emulator.settings(jwt_certificate=public.decode())
    return emulator


@pytest.fixture
def username(org: EmulatorProcess) -> str:
    return str(org.login().get("/services/oauth2/userinfo").json()["preferred_username"])


def with_key(org: EmulatorProcess, username: str, **more: Any) -> SalesforceDestination:
    given = {"url": org.url, "client_id": CLIENT_ID, "username": username, "retry_wait_s": 0, **more}
    return SalesforceDestination(SalesforceSettings.model_validate(given), "crm")


def test_a_key_from_the_environment_or_a_file_logs_in(
    org: EmulatorProcess, key: RSAPrivateKey, username: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key.pem"
    file.write_text(pem(key))
    # Line ends spelled out, as secret stores and shells leave them.
    monkeypatch.setenv("SEQSYNC_TEST_KEY", pem(key).replace("\n", "\\n"))
    for given in ({"private_key": {"env": "SEQSYNC_TEST_KEY"}}, {"private_key_file": str(file)}):
        destination = with_key(org, username, **given)
        assert drain(destination.send(upsert(3), [accounts(3)])).acknowledged() == {0, 1, 2}
        assert destination.calls.by_kind["login"] == 1
        destination.close()


def test_calls_go_where_the_login_says_the_org_is(org: EmulatorProcess, key: RSAPrivateKey, username: str) -> None:
    elsewhere = org.url.replace("127.0.0.1", "localhost")
    destination = with_key(org, username, url=elsewhere, private_key=pem(key))
    assert destination.account().url == org.url
    assert destination.record_url("Account", "001A") == f"{org.url}/001A"
    org.expire_tokens()
    assert drain(destination.send(upsert(1), [accounts(1)])).acknowledged() == {0}
    destination.close()


@pytest.mark.parametrize("audience", ["https://login.salesforce.com/", "https://test.salesforce.com"])
def test_the_audience_may_be_another_host(
    org: EmulatorProcess, key: RSAPrivateKey, username: str, audience: str
) -> None:
    assert with_key(org, username, private_key=pem(key), audience=audience).account().sandbox


def test_what_the_org_refuses_is_told_with_what_to_do(org: EmulatorProcess, key: RSAPrivateKey, username: str) -> None:
    stranger = generate_private_key(65537, 2048)
    for wrong, says in (
        (
            {"private_key": pem(stranger)},
            r"invalid_grant: invalid assertion\)\. Check that the app holds the certificate",
        ),
        ({"client_id": "unknown"}, r"invalid_client_id: .* consumer key of an app of this org"),
        ({"username": "nobody@example.com"}, r"user hasn't approved this consumer\)\. Pre-authorise the user"),
        ({"audience": "https://acme.example"}, r"audience is invalid\)\. Set audience to https://login.salesforce.com"),
    ):
        with pytest.raises(DestinationRefused, match=says) as refused:
            with_key(org, **{"username": username, "private_key": pem(key), **wrong}).account()
        assert "PRIVATE KEY" not in str(refused.value) and "eyJ" not in str(refused.value)


def test_an_assertion_that_expired_tells_of_the_clock(
    org: EmulatorProcess, key: RSAPrivateKey, username: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "_ASSERTION_S", -60)
    with pytest.raises(DestinationRefused, match=r"expired authorization code\)\. Check this machine's clock"):
        with_key(org, username, private_key=pem(key)).account()


def test_a_key_that_is_none_is_a_mistake_in_the_settings(key: RSAPrivateKey, tmp_path: Path) -> None:
    org = SalesforceSettings(url="http://127.0.0.1:9", client_id="a", username="u", private_key=SECRET)
    for given in (SECRET, pem(key)[:-200], pem(key, SECRET.encode())):
        destination = SalesforceDestination(org.model_copy(update={"private_key": given}), "crm")
        with pytest.raises(ConfigurationError, match="private_key is not an RSA private key in PEM") as wrong:
            destination.account()
        assert SECRET not in str(wrong.value) and given[5:60] not in str(wrong.value)
    nowhere = org.model_copy(update={"private_key": None, "private_key_file": str(tmp_path / "no.pem")})
    with pytest.raises(ConfigurationError, match=r"private_key_file .*no\.pem cannot be read: No such file"):
        SalesforceDestination(nowhere, "crm").account()


@pytest.mark.parametrize("answered", ["https://evil.example", "http://acme.my.salesforce.com", "nonsense", ""])
def test_a_token_goes_to_no_place_that_is_not_salesforces(answered: str) -> None:
    with pytest.raises(DestinationRefused, match=r"not an address of Salesforce's\. Nothing was sent there"):
        login._org_at(answered, "salesforce", "https://login.salesforce.com")


def test_an_org_of_salesforces_is_believed() -> None:
    for url in ("https://login.salesforce.com", "https://acme.my.salesforce.com"):
        at = login._org_at(
            "https://acme-api--dev.sandbox.my.salesforce.com/services/Soap/u/64.0/00D", "salesforce", url
        )
        assert at == "https://acme-api--dev.sandbox.my.salesforce.com"
    own = "https://salesforce.example"
    assert login._org_at(own, "salesforce", own) == own


class ExpiringCalls(CallCount):
    """Counts calls, and lets every token expire before the first call of each kind."""

    def __init__(self, org: EmulatorProcess) -> None:
        super().__init__()
        self._org = org

    def add(self, kind: str, *, row_bearing: bool = False) -> None:
        if kind != "login" and kind not in self.by_kind:
            self._org.expire_tokens()
        super().add(kind, row_bearing=row_bearing)


def test_a_token_may_expire_before_any_step(org: EmulatorProcess, key: RSAPrivateKey, username: str) -> None:
    for bulk in (True, False):
        destination = with_key(org, username, private_key=pem(key), collections_up_to=0 if bulk else 2000)
        destination.calls = ExpiringCalls(org)
        destination.account()
        destination.describe("Account")
        assert drain(destination.send(upsert(300), [accounts(300)])).acknowledged() == set(range(300))
        assert len(org.records("Account")) == 300
        kinds = set(destination.calls.by_kind) - {"login"}
        bulk_kinds = {"bulk create", "bulk upload", "bulk state", "bulk poll", "bulk results"}
        assert kinds == {"query", "describe", *(bulk_kinds if bulk else {"collections"})}
        # The first token, and one more for every kind of call.
        assert destination.calls.by_kind["login"] == 1 + len(kinds)
        destination.close()


def test_a_query_goes_on_with_a_new_token_between_its_pages(connect: Connect, emulator: EmulatorProcess) -> None:
    emulator.seed("Account", [{"Name": f"A{n}", "External_Id__c": f"{n}"} for n in range(2500)])
    connection = connect()._connection
    records = connection.query("SELECT Id FROM Account", "a test")
    found = [next(records)]
    emulator.expire_tokens()
    found += records
    assert len({record["Id"] for record in found}) == 2500


def test_a_session_id_is_not_renewed(emulator: EmulatorProcess) -> None:
    token = emulator.login().token["access_token"]
    settings = SalesforceSettings(url=emulator.url, session_id=token)
    destination = SalesforceDestination(settings, "crm")
    assert destination.account().sandbox
    emulator.expire_tokens()
    with pytest.raises(
        DestinationRefused, match=r"session_id has expired or is not valid\. It cannot be renewed"
    ) as no:
        drain(destination.send(upsert(1), [accounts(1)]))
    assert token not in str(no.value)


class SoapOrg:
    """Answers SOAP logins as told, one after the other; anything else is the org's one record."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str]] = []
        self.asked: list[tuple[str, str]] = []
        org = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                org.asked.append((self.path, body))
                self.answer(*org.answers.pop(0), "text/xml")

            def do_GET(self) -> None:
                org.asked.append((self.path.partition("?")[0], self.headers["Authorization"]))
                record = '{"Id": "00D1", "Name": "Acme", "IsSandbox": true}'
                self.answer(200, f'{{"totalSize": 1, "done": true, "records": [{record}]}}', "application/json")

            def answer(self, status: int, text: str, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def lets_in(self) -> None:
        self.answers.append((200, _soap(
            f"<loginResponse><result><serverUrl>{self.url}/services/Soap/u/64.0/00D1</serverUrl>"
            f"<sessionId>the-session</sessionId></result></loginResponse>"
        )))  # fmt: skip

    def refuses(self, code: str, message: str) -> None:
        self.answers.append((500, _soap(
            f"<soapenv:Fault><detail><sf:LoginFault><sf:exceptionCode>{code}</sf:exceptionCode>"
            f"<sf:exceptionMessage>{message}</sf:exceptionMessage></sf:LoginFault></detail></soapenv:Fault>"
        )))  # fmt: skip

    def connect(self) -> SalesforceDestination:
        given = {"username": "a&b@acme.com", "password": f"<{SECRET}>", "security_token": "T0ken"}
        settings = {"url": self.url, "retry_wait_s": 0, **given}
        return SalesforceDestination(SalesforceSettings.model_validate(settings), "crm")


def _soap(body: str) -> str:
    return (
        '<?xml version="1.0"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
        f'xmlns="urn:partner.soap.sforce.com" xmlns:sf="urn:fault.partner.soap.sforce.com">'
        f"<soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>"
    )


@pytest.fixture
def soap_org() -> Iterator[SoapOrg]:
    org = SoapOrg()
    yield org
    org.server.shutdown()
    org.server.server_close()


def test_a_password_logs_in_by_soap_with_a_warning(soap_org: SoapOrg, caplog: pytest.LogCaptureFixture) -> None:
    soap_org.refuses("SERVER_UNAVAILABLE", "try again")
    soap_org.lets_in()
    with caplog.at_level(logging.WARNING):
        assert soap_org.connect().account().name == "Acme"
    *_, (login_path, envelope), (query_path, authorization) = soap_org.asked
    assert login_path == "/services/Soap/u/64.0" and query_path == "/services/data/v64.0/query/"
    assert authorization == "Bearer the-session"
    assert "a&amp;b@acme.com" in envelope and f"&lt;{SECRET}&gt;T0ken" in envelope
    assert "Salesforce retires with Summer '27" in caplog.text
    assert SECRET not in caplog.text and "T0ken" not in caplog.text


def test_a_wrong_password_is_tried_once_and_not_quoted(soap_org: SoapOrg) -> None:
    soap_org.refuses(
        "INVALID_LOGIN", f"Invalid username, password &lt;{SECRET}&gt;, security token; or user locked out."
    )
    with pytest.raises(
        DestinationRefused, match=r"INVALID_LOGIN: Invalid username.*Check username, password"
    ) as refused:
        soap_org.connect().account()
    assert SECRET not in str(refused.value)
    assert len(soap_org.asked) == 1


def test_a_soap_answer_of_something_else_is_told(soap_org: SoapOrg) -> None:
    soap_org.answers += [(200, "<html>hello</html>"), (404, "no")]
    for _ in range(2):
        with pytest.raises(DestinationRefused, match=r"an answer .*that Salesforce does not give"):
            soap_org.connect().account()
    soap_org.answers += [(500, "<html>")] * 5
    with pytest.raises(DestinationUnreachable, match="login: no answer after 5 tries, last HTTP 500"):
        soap_org.connect().account()


def test_every_login_has_a_time_limit(monkeypatch: pytest.MonkeyPatch, key: RSAPrivateKey, soap_org: SoapOrg) -> None:
    """A host that takes the connection and never answers ends the wait, whatever way is used."""
    hold = threading.Event()
    monkeypatch.setattr(soap_org.server.RequestHandlerClass, "do_POST", lambda _: hold.wait(20))
    ways: list[dict[str, str]] = [
        {"client_id": "a", "client_secret": "b"},
        {"client_id": "a", "username": "u", "private_key": pem(key)},
        {"username": "u", "password": "p"},
    ]
    try:
        for way in ways:
            settings = {"url": soap_org.url, "retry_wait_s": 0, "timeout_s": 0.02, **way}
            with pytest.raises(DestinationUnreachable, match="login: no answer after 2 tries, last no reply in time"):
                SalesforceDestination(SalesforceSettings.model_validate(settings), "crm").account()
    finally:
        hold.set()
