"""What a trigger wants to know of a run that somebody else started."""

from __future__ import annotations

import dagster as dg


def location_of(run: dg.DagsterRun) -> str | None:
    """Name of the code location that the run is of; None when Dagster was not told, as by `dagster job execute`."""
    origin = run.remote_job_origin
    return origin.repository_origin.code_location_origin.location_name if origin is not None else None


def own_location(context: dg.SensorEvaluationContext) -> str | None:
    """Name of the code location that the sensor is in; None outside of a daemon."""
    origin = context.code_location_origin
    return origin.location_name if origin is not None else None


def elsewhere(run: dg.DagsterRun, location: str | None) -> bool:
    """Whether the run is known to be of another code location than the given one."""
    found = location_of(run)
    return found is not None and location is not None and found != location
