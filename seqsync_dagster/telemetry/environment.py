"""What the standard environment variables of OpenTelemetry ask for. Imports nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

Signal = Literal["traces", "metrics", "logs"]

SIGNALS: tuple[Signal, ...] = ("traces", "metrics", "logs")

#: Longest wait for a collector, in seconds: with one request, and at the end of a step in all.
PATIENCE_S = 3.0


@dataclass(frozen=True)
class Wanted:
    """What is to be sent, and what cannot be although it was asked for."""

    signals: frozenset[Signal]
    remarks: tuple[str, ...] = ()
    """For a person: variables whose values cannot be followed."""


def wanted(environ: Mapping[str, str]) -> Wanted:
    """Which signals the environment asks for. None, unless it names an endpoint."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Wanted(frozenset())
    asked = [s for s in SIGNALS if _endpoint(environ, s) and _exported(environ, s)]
    remarks: dict[str, None] = {}
    signals: list[Signal] = []
    for signal in asked:
        name, protocol = _of(environ, signal, "PROTOCOL")
        if protocol.strip().lower() in ("", "http/protobuf"):
            signals.append(signal)
        else:
            remarks[f"{name} is {protocol!r}, and only http/protobuf is spoken here (port 4318 of most collectors)"] = (
                None
            )
    return Wanted(frozenset(signals), tuple(remarks))


def address(environ: Mapping[str, str], signal: Signal) -> str:
    """Host and port that a signal goes to, without anything that may be a secret."""
    name, endpoint = _of(environ, signal, "ENDPOINT")
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        return f"the address in {name}"
    return f"{host}:{port}" if port else host


def timeout(environ: Mapping[str, str], signal: Signal) -> float:
    """Seconds that one request may take: as asked for, but never longer than `PATIENCE_S`."""
    try:
        asked = float(_of(environ, signal, "TIMEOUT")[1])
    except ValueError:
        return PATIENCE_S
    return min(asked, PATIENCE_S) if asked > 0 else PATIENCE_S


def brings_own_session(environ: Mapping[str, str], signal: Signal) -> bool:
    """Whether a credential provider of the user's makes the requests."""
    own = f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{signal.upper()}_CREDENTIAL_PROVIDER"
    return bool(environ.get(own) or environ.get("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER"))


def prefers_temporality(environ: Mapping[str, str]) -> bool:
    """Whether the environment says if counts are sent as differences or as running totals."""
    return bool(environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "").strip())


def _exported(environ: Mapping[str, str], signal: Signal) -> bool:
    named = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip().lower()
    return not named or "otlp" in [part.strip() for part in named.split(",")]


def _endpoint(environ: Mapping[str, str], signal: Signal) -> str:
    return _of(environ, signal, "ENDPOINT")[1].strip()


def _of(environ: Mapping[str, str], signal: Signal, what: str) -> tuple[str, str]:
    """A setting of one signal, or else of all: the variable's name, and its value."""
    own, shared = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}", f"OTEL_EXPORTER_OTLP_{what}"
    return (own, environ[own]) if environ.get(own) else (shared, environ.get(shared, ""))
