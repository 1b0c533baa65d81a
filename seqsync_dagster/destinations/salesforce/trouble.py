"""What kept a call from being answered, in words for people, and what another try may hope for."""

from __future__ import annotations

import errno
import socket
import ssl
from dataclasses import dataclass
from typing import Literal

import requests
from urllib3.exceptions import NewConnectionError

#: How another try stands.
#:   passing      it may be answered
#:   silent       the connection was taken, and no word came
#:   unconnected  nothing took the connection, and nothing was sent: a proxy that restarts, or an address of nobody's
#:   final        the same will happen again: no host of that name, a certificate that is not trusted
Hope = Literal["passing", "silent", "unconnected", "final"]

_CONNECTING = {
    errno.ECONNREFUSED: "the connection was refused, nothing listens there",
    errno.EHOSTUNREACH: "there is no way to that host",
    errno.ENETUNREACH: "there is no way to that host",
}


@dataclass(frozen=True)
class Trouble:
    """One call that was not answered."""

    words: str
    hope: Hope
    sent: bool
    """The call may have reached the org, and been carried out."""


def trouble_of(error: requests.RequestException) -> Trouble:
    """What `error` means. Its own text is never quoted: it holds the address, and with it the values of a query."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return Trouble("the connection was not taken in time", "unconnected", sent=False)
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    if isinstance(error, requests.exceptions.SSLError):
        return _of_tls(reason)
    if isinstance(reason, NewConnectionError):
        return _of_connecting(reason)
    if isinstance(error, requests.exceptions.Timeout):
        return Trouble("no reply in time", "silent", sent=True)
    return Trouble(_words(error), "passing", sent=True)


def _of_connecting(reason: NewConnectionError) -> Trouble:
    cause = reason.__cause__ or reason.__context__
    if isinstance(cause, socket.gaierror):
        if cause.errno == socket.EAI_AGAIN:
            return Trouble("the name of the host could not be looked up", "unconnected", sent=False)
        return Trouble("there is no host of that name", "final", sent=False)
    number = cause.errno if isinstance(cause, OSError) else None
    return Trouble(_CONNECTING.get(number or 0, "the connection was not taken"), "unconnected", sent=False)


def _of_tls(reason: object) -> Trouble:
    cause = reason.args[0] if isinstance(reason, Exception) and reason.args else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        # A proxy that looks into TLS shows a certificate of its own.
        return Trouble(f"its certificate is not trusted ({cause.verify_message})", "final", sent=False)
    return Trouble("TLS could not be agreed on", "passing", sent=True)


def _words(error: requests.RequestException) -> str:
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the reply broke off"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy on the way did not serve the call"
    if isinstance(error, requests.ConnectionError):
        return "the connection was cut"
    return type(error).__name__
