"""How little of its model a sync reads: rows that changed lately, and everything from time to time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import Discriminator, Field, Tag, field_validator

from seqsync_dagster.sequence.strict import Strict
from seqsync_dagster.sequence.words import known_zone

#: Any moment will do for a look at whether there is a next time.
_SOME_DAY = datetime(2000, 1, 1, tzinfo=UTC)

#: A hundred years: what is longer leads out of the calendar.
_MOST_MINUTES = 100 * 366 * 24 * 60


class ChangedSince(Strict):
    """The column that says when a row of the model changed last."""

    column: Annotated[str, Field(description="A date or timestamp; rows in which it is null are always read.")]
    overlap_minutes: Annotated[
        float,
        Field(
            ge=0,
            le=_MOST_MINUTES,
            description="How long before the latest change that was seen reading starts again: longer than it takes "
            "from a row's time to the moment when others can read the row. Default: 60.",
        ),
    ] = 60

    @property
    def overlap(self) -> timedelta:
        """How long before the latest change reading starts."""
        return timedelta(minutes=self.overlap_minutes)


class FullScan(Strict):
    """When the whole model is compared."""

    cron: Annotated[str, Field(description="Five-field cron expression: the first run after it compares everything.")]
    timezone: Annotated[str, Field(description="Zone the expression is meant in, e.g. `Europe/Paris`.")] = "UTC"

    @field_validator("timezone", mode="after")
    @classmethod
    def _zone(cls, value: str) -> str:
        return known_zone(value, "timezone")

    @field_validator("cron", mode="after")
    @classmethod
    def _cron(cls, value: str) -> str:
        try:
            if len(value.split()) != 5:
                # CronSim takes a sixth one, first, for seconds.
                raise CronSimError("Wrong number of fields")
            next(CronSim(value, _SOME_DAY))
        except (CronSimError, StopIteration) as error:
            why = f": {error}" if str(error) else ""
            raise ValueError(
                f"cron {value!r} is no cron expression{why}. It has five fields, minute hour day month weekday, e.g. "
                "'0 3 * * *' for 3 o'clock every night."
            ) from None
        return value

    def latest(self, now: datetime) -> datetime:
        """The last time at or before `now`."""
        # The search is for times before its start, to the second.
        found = next(self._times(now + timedelta(seconds=1), reverse=True))
        # Backwards it leaves out a time in the hour that comes twice, while that comes for the second time.
        while (later := self.after(found)) <= now:
            found = later
        return found

    def after(self, moment: datetime) -> datetime:
        """The first time after `moment`."""
        times = self._times(moment, reverse=False)
        # From within the hour that comes twice, the first may be the one in its first half.
        return next(time for time in times if time > moment)

    def _times(self, moment: datetime, *, reverse: bool) -> Iterator[datetime]:
        times: Iterator[datetime] = CronSim(self.cron, moment.astimezone(ZoneInfo(self.timezone)), reverse=reverse)
        return (time.astimezone(UTC) for time in times)


def _form(value: Any) -> str | None:
    if isinstance(value, str):
        return "name"
    return "column" if isinstance(value, dict | ChangedSince) else None


Since = Annotated[
    Annotated[str, Tag("name")] | Annotated[ChangedSince, Tag("column")],
    Discriminator(
        _form,
        custom_error_type="since_form",
        custom_error_message="changed_since is the name of a column, or {column: NAME, overlap_minutes: 60}",
    ),
]


def in_full(value: str | ChangedSince | None) -> ChangedSince | None:
    """What the YAML says as `changed_since`, in full form."""
    return ChangedSince(column=value) if isinstance(value, str) else value
