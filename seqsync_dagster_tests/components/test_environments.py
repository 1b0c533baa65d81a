"""One set of files for dev, staging and prod; and a production org that only prod writes to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from seqsync_dagster import SalesforceConnection, Warehouse
from seqsync_dagster.components.environments import VARIABLE, for_editors
from seqsync_dagster.destinations.salesforce.destination import SalesforceDestination
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings
from seqsync_dagster.errors import OtherDestination
from seqsync_dagster_tests.emulator_process import EmulatorProcess, emulator

from .location import WAREHOUSE, Location, location
from .test_errors import line_of

__all__ = ["emulator"]

CONNECTION = """
type: seqsync_dagster.SalesforceConnection
attributes:
  client_id: demo
  api_budget: {daily_calls: 900, reserve: 5}
  environments:
    dev:
      url: https://acme--dev.sandbox.my.salesforce.com
      client_secret: {env: DEV_SECRET}
      api_budget: {daily_calls: 20}
    prod:
      url: https://acme.my.salesforce.com
      username: sync@acme.example
      private_key: {env: PROD_KEY}
"""


@pytest.fixture
def made() -> Iterator[Location]:
    with location(salesforce=CONNECTION) as loaded:
        yield loaded


def settings(made: Location) -> SalesforceSettings:
    connection = made.component("salesforce")
    assert isinstance(connection, SalesforceConnection)
    return connection.settings


def test_each_environment_has_what_it_says_over_what_all_share(made: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    dev = settings(made)
    monkeypatch.setenv(VARIABLE, "prod")
    prod = settings(made)
    assert (dev.url, prod.url) == ("https://acme--dev.sandbox.my.salesforce.com", "https://acme.my.salesforce.com")
    assert (dev.login, prod.login) == ("client_credentials", "jwt_bearer")
    assert dev.api_budget is not None
    assert prod.api_budget is not None
    assert (dev.api_budget.daily_calls, dev.api_budget.reserve) == (20, 5)
    assert (prod.api_budget.daily_calls, prod.api_budget.reserve) == (900, 5)


def test_a_warehouse_keeps_its_state_apart(made: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    made.write("warehouse", WAREHOUSE + "  environments: {staging: {state: {schema: seqsync_staging}}, prod: {}}\n")
    monkeypatch.setenv(VARIABLE, "staging")
    warehouse = made.component("warehouse")
    assert isinstance(warehouse, Warehouse)
    assert warehouse.settings.state.schema_ == "seqsync_staging"


WRONG = {
    "no such environment": (
        CONNECTION.replace("  environments:", "  environments: # <--"),
        "prd",
        "SEQSYNC_ENVIRONMENT is 'prd', and environments here are dev, prod. Did you mean 'prod'?",
    ),
    "nothing said, and no dev": (
        CONNECTION.replace("  environments:", "  environments: # <--").replace("    dev:", "    qa:"),
        "",
        "SEQSYNC_ENVIRONMENT is not set, and environments here are qa, prod.",
    ),
    "a mistake of an environment that this is not": (
        CONNECTION.replace("prod:\n", "prod:\n      colections_up_to: 5 # <--\n"),
        "dev",
        "unknown name 'colections_up_to'. Did you mean 'collections_up_to'?",
    ),
    "a mistake in what all share": (
        CONNECTION.replace("  api_budget: {daily_calls: 900,", "  api_budget: {dayly_calls: 900, # <--\n   "),
        "dev",
        "unknown name 'dayly_calls'",
    ),
    "not a mapping": (
        CONNECTION.partition("  environments:")[0] + "  environments: dev # <--\n",
        "dev",
        "environments maps names to what differs there",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_have_their_line(made: Location, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, environment, expected = WRONG[case]
    monkeypatch.setenv(VARIABLE, environment)
    file = made.write("salesforce", text)
    made.write("crm", "type: seqsync_dagster.SyncSequence\nattributes: {}\n")
    with pytest.raises(Exception) as caught:
        made.component("salesforce")
    from seqsync_dagster.components.yaml_source import mistake_behind

    mistake = str(mistake_behind(caught.value))
    assert mistake.startswith(f"{file}:{line_of(text)}: ")
    assert expected in mistake


def test_editors_know_the_environments() -> None:
    schema = for_editors(SalesforceSettings.model_json_schema())
    each = schema["properties"]["environments"]["additionalProperties"]["properties"]
    assert each["url"] == schema["properties"]["url"]
    assert {"required": ["environments"]} in schema["anyOf"]


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    org = EmulatorProcess(tmp_path_factory.mktemp("org") / "org.sqlite", "--production")
    yield org
    org.stop()


def count(org: EmulatorProcess) -> int:
    return len(org.records("Account"))


def connected(org: EmulatorProcess, environment: str | None, **more: object) -> SalesforceDestination:
    read = SalesforceSettings.model_validate(
        {"url": org.url, "client_id": "demo", "client_secret": "demo-secret", **more}
    )
    connection = SalesforceConnection("salesforce", read, environment).connect()
    assert isinstance(connection, SalesforceDestination)
    return connection


def test_only_prod_reaches_a_production_org(production: EmulatorProcess, emulator: EmulatorProcess) -> None:
    for environment in ("dev", "staging"):
        with pytest.raises(OtherDestination, match=f"environment '{environment}'.* production org Emulated Org"):
            connected(production, environment).account()
    for environment in ("prod", "production", None):
        assert connected(production, environment).account().sandbox is False
    assert connected(production, "dev", allow_production=True).account().sandbox is False
    assert connected(emulator, "dev").account().sandbox is True


def test_a_run_of_dev_sends_nothing_to_production(
    production: EmulatorProcess, tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    import duckdb

    from .location import EMULATED, PAIR, run

    monkeypatch.setenv(VARIABLE, "dev")
    monkeypatch.setenv("TEST_SALESFORCE_URL", production.url)
    with duckdb.connect(str(tmp_path / "w.duckdb")) as database:
        database.execute("CREATE SCHEMA crm")
        database.execute("CREATE TABLE crm.accounts AS SELECT 'A1' account_id, 'one' AS name, NULL parent_account_id")
    warehouse = WAREHOUSE.replace("warehouse.duckdb", f"{tmp_path}/w.duckdb")
    with location(warehouse=warehouse, salesforce=EMULATED, crm=PAIR) as made:
        done = run(made.load(), instance)
    assert not done.success
    failed = next(e for e in done.all_events if e.is_step_failure)
    assert "the production org Emulated Org" in failed.step_failure_data.user_failure_data.description
    assert count(production) == 0
