"""When a sequence runs by itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from seqsync_dagster.sequence.strict import Strict


class CronTrigger(Strict):
    """Run at the times of a cron expression."""

    cron: Annotated[str, Field(description="Five-field cron expression, e.g. `0 * * * *`.")]
    timezone: Annotated[str, Field(description="Zone the expression is meant in, e.g. `Europe/Paris`.")] = "UTC"


class ModelsTrigger(Strict):
    """Run when upstream models were materialised by something else than this sequence."""

    models: Annotated[Literal["all", "any"], Field(description="Wait for `all` models, or for `any`.")]


def _trigger_kind(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((k for k in ("cron", "models") if k in value), None)
    return "cron" if isinstance(value, CronTrigger) else "models" if isinstance(value, ModelsTrigger) else None


Trigger = Annotated[
    Annotated[CronTrigger, Tag("cron")] | Annotated[ModelsTrigger, Tag("models")],
    Discriminator(
        _trigger_kind,
        custom_error_type="trigger_form",
        custom_error_message="a trigger is {cron: EXPRESSION, timezone: ZONE} or {models: all | any}",
    ),
]
