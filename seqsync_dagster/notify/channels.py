"""Where a letter goes: to a channel that apprise knows, or to a webhook. Nothing here is read before it is needed."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import TYPE_CHECKING

from pydantic import SecretStr

from seqsync_dagster.environment import FromEnvironment, read_setting
from seqsync_dagster.errors import ConfigurationError
from seqsync_dagster.notify.webhook import post
from seqsync_dagster.sequence.alerts import Alert, Condition, ConditionName, EventName, Webhook
from seqsync_dagster.sequence.strict import nearest

if TYPE_CHECKING:
    from seqsync_dagster.notify.notice import Letter

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]{0,24})://")
_STATUS = re.compile(r"error=(\d{3})\b")


class CannotTell(Exception):
    """A letter could not be delivered; the text says why, and quotes no address."""


@dataclass(frozen=True)
class Channel:
    """One place to tell things to, and what it wants to hear."""

    digest: str
    """Tells channels apart, and lets nobody read the address."""
    label: str
    """As people know it: the variable that holds its address, or what kind it is."""
    address: SecretStr | FromEnvironment = field(repr=False)
    webhook: Webhook | None = field(default=None, repr=False)
    conditions: dict[ConditionName, Condition] = field(default_factory=dict)
    recovered: bool = False
    events: tuple[EventName, ...] = ()
    runbook: str | None = None

    def send(self, letter: Letter) -> None:
        """Deliver it; takes at most some seconds unless the other side is a very odd one. Raises `CannotTell`."""
        try:
            address = _read(self.address, "alerts: " + ("webhook: url" if self.webhook else "to"))
            if self.webhook is None:
                _tell(address, letter)
            else:
                secret = read_setting(self.webhook.secret, "alerts: webhook: secret")
                if reason := post(address, secret, letter.event):
                    raise CannotTell(reason)
        except ConfigurationError as error:
            raise CannotTell(str(error)) from None


def channels(alerts: Iterable[Alert]) -> list[Channel]:
    """The channels of these alerts. What several say of one channel is put together, the first word counting."""
    found: dict[str, Channel] = {}
    for alert in alerts:
        made = _channel(alert)
        known = found.get(made.digest)
        found[made.digest] = made if known is None else _joined(known, made)
    return list(found.values())


def unknown_address(address: str, *, webhook: bool) -> str | None:
    """Why nothing can be told at this address, without a word of it; None when it can be."""
    scheme = _SCHEME.match(address)
    if webhook:
        return None if scheme and scheme[1].lower() in ("http", "https") else "a webhook's url is http:// or https://."
    if _quiet_apprise().Apprise().add(address):
        return None
    known = sorted({*_schemes()})
    if scheme is None:
        return "this is no URL that apprise knows; they look like slack://... or mailto://..., see appriseit.com."
    if scheme[1].lower() in known:
        return f"apprise knows {scheme[1]}://, but not what follows it; see appriseit.com for what it needs."
    return f"apprise knows no {scheme[1]}://.{nearest(scheme[1], known)} See appriseit.com for those it knows."


class _Quiet(logging.Filter):
    """Keeps to itself what apprise logs, which may quote an address, but for the number of an HTTP status."""

    def filter(self, record: logging.LogRecord) -> bool:
        if found := _STATUS.search(record.getMessage()):
            _heard.get([]).append(found[1])
        return False


#: Statuses of the message that is being sent. apprise sends in threads that see what their caller sees.
_heard: ContextVar[list[str]] = ContextVar("heard")
_quiet = _Quiet()


def _quiet_apprise() -> ModuleType:
    logger = logging.getLogger("apprise")
    logger.addFilter(_quiet)
    # Whoever configures logging may switch off what was there before, and the status with it.
    logger.disabled = False
    # Imported here: it takes a while, and most code locations that are loaded tell nobody anything.
    import apprise

    return apprise


def _schemes() -> Iterable[str]:
    for service in _quiet_apprise().Apprise().details()["schemas"]:
        yield from service.get("protocols") or ()
        yield from service.get("secure_protocols") or ()


def _tell(address: str, letter: Letter) -> None:
    if reason := unknown_address(address, webhook=False):
        raise CannotTell(reason)
    apprise = _quiet_apprise()
    there = apprise.Apprise(asset=apprise.AppriseAsset(app_id="seqsync", async_mode=False))
    there.add(address)
    mended = letter.event["type"] == "alert.recovered"
    kind = apprise.NotifyType.SUCCESS if mended else apprise.NotifyType.WARNING
    heard: list[str] = []
    _heard.set(heard)
    # As plain text: what rows and destinations say must not be taken for markup.
    if not there.notify(title=letter.title, body=letter.body, body_format=apprise.NotifyFormat.TEXT, notify_type=kind):
        raise CannotTell(
            f"it answered {heard[-1]}." if heard else "it does not answer, or refuses the address or the message."
        )


def _channel(alert: Alert) -> Channel:
    address = alert.webhook.url if alert.webhook is not None else alert.to
    assert address is not None, "an alert has one or the other"
    kind = "webhook" if alert.webhook is not None else "to"
    if isinstance(address, FromEnvironment):
        identity, label = f"{kind} env {address.env}", address.env
    else:
        scheme = _SCHEME.match(address.get_secret_value())
        identity = f"{kind} {address.get_secret_value()}"
        label = kind if alert.webhook is not None else f"{scheme[1] if scheme else '?'}://***"
    return Channel(
        digest=hashlib.sha256(identity.encode()).hexdigest()[:16],
        label=label,
        address=address,
        webhook=alert.webhook,
        conditions=alert.conditions,
        recovered=alert.recovered,
        events=alert.events,
        runbook=alert.runbook,
    )


def _joined(one: Channel, other: Channel) -> Channel:
    return replace(
        one,
        conditions={**other.conditions, **one.conditions},
        recovered=one.recovered or other.recovered,
        events=tuple(dict.fromkeys([*one.events, *other.events])),
        runbook=one.runbook or other.runbook,
    )


def _read(address: SecretStr | FromEnvironment, what: str) -> str:
    return address.get_secret_value() if isinstance(address, SecretStr) else read_setting(address, what)
