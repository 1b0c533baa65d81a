"""Dagster's face of this package: YAML becomes assets, checks, jobs, schedules and sensors.

The only room that imports dagster. Heavy libraries are imported inside the functions that run.
"""
