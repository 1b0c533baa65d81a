"""The gate: dbt tests of the model, whichever run evaluated them."""

from __future__ import annotations

import dagster as dg
import pytest

from seqsync_dagster.components.gate import check_gate
from seqsync_dagster.components.inputs import DbtGraph
from seqsync_dagster.errors import GateClosed

MODEL = dg.AssetKey("crm_accounts")
NOT_NULL = dg.AssetCheckKey(MODEL, "not_null_crm_accounts_is_active")
UNIQUE = dg.AssetCheckKey(MODEL, "unique_crm_accounts_account_id")


def evaluate(
    instance: dg.DagsterInstance,
    check: dg.AssetCheckKey,
    passed: bool,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> str:
    """A run that evaluates one test, as dagster-dbt does; returns its id."""

    @dg.multi_asset(
        specs=[dg.AssetSpec(MODEL)],
        check_specs=[dg.AssetCheckSpec(check.name, asset=MODEL)],
        name="dbt",
        can_subset=True,
    )
    def dbt():  # type: ignore[no-untyped-def]
        yield dg.MaterializeResult(asset_key=MODEL)
        yield dg.AssetCheckResult(asset_key=MODEL, check_name=check.name, passed=passed, severity=severity)

    return dg.materialize([dbt], instance=instance).run_id


def plan_only(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> None:
    """A run that was to evaluate the test, and died before."""

    @dg.multi_asset(specs=[dg.AssetSpec(MODEL)], check_specs=[dg.AssetCheckSpec(check.name, asset=MODEL)], name="dbt")
    def dbt():  # type: ignore[no-untyped-def]
        raise RuntimeError("killed")
        yield

    assert not dg.materialize([dbt], instance=instance, raise_on_error=False).success


def open_(instance: dg.DagsterInstance) -> None:
    check_gate(instance, "crm/accounts", "crm_accounts", [NOT_NULL, UNIQUE])


def test_never_evaluated_is_open(instance: dg.DagsterInstance) -> None:
    open_(instance)


def test_failed_closes_and_says_what_to_do(instance: dg.DagsterInstance) -> None:
    evaluate(instance, UNIQUE, passed=True)
    run_id = evaluate(instance, NOT_NULL, passed=False)
    with pytest.raises(GateClosed) as caught:
        open_(instance)
    assert str(caught.value) == (
        "crm/accounts: the latest evaluation of 1 dbt test on its model crm_accounts failed: "
        f"not_null_crm_accounts_is_active (run {run_id[:8]}). Nothing was sent. Mend the data or the test and build "
        "the model again (materialise crm_accounts here, or run this job, which builds it first); the sync then goes "
        "on by itself."
    )


def test_the_latest_evaluation_counts(instance: dg.DagsterInstance) -> None:
    evaluate(instance, NOT_NULL, passed=False)
    evaluate(instance, NOT_NULL, passed=True)
    open_(instance)


def test_a_dead_run_hides_nothing(instance: dg.DagsterInstance) -> None:
    evaluate(instance, NOT_NULL, passed=False)
    for _ in range(3):
        plan_only(instance, NOT_NULL)
    with pytest.raises(GateClosed):
        open_(instance)


def test_a_warning_is_no_obstacle(instance: dg.DagsterInstance) -> None:
    evaluate(instance, NOT_NULL, passed=False, severity=dg.AssetCheckSeverity.WARN)
    open_(instance)


def test_an_evaluation_reported_from_outside_counts(instance: dg.DagsterInstance) -> None:
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(asset_key=MODEL, check_name=UNIQUE.name, passed=False, metadata={})
    )
    with pytest.raises(GateClosed, match=r"unique_crm_accounts_account_id \(reported without a run\)"):
        open_(instance)


def test_only_tests_of_error_severity_are_asked_about() -> None:
    checks = [
        dg.AssetCheckSpec("fails", asset=MODEL, blocking=True),
        dg.AssetCheckSpec("warns", asset=MODEL, blocking=False),
    ]

    @dg.multi_asset(
        specs=[
            dg.AssetSpec("stg_accounts", deps=[dg.AssetKey(["raw", "source"])]),
            dg.AssetSpec(MODEL, deps=["stg_accounts"]),
            dg.AssetSpec("unrelated", deps=[MODEL]),
        ],
        check_specs=checks,
        can_subset=True,
    )
    def dbt():  # type: ignore[no-untyped-def]
        ...

    graph = DbtGraph(dg.Definitions(assets=[dbt]))
    assert graph.tests_of(MODEL) == (dg.AssetCheckKey(MODEL, "fails"),)
    assert graph.upstream_of(MODEL) == {MODEL, dg.AssetKey("stg_accounts")}
