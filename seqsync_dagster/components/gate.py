"""The gate: a model whose dbt test failed is not sent."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from seqsync_dagster.components.private import COMPLETED
from seqsync_dagster.errors import GateClosed


def check_gate(instance: dg.DagsterInstance, sync: str, model: str, tests: Iterable[dg.AssetCheckKey]) -> None:
    """Raise `GateClosed` when the latest completed evaluation of one of these tests failed, in whichever run.

    A test that was never evaluated, or that only warned, lets the sync pass. An evaluation that was
    planned and never made, because its run died, does not hide the one before it.
    """
    failed = [f"{test.name} ({where})" for test in tests if (where := _failed_where(instance, test))]
    if failed:
        many = len(failed) > 1
        raise GateClosed(
            f"{sync}: the latest evaluation of {len(failed)} dbt test{'s' if many else ''} on its model {model} "
            f"failed: {', '.join(failed)}. Nothing was sent. Mend the data or the test and build the model again "
            f"(materialise {model} here, or run this job, which builds it first); the sync then goes on by itself."
        )


def _failed_where(instance: dg.DagsterInstance, test: dg.AssetCheckKey) -> str | None:
    records = instance.event_log_storage.get_asset_check_execution_history(test, limit=1, status=COMPLETED)
    for record in records:
        evaluation = record.evaluation
        if evaluation and not evaluation.passed and evaluation.severity == dg.AssetCheckSeverity.ERROR:
            # An evaluation reported from outside, e.g. by a dbt run elsewhere, has no run here.
            return f"run {record.run_id[:8]}" if record.run_id else "reported without a run"
    return None
