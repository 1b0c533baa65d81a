"""How to reach one Salesforce org, as written in YAML. Values are read only when connecting."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from seqsync_dagster.environment import Setting, read_setting
from seqsync_dagster.errors import ConfigurationError
from seqsync_dagster.sequence.strict import Strict

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_LOGIN_HOSTS = {"login.salesforce.com", "test.salesforce.com"}

LoginWay = Literal["session_id", "client_credentials", "jwt_bearer", "password"]

#: The ways to log in: what each needs, and what it may have besides.
_WAYS: tuple[tuple[LoginWay, frozenset[str], frozenset[str]], ...] = (
    ("session_id", frozenset({"session_id"}), frozenset()),
    ("client_credentials", frozenset({"client_id", "client_secret"}), frozenset()),
    ("jwt_bearer", frozenset({"client_id", "username", "private_key"}), frozenset({"audience"})),
    ("jwt_bearer", frozenset({"client_id", "username", "private_key_file"}), frozenset({"audience"})),
    ("password", frozenset({"username", "password"}), frozenset({"security_token"})),
)
_LOGIN_FIELDS = sorted(frozenset().union(*(needed | more for _, needed, more in _WAYS)))

#: The first API version without SOAP login().
_WITHOUT_SOAP_LOGIN = 65


class Share(BaseModel):
    """A part of what the org allows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    percent: Annotated[float, Field(description="Percent of the org's daily API calls.", gt=0, lt=100)]


def _reserve_kind(value: object) -> str | None:
    if isinstance(value, dict | Share):
        return "share"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return "calls"
    return None


# Told apart by hand: a union would answer a mistake with one message for each of its arms.
_Reserve = Annotated[
    Annotated[int, Tag("calls")] | Annotated[Share, Tag("share")],
    Discriminator(
        _reserve_kind,
        custom_error_type="reserve",
        custom_error_message="give a number of calls of 1 or more, or {percent: 20}",
    ),
]


class ApiBudget(Strict):
    """How much of the org's API calls of 24 hours all syncs of this connection may spend together."""

    daily_calls: Annotated[
        int | None,
        Field(description="Calls that this connection may make within any 24 hours. A Bulk job takes 20.", ge=20),
    ] = None
    reserve: Annotated[
        _Reserve | None,
        Field(description="Calls of the org's own limit that are left to others: a number, or {percent: 20}."),
    ] = None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.daily_calls is None and self.reserve is None:
            raise ValueError("give daily_calls, reserve, or both")
        return self


class SalesforceSettings(BaseModel):
    """Connection to a Salesforce org, and when to use which of its APIs."""

    # A validation error would otherwise quote its input, secrets included.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: Annotated[
        Setting,
        Field(
            description="The org's My Domain URL, e.g. https://acme.my.salesforce.com "
            "(Setup > My Domain). With private_key or password also https://login.salesforce.com or "
            "https://test.salesforce.com: the login then tells where the org is. "
            "Plain http is accepted for this machine only, e.g. http://127.0.0.1:8765."
        ),
    ]
    client_id: Annotated[
        Setting | None,
        Field(
            description="Consumer key of an app in the org: with client_secret for the OAuth client credentials flow, "
            "with username and private_key for the OAuth JWT bearer flow."
        ),
    ] = None
    client_secret: Annotated[
        Setting | None,
        Field(description="Consumer secret of that app. Use {env: NAME}.", repr=False),
    ] = None
    username: Annotated[
        Setting | None,
        Field(description="Who to act as, with private_key (JWT bearer) or password (SOAP login)."),
    ] = None
    private_key: Annotated[
        Setting | None,
        Field(
            description="RSA private key in PEM whose certificate the app holds (JWT bearer). Use {env: NAME}; "
            "line ends may be written as \\n.",
            repr=False,
        ),
    ] = None
    private_key_file: Annotated[
        Setting | None,
        Field(description="Path of a file with that key, instead of private_key."),
    ] = None
    audience: Annotated[
        Setting | None,
        Field(
            description="Audience of the JWT where it is not url: some orgs, GovCloud among them, log in at their "
            "My Domain and want https://login.salesforce.com, or https://test.salesforce.com for a sandbox."
        ),
    ] = None
    password: Annotated[
        Setting | None,
        Field(
            description="Password of username for SOAP login, which Salesforce retires with Summer '27; "
            "api_version up to 64.0 only. Use {env: NAME}.",
            repr=False,
        ),
    ] = None
    security_token: Annotated[
        Setting | None,
        Field(
            description="Security token that goes with password, unless this machine's address is in the org's "
            "trusted range. Use {env: NAME}.",
            repr=False,
        ),
    ] = None
    session_id: Annotated[
        Setting | None,
        Field(
            description="An access token used as it is, instead of any other way to log in. "
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
            "more go through Bulk API 2.0. Inserts without a match field always use Collections.",
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

    api_budget: Annotated[
        ApiBudget | None,
        Field(description="When to stop sending for the day. Without it every call that the org allows may be made."),
    ] = None

    allow_production: Annotated[
        bool,
        Field(description="Write to a production org although the environment (SEQSYNC_ENVIRONMENT) is not prod."),
    ] = False

    @model_validator(mode="after")
    def _says_how_to_log_in(self) -> Self:
        way = self.login
        if isinstance(self.url, str):
            try:
                self.read_url()
            except ConfigurationError as error:
                raise ValueError(str(error)) from None
        if way == "password" and int(self.api_version.partition(".")[0]) >= _WITHOUT_SOAP_LOGIN:
            raise ValueError(
                f"username and password log in by SOAP, which Salesforce does not have from API version "
                f"{_WITHOUT_SOAP_LOGIN}.0 on (api_version is {self.api_version}). Give client_id with client_secret "
                "or with username and private_key, or an api_version up to 64.0"
            )
        return self

    @property
    def login(self) -> LoginWay:
        """The one way to log in that is configured. Raises `ValueError` when there is none, or more than one."""
        given = {name for name in _LOGIN_FIELDS if getattr(self, name) is not None}
        for way, needed, more in _WAYS:
            if needed <= given <= needed | more:
                return way
        raise ValueError(
            "give exactly one way to log in: client_id and client_secret (OAuth client credentials); or client_id, "
            "username and private_key or private_key_file, and audience if need be (OAuth JWT bearer); or username "
            "and password, and security_token if need be (SOAP login, api_version up to 64.0); or session_id. "
            f"Given: {', '.join(sorted(given)) or 'none of them'}"
        )

    def read_url(self) -> str:
        """Where to log in, now: scheme and host, no path. The org is there too unless the login says otherwise."""
        url = read_setting(self.url, "salesforce: url")
        return checked_url(url, login_host=self.login in ("jwt_bearer", "password"))


def checked_url(url: str, *, login_host: bool = False) -> str:
    """`url` cut to scheme and host.

    With `login_host` it may be one of the hosts that all orgs share. Raises
    `ConfigurationError` when it cannot be an org's address, or when a token
    would cross the network in the clear.
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
    if host in _LOGIN_HOSTS and not login_host:
        raise ConfigurationError(
            f"salesforce: url {host} has no client credentials login and is no org. Give the My Domain URL of the "
            "org, e.g. https://acme.my.salesforce.com (Setup > My Domain)."
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else "")


def is_loopback(url: str) -> bool:
    """Whether `url` never leaves this machine."""
    return urlsplit(url).hostname in _LOOPBACK
