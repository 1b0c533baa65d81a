"""When a sequence runs by itself: its schedules, and its sensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from seqsync_dagster.components.triggers.after import build_after
from seqsync_dagster.components.triggers.busy import SILENT_S, HeldBy, busy
from seqsync_dagster.components.triggers.cron import build_cron
from seqsync_dagster.components.triggers.dbt_cloud import build_dbt_cloud
from seqsync_dagster.components.triggers.interval import build_interval
from seqsync_dagster.components.triggers.models import build_models
from seqsync_dagster.components.triggers.target import TRIGGER, Target
from seqsync_dagster.components.yaml_source import unknown_name
from seqsync_dagster.sequence.spec import SequenceSpec
from seqsync_dagster.sequence.triggers import (
    AfterTrigger,
    CronTrigger,
    DbtCloudTrigger,
    IntervalTrigger,
    ModelsTrigger,
    circle_of_sequences,
)

__all__ = ["SILENT_S", "TRIGGER", "HeldBy", "Target", "build_triggers", "busy", "check_after", "needs_others"]


def build_triggers(
    sequence: SequenceSpec, target: Target, models: Sequence[dg.AssetKey]
) -> Iterator[dg.ScheduleDefinition | dg.SensorDefinition]:
    """A schedule or a sensor for each trigger. Raises the target's error for one that cannot be used.

    `models` are the assets that the syncs read.
    """
    names: dict[str, int] = {}
    for index, trigger in enumerate(sequence.runs_on):
        name = _name(sequence.name, trigger)
        names[name] = names.get(name, 0) + 1
        repeated = names[name] > 1
        numbered = f"{name}_{names[name]}" if repeated else name
        match trigger:
            case CronTrigger():
                yield build_cron(target, index, trigger, numbered)
            case DbtCloudTrigger():
                yield build_dbt_cloud(target, trigger, numbered)
            case IntervalTrigger():
                if repeated:
                    raise target.error("runs_on says every twice; the shorter interval is enough.", "runs_on", index)
                yield build_interval(target, trigger, name)
            case ModelsTrigger():
                if repeated:
                    raise target.error(
                        "runs_on names models twice; one of {models: all} and {models: any} counts.", "runs_on", index
                    )
                if not models:
                    raise target.error(
                        "runs_on: models needs syncs that read a dbt model, or that name assets in deps.",
                        "runs_on",
                        index,
                    )
                yield build_models(target, trigger, models, name)
            case AfterTrigger():
                if repeated:
                    raise target.error(f"runs_on names after: {trigger.after} twice.", "runs_on", index)
                yield build_after(target, trigger, name)


def needs_others(sequence: SequenceSpec) -> bool:
    """Whether the sequence names another one of its own code location."""
    return bool(_after(sequence))


def check_after(sequence: SequenceSpec, others: Mapping[str, SequenceSpec], target: Target) -> None:
    """Raise the target's error when the sequence runs after one that is not there, or after itself.

    `others` are the sequences of the code location by their names; those of other locations nobody here knows.
    """
    after = {name: _after(other) for name, other in others.items()} | {sequence.name: _after(sequence)}
    for index, trigger in enumerate(sequence.runs_on):
        if not isinstance(trigger, AfterTrigger) or trigger.location is not None:
            continue
        place = ("runs_on", index, "after")
        if trigger.after not in after:
            raise target.error(
                f"runs_on: after: {unknown_name('sequence', trigger.after, after, 'Sequences here')} "
                "One of another code location needs its location.",
                *place,
            )
        if trigger.after == sequence.name:
            raise target.error(f"runs_on: after names {sequence.name!r}, the sequence itself.", *place)
        if circle := circle_of_sequences(sequence.name, after | {sequence.name: [trigger.after]}):
            way = " runs after ".join(circle)
            raise target.error(f"the sequences run after each other in a circle: {way}. Take one out.", *place)


def _after(sequence: SequenceSpec) -> list[str]:
    return [t.after for t in sequence.runs_on if isinstance(t, AfterTrigger) and t.location is None]


def _name(sequence: str, trigger: object) -> str:
    match trigger:
        case CronTrigger():
            return f"{sequence}_schedule"
        case IntervalTrigger():
            return f"{sequence}_every"
        case AfterTrigger(after=other, location=location):
            where = "".join(c if c.isalnum() and c.isascii() else "_" for c in f"_{location}") if location else ""
            return f"{sequence}_after_{other}{where}"
        case DbtCloudTrigger():
            return f"{sequence}_dbt_cloud"
        case _:
            return f"{sequence}_models"
