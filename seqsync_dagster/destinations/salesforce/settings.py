"""How to reach one Salesforce org, as written in YAML. Values are read only when connecting."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from seqsync_dagster.environment import Setting, read_setting
from seqsync_dagster.errors import ConfigurationError

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class SalesforceSettings(BaseModel):
    """Connection to a Salesforce org, and when to use which of its APIs."""

    # A validation error would otherwise quote its input, secrets included.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: Annotated[
        Setting,
        Field(
            description="The org's My Domain URL, e.g. https://acme.my.salesforce.com "
            "(Setup > My Domain). Plain http is accepted for this machine only, e.g. http://127.0.0.1:8765."
        ),
    ]
    client_id: Annotated[
        Setting | None,
        Field(description="Consumer key of an app that has the OAuth client credentials flow enabled."),
    ] = None
    client_secret: Annotated[
        Setting | None,
        Field(description="Consumer secret of that app. Use {env: NAME}.", repr=False),
    ] = None
    session_id: Annotated[
        Setting | None,
        Field(
            description="An access token used as it is, instead of client_id and client_secret. "
            "It is never renewed. Use {env: NAME}.",
            repr=False,
        ),
    ] = None
    api_version: Annotated[str, Field(description="Salesforce API version, e.g. 64.0.", pattern=r"^\d{2,3}\.0$")] = (
        "64.0"
    )
    collections_up_to: Annotated[
        int,
        Field(
            description="Rows of one operation up to which sObject Collections are used (200 rows a call); "
            "more go through Bulk API 2.0. Inserts always use Collections.",
            ge=0,
        ),
    ] = 2000
    timeout_s: Annotated[float, Field(description="Seconds one call may stay silent.", gt=0)] = 120
    retry_wait_s: Annotated[
        float,
        Field(description="First wait before a transient failure is tried again; it doubles.", ge=0),
    ] = 1.0
    bulk_wait_s: Annotated[
        float,
        Field(description="Seconds to wait for a Bulk job; the next run takes up one that lasts longer.", gt=0),
    ] = 3600
    bulk_part_rows: Annotated[int, Field(description="Rows of one Bulk job, at most.", ge=1)] = 100_000
    bulk_part_mb: Annotated[
        int,
        Field(
            description="Megabytes of CSV of one Bulk job, at most. Salesforce takes 150 MB after "
            "base64, which is 100 MB of CSV.",
            ge=1,
            le=100,
        ),
    ] = 90

    @model_validator(mode="after")
    def _says_how_to_log_in(self) -> Self:
        if isinstance(self.url, str):
            try:
                checked_url(self.url)
            except ConfigurationError as error:
                raise ValueError(str(error)) from None
        if self.session_id is not None:
            if self.client_id is not None or self.client_secret is not None:
                raise ValueError("give client_id and client_secret, or session_id, not both")
        elif self.client_id is None or self.client_secret is None:
            raise ValueError("give client_id and client_secret (OAuth client credentials), or session_id")
        return self

    def read_url(self) -> str:
        """The org's URL now: scheme and host, no path."""
        return checked_url(read_setting(self.url, "salesforce: url"))


def checked_url(url: str) -> str:
    """`url` cut to scheme and host.

    Raises `ConfigurationError` when it cannot be an org's address, or when a
    token would cross the network in the clear.
    """
    text = url.strip()
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or parts.scheme not in ("http", "https"):
        raise ConfigurationError(
            "salesforce: url is not a web address. Give the My Domain URL of the org, "
            "e.g. https://acme.my.salesforce.com"
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("salesforce: url carries a user or password. Use client_id and client_secret.")
    if parts.scheme == "http" and not is_loopback(text):
        raise ConfigurationError(
            f"salesforce: url http://{host} would send the access token in the clear. "
            f"Use https://{host}; plain http is accepted for 127.0.0.1 and localhost only."
        )
    if host in ("login.salesforce.com", "test.salesforce.com"):
        raise ConfigurationError(
            f"salesforce: url {host} has no client credentials login. Give the My Domain URL of the org, "
            "e.g. https://acme.my.salesforce.com (Setup > My Domain)."
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else "")


def is_loopback(url: str) -> bool:
    """Whether `url` never leaves this machine."""
    return urlsplit(url).hostname in _LOOPBACK
