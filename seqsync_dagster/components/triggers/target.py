"""The sequence that a trigger starts, as its schedules and sensors know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import dagster as dg

from seqsync_dagster.components.triggers.busy import HeldBy, busy

#: Run tag that says what started the run.
TRIGGER = "seqsync/trigger"


@dataclass(frozen=True)
class Target:
    """A sequence's job, and how to start it."""

    job: str
    syncs: tuple[dg.AssetKey, ...]
    """The assets of its syncs and of `finish`: what a run without the models consists of."""
    held_by: HeldBy
    error: Callable[..., Exception]
    """Makes the exception for a trigger that cannot be used, from a message and a place in the file."""

    def busy(self, instance: dg.DagsterInstance) -> str | None:
        """Why no run may be started now; None when one may."""
        return busy(instance, self.job, self.held_by)

    def run(self, run_key: str, trigger: str, *, build: bool, tags: Mapping[str, str] | None = None) -> dg.RunRequest:
        """A run of the syncs, and of the models before them if it shall `build` those."""
        return dg.RunRequest(
            run_key=run_key,
            asset_selection=None if build else list(self.syncs),
            tags={TRIGGER: trigger, **(tags or {})},
        )


def what_runs(job: str, build: bool) -> str:
    """The beginning of a description."""
    return f"Builds the models and runs the sequence {job}" if build else f"Runs the syncs of {job}, no models,"


def sensor_status(enabled: bool) -> dg.DefaultSensorStatus:
    """How a sensor stands until somebody switches it."""
    return dg.DefaultSensorStatus.RUNNING if enabled else dg.DefaultSensorStatus.STOPPED


def listed(names: list[str], most: int = 10) -> str:
    """The names in one text, the end of a long list as a number."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
