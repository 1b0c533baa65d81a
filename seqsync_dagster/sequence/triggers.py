"""When a sequence runs by itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator

from seqsync_dagster.environment import FromEnvironment, Setting
from seqsync_dagster.sequence.durations import as_duration
from seqsync_dagster.sequence.strict import Strict
from seqsync_dagster.sequence.words import Name

_DAYS = dict(zip(range(1, 13), (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))


class _Trigger(Strict):
    enabled: Annotated[
        bool, Field(description="Switched on from the start. Default: somebody switches it on under Automation.")
    ] = False


class _BuildingTrigger(_Trigger):
    build: Annotated[bool, Field(description="Build the dbt models first. With `false` they are sent as they are.")] = (
        True
    )


class CronTrigger(_BuildingTrigger):
    """Run at the times of a cron expression."""

    cron: Annotated[str, Field(description="Five-field cron expression, e.g. `0 * * * *`.")]
    timezone: Annotated[str, Field(description="Zone the expression is meant in, e.g. `Europe/Paris`.")] = "UTC"

    @field_validator("cron")
    @classmethod
    def _comes(cls, value: str) -> str:
        if never_comes(value):
            raise ValueError(f"cron {value!r} never comes: none of its months has such a day.")
        return value


def _interval(value: Any) -> Any:
    # 1:30 without quotes is ninety for YAML, so a number is not taken for minutes.
    try:
        length = as_duration(value)
    except ValueError as error:
        raise ValueError(f"every: {error}") from None
    if length < timedelta(minutes=1):
        raise ValueError(f"every {value!r} is shorter than Dagster looks; a minute, 1m, is the shortest.")
    return value.strip() if isinstance(value, str) else f"{int(length.total_seconds())}s"


class IntervalTrigger(_BuildingTrigger):
    """Run at even intervals, also those that no cron expression can say."""

    every: Annotated[
        str,
        BeforeValidator(_interval),
        Field(description="From one start to the next, e.g. `45m`, `2h`, `1h30m`, `1d`."),
    ]

    @property
    def interval(self) -> timedelta:
        """From one start to the next."""
        return as_duration(self.every)


class ModelsTrigger(_Trigger):
    """Run when upstream models were materialised by something else than this sequence."""

    models: Annotated[Literal["all", "any"], Field(description="Wait for `all` models, or for `any`.")]


class AfterTrigger(_BuildingTrigger):
    """Run when another sequence has come to its end."""

    after: Annotated[Name, Field(description="Name of the other sequence.")]
    location: Annotated[
        str | None, Field(description="Code location of the other sequence, when it is not this one.", min_length=1)
    ] = None
    when: Annotated[
        Literal["success", "finished"],
        Field(description="`success`: its run succeeded, in part or wholly. `finished`: or failed."),
    ] = "success"


def _from_environment(what: str, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    # What else stands there may be a secret, so it is not shown.
    if not isinstance(value.get("env"), str) or not value["env"] or not value.keys() <= {"env", "default"}:
        raise ValueError(f"{what}: what the environment holds is named with {{env: NAME}}, and nothing else.")
    return FromEnvironment(env=value["env"], default=None if value.get("default") is None else str(value["default"]))


def _number(value: Any, info: ValidationInfo) -> Any:
    what = str(info.field_name)
    value = _from_environment(what, value)
    if isinstance(value, FromEnvironment) or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError(f"{what} {value!r} is no number; the address of the job's page shows it. Or write {{env: NAME}}.")


_Number = Annotated[int | FromEnvironment, BeforeValidator(_number)]


class DbtCloudJob(Strict):
    """A job of dbt Cloud, and how to ask about its runs."""

    job: Annotated[_Number, Field(description="The job's number, as in the address of its page.")]
    account: Annotated[_Number, Field(description="The account's number, as in the address of its pages.")]
    token: Annotated[
        FromEnvironment, Field(description="`{env: NAME}`: a token that may read the job; read at each look.")
    ]
    url: Annotated[Setting, Field(description="Access URL of the account.")] = "https://cloud.getdbt.com"

    @field_validator("token", mode="before")
    @classmethod
    def _secret(cls, value: Any) -> Any:
        found = _from_environment("token", value)
        if not isinstance(found, FromEnvironment) or found.default is not None:
            raise ValueError("token: a secret does not belong into a file. Write token: {env: DBT_CLOUD_TOKEN}.")
        return found

    @field_validator("url", mode="before")
    @classmethod
    def _address(cls, value: Any) -> Any:
        found = _from_environment("url", value)
        if isinstance(found, FromEnvironment) or re.match(r"https?://[^/\s@]+$", str(found).rstrip("/")):
            return found
        raise ValueError("url is no access URL of dbt Cloud; it looks like https://cloud.getdbt.com, without a path.")


class DbtCloudTrigger(_Trigger):
    """Run when a job of dbt Cloud has succeeded."""

    dbt_cloud: Annotated[DbtCloudJob, Field(description="The job.")]


_KINDS: Mapping[str, type[_Trigger]] = {
    "cron": CronTrigger,
    "every": IntervalTrigger,
    "models": ModelsTrigger,
    "after": AfterTrigger,
    "dbt_cloud": DbtCloudTrigger,
}


def _trigger_kind(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((kind for kind in _KINDS if kind in value), None)
    return next((kind for kind, model in _KINDS.items() if isinstance(value, model)), None)


Trigger = Annotated[
    Annotated[CronTrigger, Tag("cron")]
    | Annotated[IntervalTrigger, Tag("every")]
    | Annotated[ModelsTrigger, Tag("models")]
    | Annotated[AfterTrigger, Tag("after")]
    | Annotated[DbtCloudTrigger, Tag("dbt_cloud")],
    Discriminator(
        _trigger_kind,
        custom_error_type="trigger_form",
        custom_error_message="a trigger is {cron: EXPRESSION, timezone: ZONE}, {every: 15m}, {models: all | any}, "
        "{after: SEQUENCE} or {dbt_cloud: {job: NUMBER, account: NUMBER, token: {env: NAME}}}",
    ),
]


def never_comes(cron: str) -> bool:
    """Whether a cron expression names only days that its months do not have, such as the 31st of April and June."""
    fields = cron.split()
    if len(fields) != 5 or fields[4] != "*":
        return False
    days, months = _numbers(fields[2]), _numbers(fields[3])
    return bool(days and months) and min(days) > max(_DAYS.get(month, 31) for month in months)


def _numbers(field: str) -> set[int]:
    """What a list of plain numbers and ranges names; nothing for any other field."""
    if not re.fullmatch(r"\d{1,2}(-\d{1,2})?(,\d{1,2}(-\d{1,2})?)*", field):
        return set()
    parts = [[int(end) for end in part.split("-")] for part in field.split(",")]
    return {number for part in parts for number in range(part[0], part[-1] + 1)}


def circle_of_sequences(name: str, after: Mapping[str, Sequence[str]]) -> list[str]:
    """A way from the sequence `name` over the sequences it runs after back to itself; empty when there is none.

    `after` says for each sequence which others it runs after.
    """
    ways = [[name]]
    seen = set[str]()
    while ways:
        way = ways.pop(0)
        for other in after.get(way[-1], ()):
            if other == name:
                return [*way, name]
            if other not in seen:
                seen.add(other)
                ways.append([*way, other])
    return []
