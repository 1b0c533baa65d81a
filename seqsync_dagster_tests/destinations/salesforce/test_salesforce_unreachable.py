"""An org that cannot be reached: said soon, as what it is, and at the step where it happened."""

from __future__ import annotations

import datetime
import errno
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from urllib3.exceptions import MaxRetryError, NameResolutionError, NewConnectionError

from seqsync_dagster.destinations.salesforce.destination import SalesforceDestination
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings
from seqsync_dagster.destinations.salesforce.trouble import Trouble, trouble_of
from seqsync_dagster.errors import DestinationError, DestinationRefused, DestinationUnreachable
from seqsync_dagster_tests.destinations.salesforce.conftest import Connect
from seqsync_dagster_tests.emulator_process import EmulatorProcess


def at(url: str, **more: Any) -> SalesforceDestination:
    given = {"url": url, "client_id": "a", "client_secret": "s3cr3t", "retry_wait_s": 0.001, **more}
    return SalesforceDestination(SalesforceSettings.model_validate(given), "crm")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def test_a_dead_address_is_told_after_three_tries(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    destination = at(f"http://127.0.0.1:{port}")
    with pytest.raises(DestinationUnreachable) as dead:
        destination.account()
    assert str(dead.value).startswith(
        f"salesforce connection 'crm' at 127.0.0.1:{port}: login: no connection in 3 tries, "
        "the connection was refused, nothing listens there. Nothing was sent."
    )
    assert destination.calls.by_kind == {"login": 3}


def test_the_pauses_before_a_dead_address_is_given_up_are_a_few_seconds(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(DestinationUnreachable):
        at(f"http://127.0.0.1:{port}", retry_wait_s=1).account()
    assert 3 <= sum(pauses) <= 5


def test_an_org_that_answered_before_is_waited_for_longer(connect: Connect, emulator: EmulatorProcess) -> None:
    destination = connect(retry_wait_s=0)
    destination.account()
    emulator.kill()
    with pytest.raises(DestinationUnreachable, match=r"objects and fields .*: no answer after 5 tries, last the conn"):
        destination.describe("Account")


@pytest.fixture
def untrusted(listener: socket.socket, tmp_path: Path) -> str:
    """The address of a host with a certificate of its own making."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, today, today + datetime.timedelta(days=1))
    (tmp_path / "both.pem").write_bytes(
        made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    context.wrap_socket(connection, server_side=True)
                except OSError:
                    continue

    threading.Thread(target=serve, daemon=True).start()
    return f"https://127.0.0.1:{listener.getsockname()[1]}"


def test_a_certificate_that_is_not_trusted_is_final(untrusted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    destination = at(untrusted)
    with pytest.raises(DestinationRefused, match=r"login: no connection, its certificate is not trusted \(self.signed"):
        destination.account()
    assert destination.calls.total == 1


def test_a_name_of_no_host_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    destination = at("https://acmee.my.salesforce.com")
    with pytest.raises(
        DestinationRefused, match=r"login: no connection, there is no host of that name.*Check that url"
    ):
        destination.account()
    assert destination.calls.total == 1


def caused(number: int | None, kind: type[OSError] = OSError) -> requests.ConnectionError:
    """As requests raises it: the reason inside, with the address in its text."""
    cause = kind(number, "text") if number is not None else None
    reason: Exception = NewConnectionError(None, "https://acme?secret")  # type: ignore[arg-type]
    if kind is socket.gaierror:
        reason = NameResolutionError("acme", None, cause)  # type: ignore[arg-type]
    reason.__cause__ = cause
    return requests.ConnectionError(MaxRetryError(None, "/q=secret", reason))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (caused(errno.EHOSTUNREACH), Trouble("there is no way to that host", "unconnected", sent=False)),
        (caused(None), Trouble("the connection was not taken", "unconnected", sent=False)),
        (
            caused(socket.EAI_AGAIN, socket.gaierror),
            Trouble("the name of the host could not be looked up", "unconnected", sent=False),
        ),
        (
            requests.ConnectTimeout("secret"),
            Trouble("the connection was not taken in time", "unconnected", sent=False),
        ),
        (requests.ReadTimeout("secret"), Trouble("no reply in time", "silent", sent=True)),
        (requests.ConnectionError("secret"), Trouble("the connection was cut", "passing", sent=True)),
        (
            requests.exceptions.ChunkedEncodingError("secret"),
            Trouble("the reply broke off", "passing", sent=True),
        ),
        (
            requests.exceptions.ProxyError("secret"),
            Trouble("the proxy on the way did not serve the call", "passing", sent=True),
        ),
        (requests.exceptions.SSLError("secret"), Trouble("TLS could not be agreed on", "passing", sent=True)),
        (requests.exceptions.InvalidHeader("secret"), Trouble("InvalidHeader", "passing", sent=True)),
    ],
)
def test_trouble_is_told_in_words_and_quotes_nothing(error: requests.RequestException, expected: Trouble) -> None:
    assert trouble_of(error) == expected


def test_no_message_names_a_secret(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(DestinationError) as dead:
        at(f"http://127.0.0.1:{port}").account()
    assert "s3cr3t" not in f"{dead.value!r}"
