"""Who is told of what: alerts of a sequence and of its syncs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from seqsync_dagster.environment import FromEnvironment
from seqsync_dagster.sequence.durations import as_duration
from seqsync_dagster.sequence.limits import Limit
from seqsync_dagster.sequence.strict import Strict, nearest
from seqsync_dagster.sequence.words import as_tuple

ConditionName = Literal[
    "failed",
    "guarded",
    "rejected",
    "held_longer_than",
    "slower_than",
    "no_run_in",
    "drift",
    "full_resync",
    "recovered",
]
EventName = Literal["started", "plan_ready", "finished"]

#: Conditions that stand by themselves, and those that need a duration.
_PLAIN = ("failed", "guarded", "rejected", "drift", "full_resync")
_TIMED = {"held_longer_than": "24h", "slower_than": "30m", "no_run_in": "26h"}
_RECOVERED = "recovered"
_KNOWN = (*_PLAIN, *_TIMED, _RECOVERED)


@dataclass(frozen=True)
class Condition:
    """One thing to be told of."""

    name: ConditionName
    limit: Limit | None = None
    """Of `rejected`: told only above it. None: of any refused row."""
    after: timedelta | None = None
    """Of the conditions that need a duration."""


def _duration(name: str, value: Any) -> timedelta:
    if value is None:
        raise ValueError(f"{name} needs a length of time, e.g. {{{name}: {_TIMED[name]}}}.")
    try:
        return as_duration(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}: {error}") from None


def _condition(value: Any) -> Condition:
    if isinstance(value, Condition):
        return value
    match value:
        case str(name):
            given: Any = None
        case dict() if len(value) == 1:
            [(name, given)] = value.items()
        case _:
            raise ValueError(
                "a condition is a word, e.g. failed, or one word with its limit, e.g. {slower_than: 30m} or "
                "{rejected: {percent: 1, min_rows: 10}}."
            )
    if name not in _KNOWN:
        raise ValueError(f"no condition {str(name)!r}.{nearest(str(name), _KNOWN)} Known here: {', '.join(_KNOWN)}.")
    known = cast(ConditionName, name)
    if name in _TIMED:
        return Condition(known, after=_duration(name, given))
    if name == "rejected" and given is not None:
        try:
            return Condition(known, limit=Limit.model_validate(given))
        except ValidationError as error:
            [first, *_] = error.errors(include_url=False, include_input=False, include_context=False)
            field = ".".join(map(str, ("rejected", *first["loc"])))
            what = first["msg"].removeprefix("Value error, ").rstrip(".")
            raise ValueError(f"{field}: {what}. Write e.g. rejected: {{percent: 1, min_rows: 10}}.") from None
    if given is not None:
        raise ValueError(f"{name} stands by itself; write just {name}.")
    return Condition(known)


def _address(value: Any) -> Any:
    # By hand, because pydantic's errors would quote what may be a secret.
    if isinstance(value, SecretStr | FromEnvironment):
        return value
    if isinstance(value, str) and value.strip():
        return SecretStr(value.strip())
    if isinstance(value, dict):
        return _from_environment(value)
    raise ValueError("an address is a text, or {env: NAME} to read it from the environment.")


def _secret(value: Any) -> Any:
    if isinstance(value, FromEnvironment):
        return value
    found = _from_environment(value) if isinstance(value, dict) else None
    if found is None or found.default is not None:
        raise ValueError("secret is read from the environment: {env: NAME}. It must not stand in the file.")
    return found


def _from_environment(value: dict[Any, Any]) -> FromEnvironment:
    unknown = [str(name) for name in value if name not in FromEnvironment.model_fields]
    if unknown:
        raise ValueError(
            f"unknown name {unknown[0]!r}.{nearest(unknown[0], FromEnvironment.model_fields)} "
            "An address or a secret is read with {env: NAME}."
        )
    try:
        return FromEnvironment.model_validate(value)
    except ValidationError:
        raise ValueError("{env: NAME} needs the name of an environment variable.") from None


_FROM_ENVIRONMENT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"env": {"type": "string", "description": "Name of the environment variable."}},
    "required": ["env"],
    "additionalProperties": False,
}
_LIMIT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "percent": {"type": "number", "description": "Told only of a larger share of the rows sent."},
        "min_rows": {"type": "integer", "description": "And only of more rows than these."},
    },
    "required": ["percent"],
    "additionalProperties": False,
}
_WITH_LIMIT_SCHEMAS: dict[str, dict[str, Any]] = {
    "rejected": {**_LIMIT_SCHEMA, "description": "Rows were refused, more than this."},
    "held_longer_than": {"type": "string", "description": "Rows were held at every run for so long, e.g. `24h`."},
    "slower_than": {"type": "string", "description": "A step takes longer than this, e.g. `30m`."},
    "no_run_in": {"type": "string", "description": "No run has ended for so long, e.g. `26h`."},
}
_CONDITION_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"enum": [*_PLAIN, _RECOVERED]},
        *(
            {"type": "object", "properties": {name: inner}, "required": [name], "additionalProperties": False}
            for name, inner in _WITH_LIMIT_SCHEMAS.items()
        ),
    ]
}

Address = Annotated[
    SecretStr | FromEnvironment,
    BeforeValidator(_address),
    WithJsonSchema({"anyOf": [{"type": "string"}, _FROM_ENVIRONMENT_SCHEMA]}),
]
Secret = Annotated[FromEnvironment, BeforeValidator(_secret), WithJsonSchema(_FROM_ENVIRONMENT_SCHEMA)]
ConditionForm = Annotated[Condition, BeforeValidator(_condition), WithJsonSchema(_CONDITION_SCHEMA)]


class Webhook(Strict):
    """An HTTP address that machines listen at. What is sent there is JSON, signed with `secret`."""

    url: Annotated[Address, Field(description="http(s) address; as a rule `{env: NAME}`.")]
    secret: Annotated[Secret, Field(description="`{env: NAME}`: the key of the signature (HMAC-SHA256).")]


class Alert(Strict):
    """One channel, and what it is told. Once when something begins to be so, once when it is over."""

    to: Annotated[
        Address | None, Field(description="Channel, as an URL that apprise knows; as a rule `{env: NAME}`.")
    ] = None
    webhook: Annotated[Webhook | None, Field(description="Instead of `to`: a signed message for machines.")] = None
    when: Annotated[
        tuple[ConditionForm, ...],
        Field(
            description="What to tell of: failed, guarded, rejected (any refused row) or {rejected: {percent, "
            "min_rows}}, {held_longer_than: 24h}, {slower_than: 30m}, {no_run_in: 26h}, drift, full_resync; and "
            "recovered, when it is over."
        ),
    ] = ()
    events: Annotated[
        tuple[EventName, ...],
        Field(description="With `webhook`: also every step's started, plan_ready and finished, as they happen."),
    ] = ()
    runbook: Annotated[str | None, Field(description="What to do, as a text or a link: stands in every message.")] = (
        None
    )

    _tuples = field_validator("events", mode="before")(as_tuple)

    @field_validator("when", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, str | dict):
            return (value,)
        if not isinstance(value, list | tuple):
            raise ValueError("when is a list of conditions, e.g. [failed, recovered].")
        return value

    @field_validator("webhook", mode="before")
    @classmethod
    def _mapping(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, dict | Webhook):
            raise ValueError("webhook is a mapping: {url: {env: NAME}, secret: {env: NAME}}.")
        if isinstance(value, dict) and "url" in value and "secret" not in value:
            raise ValueError(
                "webhook has no secret, so nobody could tell its messages from forged ones. "
                "Add secret: {env: NAME}, the key of the signature."
            )
        return value

    @model_validator(mode="before")
    @classmethod
    def _a_mapping(cls, data: Any) -> Any:
        if not isinstance(data, dict | Alert):
            raise ValueError("an alert is a mapping: {to: {env: NAME}, when: [failed, recovered]}.")
        return data

    @model_validator(mode="after")
    def _whole(self) -> Alert:
        if (self.to is None) == (self.webhook is None):
            found = "neither" if self.to is None else "both"
            raise ValueError(f"an alert goes to one channel: say either to or webhook; found {found}.")
        if self.events and self.webhook is None:
            raise ValueError("events are for machines: they need webhook, not to.")
        names = [c.name for c in self.when]
        if twice := next((n for n in names if names.count(n) > 1), None):
            raise ValueError(f"when names {twice!r} twice; one of them counts.")
        if not self.events and not self.conditions:
            raise ValueError(
                "when is empty, so nothing would ever be told. Say e.g. when: [failed, guarded, recovered]."
                if not names
                else "when: recovered is told of what was told before; add what that is, e.g. failed."
            )
        return self

    @property
    def conditions(self) -> dict[ConditionName, Condition]:
        """What to tell of, by name, `recovered` left out."""
        return {c.name: c for c in self.when if c.name != _RECOVERED}

    @property
    def recovered(self) -> bool:
        """Whether to tell when it is over."""
        return any(c.name == _RECOVERED for c in self.when)


def _list_of_alerts(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError("alerts is a list, e.g. [{to: {env: OPS_ALERT_URL}, when: [failed, recovered]}].")
    return value


#: As a sequence and a sync have them.
Alerts = Annotated[tuple[Alert, ...], BeforeValidator(_list_of_alerts)]


def addresses(alerts: Iterable[Alert]) -> list[tuple[int, Literal["to", "webhook"], SecretStr]]:
    """The addresses that stand in the file itself, with the place of their alert."""
    found: list[tuple[int, Literal["to", "webhook"], SecretStr]] = []
    for index, alert in enumerate(alerts):
        if isinstance(alert.to, SecretStr):
            found.append((index, "to", alert.to))
        if alert.webhook is not None and isinstance(alert.webhook.url, SecretStr):
            found.append((index, "webhook", alert.webhook.url))
    return found
