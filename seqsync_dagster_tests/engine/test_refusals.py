"""What stops a run: one clear message, and nothing sent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.errors import (
    ConfigurationError,
    DestinationRefused,
    DestinationUnreachable,
    GuardTripped,
    LedgerLost,
    ModelMissing,
    OtherDestination,
    StateError,
    WarehouseError,
    WarehouseLocked,
)
from seqsync_dagster.journal import Journal, Scope
from seqsync_dagster_tests.emulator_process import EmulatorProcess
from seqsync_dagster_tests.engine.world import ACCOUNTS, World, crm


def acknowledged_company(world: World, rows: int = 200) -> None:
    world.insert("crm.accounts", [(f"A{i:03}", f"Account {i}", None, None) for i in range(rows)])
    world.run("accounts")
    world.org.reset_calls()


def nothing_sent(world: World) -> bool:
    return world.org.calls()["row_bearing"] == 0


def test_a_mass_update_trips_its_guard_until_exactly_that_plan_is_approved(world: World) -> None:
    acknowledged_company(world)
    world.sql("UPDATE crm.accounts SET website = 'x.example'")
    with pytest.raises(
        GuardTripped, match=r"guard max_updated: 200 of 200 acknowledged records \(100\.0%\)"
    ) as tripped:
        world.run("accounts")
    assert nothing_sent(world)
    with pytest.raises(GuardTripped):
        world.run("accounts", RunOptions(approve_plan="0123456789ab"))
    approved = RunOptions(approve_plan=tripped.value.plan_id)
    assert f"approve_plan: {tripped.value.plan_id}" in str(tripped.value)
    world.sql("UPDATE crm.accounts SET name = 'moved meanwhile' WHERE account_id = 'A001'")
    with pytest.raises(GuardTripped):
        world.run("accounts", approved)
    assert nothing_sent(world)
    world.sql("UPDATE crm.accounts SET name = 'Account 1' WHERE account_id = 'A001'")
    assert world.run("accounts", approved).counts.updated == 200


def test_an_emptied_model_trips_the_removal_guard(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, "removed": "delete"})
    acknowledged_company(world)
    world.sql("DELETE FROM crm.accounts")
    with pytest.raises(GuardTripped, match="guard max_removed: 200 of 200") as tripped:
        world.run("accounts")
    assert world.finish().removed == {}
    assert len(world.org.records("Account")) == 200
    report = world.run("accounts", RunOptions(approve_plan=tripped.value.plan_id))
    assert report.counts.removals_due == 200
    assert world.finish().removed == {"accounts": 200}


def test_removals_that_wait_count_against_the_guard(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, "removed": "delete", "guards": {"max_removed": {"percent": 10, "min_rows": 5}}})
    acknowledged_company(world)
    world.sql("DELETE FROM crm.accounts WHERE account_id < 'A015'")
    assert world.run("accounts").counts.removals_due == 15
    world.sql("DELETE FROM crm.accounts WHERE account_id < 'A030'")
    with pytest.raises(GuardTripped, match="max_removed: 30 of 200"):
        world.run("accounts")


def test_a_lost_ledger_is_not_started_over_silently(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", None, None)])
    with pytest.raises(LedgerLost, match="rebuild_ledger: true"):
        world.run("accounts", remembered=True)
    assert nothing_sent(world)
    report = world.run("accounts", RunOptions(rebuild_ledger=True), remembered=True)
    assert report.counts.created == 1
    assert world.run("accounts", RunOptions(rebuild_ledger=True), remembered=True).counts.adopted == 1


def test_another_org_behind_the_connection_is_refused_by_name(world: World, tmp_path: Path) -> None:
    acknowledged_company(world, 3)
    mine = world.org
    other = EmulatorProcess(tmp_path / "other" / "org.sqlite")
    try:
        world.org = other
        world.sql("UPDATE crm.accounts SET name = 'changed' WHERE account_id = 'A001'")
        with pytest.raises(OtherDestination) as refused:
            world.run("accounts")
        ids = [e.login().query("SELECT Id FROM Organization")[0]["Id"] for e in (mine, other)]
        assert all(i in str(refused.value) for i in ids)
        assert other.records("Account") == []
    finally:
        other.stop()
        world.org = mine


def test_a_missing_table_or_column_is_named_with_the_nearest(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, "table": "crm.acounts"})
    with pytest.raises(ModelMissing, match=r"model crm\.acounts.*Did you mean 'accounts'\?"):
        world.run("accounts")
    world.sequence = crm({**ACCOUNTS, "fields": {"Name": "nam"}})
    with pytest.raises(ModelMissing, match=r"has no column 'nam'.*Did you mean 'name'\?"):
        world.run("accounts")
    world.sequence = crm({**ACCOUNTS, "key": "acount_id"})
    with pytest.raises(ModelMissing, match=r"'acount_id'.*Did you mean 'account_id'\?"):
        world.run("accounts")
    assert world.org.calls()["total"] == 0


def test_every_problem_of_a_mapping_stands_in_one_message(world: World) -> None:
    world.sequence = crm(
        {
            **ACCOUNTS,
            "fields": {
                "Nmae": "name",
                "Id": "website",
                "OwnerId": {"parent": "accounts", "from": "parent_id"},
            },
        }
    )
    world.insert("crm.accounts", [("A1", "a", None, None)])
    with pytest.raises(ConfigurationError) as refused:
        world.run("accounts")
    text = str(refused.value)
    assert "Account has no field 'Nmae', or this user may not see it. Did you mean 'Name'?" in text
    assert "Account.Id is read-only" in text
    assert "Account.OwnerId points to User, but sync 'accounts' writes Account" in text
    assert "Account requires Name" in text
    assert nothing_sent(world)
    world.sequence = crm()
    assert world.run("accounts").counts.created == 1


def test_a_match_field_that_cannot_match_is_refused_with_those_that_can(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, "match": "Website", "fields": {"Name": "name"}})
    with pytest.raises(ConfigurationError, match=r"Account\.Website cannot be matched on.*External_Id__c"):
        world.run("accounts")
    world.sequence = crm({**ACCOUNTS, "object": "Acount"})
    with pytest.raises(DestinationRefused, match="Account"):
        world.run("accounts")


def test_an_unreachable_or_refusing_destination_leaves_everything_due(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", None, None)])
    world.settings["client_secret"] = "wrong-secret-value"
    with pytest.raises(DestinationRefused) as refused:
        world.run("accounts")
    assert "wrong-secret-value" not in str(refused.value)
    del world.settings["client_secret"]
    world.org.stop()
    with pytest.raises(DestinationUnreachable):
        world.run("accounts")
    world.org.start()
    assert world.run("accounts").counts.created == 1


def test_a_changed_key_is_refused_under_an_existing_ledger(world: World) -> None:
    acknowledged_company(world, 3)
    world.sequence = crm({**ACCOUNTS, "key": "website", "fields": {"Name": "name"}})
    with pytest.raises(StateError, match=r"kept by the key \(account_id\), the YAML now says \(website\)"):
        world.run("accounts")


def test_a_locked_duckdb_file_is_named_with_its_holder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    if not world.on_duckdb:
        return
    monkeypatch.setattr("seqsync_dagster.warehouse.duckdb.LOCK_WAIT_S", 0.2)
    file = world.folder / "warehouse.duckdb"
    script = f"import duckdb,sys; c=duckdb.connect({str(file)!r}); print('open', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(WarehouseLocked, match=rf"warehouse\.duckdb is held open.*PID {holder.pid}"):
            world.run("accounts")
    finally:
        holder.communicate("")
    assert world.run("accounts").counts.model == 0


def test_a_missing_warehouse_file_is_said_before_anything_else(world: World) -> None:
    if not world.on_duckdb:
        return
    (world.folder / "warehouse.duckdb").unlink()
    with pytest.raises(WarehouseError, match="Was dbt run"):
        world.run("accounts")


def test_a_refused_plan_leaves_no_open_run_behind(world: World) -> None:
    acknowledged_company(world)
    world.sql("UPDATE crm.accounts SET website = 'x.example'")
    with pytest.raises(GuardTripped):
        world.run("accounts")
    site = world.site()
    journal: Journal = site.journal
    assert journal.open_runs(Scope("crm", "accounts")) == []
    assert journal.holder(Scope("crm", "accounts")) is None
    journal.close()
