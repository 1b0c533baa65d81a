"""Logging in to one org, in the one way that its settings give.

| way | call | rules |
|---|---|---|
| client credentials | POST /services/oauth2/token | help.salesforce.com, "OAuth 2.0 Client Credentials Flow" |
| JWT bearer | POST /services/oauth2/token | help.salesforce.com, "OAuth 2.0 JWT Bearer Flow" |
| password | POST /services/Soap/u/XX.X | SOAP API developer guide, "login()"; not from version 65.0 on |
| session_id | none | the token is used as it is |
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import requests
import simplejson

from seqsync_dagster.destinations.salesforce.errors import reply_error
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings, checked_url, is_loopback
from seqsync_dagster.destinations.salesforce.transport import LOGIN_DOMAIN, OrgSession, TransientReplyError
from seqsync_dagster.environment import read_setting
from seqsync_dagster.errors import ConfigurationError, DestinationRefused

if TYPE_CHECKING:
    from simple_salesforce.api import Salesforce

_log = logging.getLogger(__name__)

#: Seconds an assertion is good for. Salesforce takes up to 3 minutes, by its own clock.
_ASSERTION_S = 120
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"

#: Where orgs live: whatever a login answers, a token goes nowhere else.
_ORG_DOMAINS = (".salesforce.com", ".force.com", ".cloudforce.com", ".salesforce.mil", ".sfcrmproducts.cn")

#: What the token endpoint says of a JWT (a part of its description or code), and what to do about it.
_JWT_ADVICE = {
    "audience": "Set audience to https://login.salesforce.com (a sandbox: https://test.salesforce.com), "
    "or url to the org's My Domain",
    "app_not_found": "Set url to the org's My Domain, take audience out, and check client_id",
    "approved": "Pre-authorise the user: set the app's Permitted Users to 'Admin approved users are pre-authorized' "
    "and give username one of its profiles or permission sets",
    "client": "Check that client_id is the consumer key of an app of this org",
    "assertion": "Check that the app holds the certificate that belongs to the private key",
    "expired": "Check this machine's clock",
    "user": "Check username, and that the user is active in this org",
}

#: SOAP faults that another try may not meet.
_TRANSIENT_FAULTS = ("SERVER_UNAVAILABLE", "UNKNOWN_EXCEPTION")

_ENVELOPE = """<?xml version="1.0" encoding="utf-8"?>
<env:Envelope xmlns:env="http://schemas.xmlsoap.org/soap/envelope/" xmlns:p="urn:partner.soap.sforce.com">
<env:Body><p:login><p:username>{username}</p:username><p:password>{password}</p:password></p:login></env:Body>
</env:Envelope>"""


def log_in(settings: SalesforceSettings, session: OrgSession, called: str, url: str) -> tuple[Salesforce, str]:
    """A client with a fresh token, or with the configured one, and where its org is.

    `url` is where to log in, `called` opens the message of an error. Raises
    `DestinationRefused` for wrong credentials and `ConfigurationError` for a
    key that is none; transport trouble passes through. No message quotes a secret.
    """
    from simple_salesforce.api import Salesforce  # takes a quarter second, spent only when sending

    org = url
    if settings.login == "session_id":
        token = _read(settings, "session_id")
    elif settings.login == "client_credentials":
        token = _client_credentials(settings, session, called, url)
    elif settings.login == "jwt_bearer":
        token, org = _jwt_bearer(settings, session, called, url)
    else:
        token, org = _password(settings, session, called, url)
    client = Salesforce(session_id=token, instance_url=org, session=session, version=settings.api_version)
    return client, org


def _read(settings: SalesforceSettings, name: str) -> str:
    setting = getattr(settings, name)
    return "" if setting is None else read_setting(setting, f"salesforce: {name}")


def _client_credentials(settings: SalesforceSettings, session: OrgSession, called: str, url: str) -> str:
    from simple_salesforce.exceptions import SalesforceAuthenticationFailed
    from simple_salesforce.login import SalesforceLogin

    key, secret = _read(settings, "client_id"), _read(settings, "client_secret")
    try:
        token, _ = SalesforceLogin(consumer_key=key, consumer_secret=secret, domain=LOGIN_DOMAIN, session=session)
    except (requests.exceptions.JSONDecodeError, AttributeError, KeyError, TypeError):
        raise not_an_org(called, url) from None
    except SalesforceAuthenticationFailed as refusal:
        words = f"{refusal.code}: {refusal.auth_message}".replace(secret, "***")
        raise DestinationRefused(
            f"{called}: refused ({words}). Check client_id and client_secret, that the app has the client "
            "credentials flow enabled, and that it names a run-as user "
            "(Setup > App Manager > the app > Manage > Client Credentials Flow)."
        ) from None
    return str(token)


def _jwt_bearer(settings: SalesforceSettings, session: OrgSession, called: str, url: str) -> tuple[str, str]:
    claims = {
        "iss": _read(settings, "client_id"),
        "sub": _read(settings, "username"),
        "aud": _read(settings, "audience").rstrip("/") or url,
        "exp": int(time.time()) + _ASSERTION_S,
    }
    assertion = _signed(claims, settings)
    form = {"grant_type": _JWT_BEARER, "assertion": assertion}
    reply = session.post(f"{url}/services/oauth2/token", data=form)
    if reply.status_code != 200:
        error = reply_error(reply.content)
        if error is None:
            raise not_an_org(called, url, reply.status_code)
        words = ": ".join(error).replace(assertion, "***")
        fallback = "Check client_id, username, the private key and the app's policies"
        advice = next((text for part, text in _JWT_ADVICE.items() if part in words), fallback)
        raise DestinationRefused(f"{called}: refused ({words}). {advice} (Setup > App Manager).")
    try:
        said = simplejson.loads(reply.content)
        return str(said["access_token"]), _org_at(str(said["instance_url"]), called, url)
    except (ValueError, KeyError, TypeError):
        raise not_an_org(called, url) from None


def _signed(claims: dict[str, object], settings: SalesforceSettings) -> str:
    import jwt
    from cryptography.exceptions import UnsupportedAlgorithm

    where = "private_key"
    if settings.private_key is not None:
        # A variable that came through a shell or a secret store often has its line ends spelled out.
        key = _read(settings, where).replace("\\n", "\n")
    else:
        where = "private_key_file"
        path = Path(_read(settings, where)).expanduser()
        try:
            key = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigurationError(
                f"salesforce: private_key_file {path} cannot be read: {reason}. "
                "Give the path of a PEM file that the user running Dagster may read."
            ) from None
    try:
        return jwt.encode(claims, key, algorithm="RS256")
    except (ValueError, TypeError, jwt.PyJWTError, UnsupportedAlgorithm):
        # The reason may quote the key.
        raise ConfigurationError(
            f"salesforce: {where} is not an RSA private key in PEM without a passphrase. It begins with "
            "-----BEGIN PRIVATE KEY----- or -----BEGIN RSA PRIVATE KEY-----; "
            "openssl rsa -in KEY -out PLAIN takes a passphrase off."
        ) from None


def _password(settings: SalesforceSettings, session: OrgSession, called: str, url: str) -> tuple[str, str]:
    _log.warning(
        "%s: username and password log in by SOAP, which Salesforce retires with Summer '27. "
        "Move to client_id with client_secret (client credentials) or with private_key (JWT bearer).",
        called,
    )
    password, token = _read(settings, "password"), _read(settings, "security_token")
    envelope = _ENVELOPE.format(username=escape(_read(settings, "username")), password=escape(password) + escape(token))
    address = f"{url}/services/Soap/u/{settings.api_version}"
    headers = {"Content-Type": "text/xml; charset=UTF-8", "SOAPAction": "login"}
    status, content = 500, b""
    try:
        reply = session.post(address, data=envelope.encode(), headers=headers)
        status, content = reply.status_code, reply.content
        said = _texts(content)
    except TransientReplyError as fault:
        # SOAP says everything with HTTP 500, a wrong password too.
        said = _texts(fault.content)
        if fault.status != 500 or said.get("exceptionCode", _TRANSIENT_FAULTS[0]) in _TRANSIENT_FAULTS:
            raise
    if "exceptionCode" in said:
        words = f"{said['exceptionCode']}: {said.get('exceptionMessage', '')}"
        for secret in filter(None, (password, token)):
            words = words.replace(secret, "***")
        raise DestinationRefused(
            f"{called}: refused ({words}). Check username, password and security_token (a changed password has a "
            "new one), and that url is https://test.salesforce.com or My Domain for a sandbox."
        )
    if "sessionId" not in said or "serverUrl" not in said:
        raise not_an_org(called, url, status)
    return said["sessionId"], _org_at(said["serverUrl"], called, url)


def _texts(content: bytes) -> dict[str, str]:
    """The texts of an XML document's elements by their names without namespace, none when it is no XML."""
    try:
        elements = ElementTree.fromstring(content).iter()
    except ElementTree.ParseError:
        return {}
    return {element.tag.rpartition("}")[2]: element.text for element in elements if element.text}


def _org_at(answered: str, called: str, url: str) -> str:
    """Scheme and host of the org that a login answered with.

    Raises `DestinationRefused` when it is a place that a token has no business in.
    """
    try:
        org = checked_url(answered)
    except ConfigurationError:
        org = ""
    host = urlsplit(org).hostname or ""
    both_here = is_loopback(url) and is_loopback(org)
    if org and (org == url or both_here or (host.endswith(_ORG_DOMAINS) and not is_loopback(url))):
        return org
    raise DestinationRefused(
        f"{called}: the login answered that the org is at {org or 'no usable address'}, which is not an address of "
        "Salesforce's. Nothing was sent there. If it is right, set url to it."
    )


def not_an_org(called: str, url: str, status: int | None = None) -> DestinationRefused:
    """The error for an answer that Salesforce does not give."""
    answer = "an answer" if status is None else f"an answer (HTTP {status})"
    return DestinationRefused(
        f"{called}: {answer} that Salesforce does not give. Check that url {url} is the org's My Domain "
        "(Setup > My Domain) and that no proxy stands in between."
    )
