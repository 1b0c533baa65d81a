"""Logging in to one org with simple-salesforce."""

from __future__ import annotations

from typing import TYPE_CHECKING

import requests

from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings
from seqsync_dagster.destinations.salesforce.transport import LOGIN_DOMAIN, OrgSession
from seqsync_dagster.environment import read_setting
from seqsync_dagster.errors import DestinationRefused

if TYPE_CHECKING:
    from simple_salesforce.api import Salesforce


def log_in(settings: SalesforceSettings, session: OrgSession, called: str, url: str) -> Salesforce:
    """A client with a fresh token, or with the configured one.

    Raises `DestinationRefused` for wrong credentials; transport trouble passes through.
    `called` opens the message of an error.
    """
    from simple_salesforce.api import Salesforce  # takes a quarter second, spent only when sending

    if settings.session_id is not None:
        token = read_setting(settings.session_id, "salesforce: session_id")
    else:
        token = _client_credentials(settings, session, called, url)
    return Salesforce(session_id=token, instance_url=url, session=session, version=settings.api_version)


def _client_credentials(settings: SalesforceSettings, session: OrgSession, called: str, url: str) -> str:
    from simple_salesforce.exceptions import SalesforceAuthenticationFailed
    from simple_salesforce.login import SalesforceLogin

    assert settings.client_id is not None and settings.client_secret is not None
    key = read_setting(settings.client_id, "salesforce: client_id")
    secret = read_setting(settings.client_secret, "salesforce: client_secret")
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


def not_an_org(called: str, url: str, status: int | None = None) -> DestinationRefused:
    """The error for an answer that Salesforce does not give."""
    answer = "an answer" if status is None else f"an answer (HTTP {status})"
    return DestinationRefused(
        f"{called}: {answer} that Salesforce does not give. Check that url {url} is the org's My Domain "
        "(Setup > My Domain) and that no proxy stands in between."
    )
