"""The demo's own definitions on a fresh clone: real dbt, a real run of the job, and the emulated org."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import dagster as dg
import pytest
from dagster_dbt import DbtProjectComponent
from dagster_dbt.dbt_project import DagsterDbtProjectPreparer

from seqsync_dagster import DbtProject, SyncSequence
from seqsync_dagster.components.scaffolding import SequenceScaffolder, SequenceScaffoldParams
from seqsync_dagster_tests.emulator_process import CLIENT_ID, CLIENT_SECRET, EmulatorProcess, module_emulator  # noqa: F401

from .location import Location, location, run
from .test_errors import error_of

ROOT = Path(__file__).resolve().parents[2]
DEFS = ROOT / "seqsync_dagster" / "defs"
SYNCS = ("accounts", "workspaces", "contacts", "permissions")
MARTS = [dg.AssetKey(f"crm_{name}") for name in SYNCS]


@pytest.fixture(scope="module")
def clone(module_emulator: EmulatorProcess) -> Iterator[Location]:  # noqa: F811
    with pytest.MonkeyPatch.context() as patch, location() as made:
        for name in ("SEQSYNC_WAREHOUSE_URL", "SEQSYNC_DUCKDB_PATH", "SEQSYNC_SOURCES"):
            patch.delenv(name, raising=False)
        patch.setenv("SALESFORCE_URL", module_emulator.url)
        patch.setenv("SALESFORCE_CLIENT_ID", CLIENT_ID)
        patch.setenv("SALESFORCE_CLIENT_SECRET", CLIENT_SECRET)
        shutil.copytree(
            ROOT / "dbt_project",
            made.root / "dbt_project",
            ignore=shutil.ignore_patterns("target", "logs", "*.duckdb*", "seqsync_state", ".*"),
        )
        for file in DEFS.glob("*/defs.yaml"):
            made.write(file.parent.name, file.read_text())
        yield made


@pytest.fixture(scope="module")
def defs(clone: Location, common_folder: Path) -> dg.Definitions:
    # dbt needs many seconds to parse, and each worker may have to. The manifest keeps its time, so it counts as new.
    known, target = common_folder / "demo_target", clone.root / "dbt_project" / "target"
    if known.exists():
        shutil.copytree(known, target)
        return clone.load()
    made = clone.load()
    part = known.with_suffix(f".{os.getpid()}")
    shutil.copytree(target, part)
    # Another worker may have been faster.
    with suppress(OSError):
        part.rename(known)
    return made


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as made:
        yield made


def test_a_failed_build_is_no_success(
    clone: Location, defs: dg.Definitions, stored: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Iterator[object]:
        raise RuntimeError("dbt failed")
        yield

    monkeypatch.setattr(DbtProjectComponent, "execute", fails)
    done = run(defs, stored)
    found = stored.get_run_by_id(done.run_id)
    assert found
    assert found.status == dg.DagsterRunStatus.FAILURE
    assert found.tags["seqsync/outcome"] == "failed"


def test_a_fresh_clone_loads(clone: Location, defs: dg.Definitions) -> None:
    assert (clone.root / "dbt_project" / "target" / "manifest.json").exists()
    # No copy of the project: a relative DuckDB path must mean one file.
    assert not list(clone.root.rglob(".local_defs_state"))
    graph = defs.resolve_asset_graph()
    for name, model in zip(SYNCS, MARTS, strict=True):
        assert model in graph.get(dg.AssetKey(["crm", name])).parent_keys
    lineage = graph.get(dg.AssetKey(["crm", "contacts"])).metadata["dagster/column_lineage"]
    assert set(lineage.deps_by_column["AccountId"]) == {
        dg.TableColumnDep(dg.AssetKey("crm_contacts"), "account_id"),
        dg.TableColumnDep(dg.AssetKey(["crm", "accounts"]), "External_Id__c"),
    }


def test_the_job_builds_what_it_sends(defs: dg.Definitions) -> None:
    job = defs.resolve_job_def("crm")
    keys = {key.to_user_string() for key in job.asset_layer.executable_asset_keys}
    assert keys == {
        *(f"crm_{name}" for name in SYNCS),
        *(f"crm/{name}" for name in (*SYNCS, "finish")),
        "stg_accounts",
        "stg_workspaces",
        "stg_users",
        "stg_workspace_permissions",
    }
    checks = {key.asset_key for key in job.asset_layer.asset_graph.asset_check_keys}
    assert checks >= set(MARTS)
    # An operation of a job's name would make web server and daemon refuse the location.
    names = {node.name for node in job.nodes}
    assert names == {"dbt__dbt_project", *(f"crm__{name}" for name in (*SYNCS, "finish"))}


def test_the_manifest_follows_the_files(clone: Location, defs: dg.Definitions, monkeypatch: pytest.MonkeyPatch) -> None:
    project = clone.component("dbt")
    assert isinstance(project, DbtProject)
    parsed: list[str] = []
    monkeypatch.setattr(DagsterDbtProjectPreparer, "prepare", lambda _, p: parsed.append(p.name))
    project.prepare()
    assert parsed == []
    model = clone.root / "dbt_project" / "models" / "marts" / "crm_accounts.sql"
    before = model.stat().st_mtime
    later = time.time() + 5
    os.utime(model, (later, later))
    project.prepare()
    assert parsed == ["crm"]
    os.utime(model, (before, before))
    other = model.with_name("gone.sql")
    other.touch()
    other.unlink()
    project.prepare()
    assert parsed == ["crm", "crm"]
    os.utime(model.parent, (before, before))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "model: crm_contacts",
            "model: crm_contcats",
            "sync 'contacts': no dbt model 'crm_contcats'. Did you mean 'crm_contacts'? Models: crm_accounts,",
        ),
        ("dbt: dbt", "dbt: dtb", "dbt: no folder in defs/ 'dtb'. Did you mean 'dbt'?"),
    ],
)
def test_unknown_model(clone: Location, defs: dg.Definitions, old: str, new: str, message: str) -> None:
    right = (DEFS / "crm" / "defs.yaml").read_text()
    line = next(n for n, text in enumerate(right.splitlines(), 1) if text.strip() == old)
    clone.write("crm", right.replace(old, new))
    try:
        found = error_of(clone)
    finally:
        clone.write("crm", right)
    assert f"crm/defs.yaml:{line}: {message}" in found


def test_what_dbt_cloud_builds_is_never_taken_for_unchanged(clone: Location, defs: dg.Definitions) -> None:
    right = (DEFS / "crm" / "defs.yaml").read_text()
    trigger = "    - {dbt_cloud: {job: 1, account: 1, token: {env: DBT_CLOUD_TOKEN}}}\n  syncs:"
    stored = []
    for text in (right, right.replace("  syncs:", trigger, 1)):
        clone.write("crm", text)
        with clone.tree() as tree:
            sequence = tree.load_component("crm", expected_type=SyncSequence)
            stored.append({inputs.stored for inputs in sequence._inputs(tree.load_context).values()})
    clone.write("crm", right)
    assert stored == [{True}, {False}]


def test_the_whole_job_and_then_the_syncs_alone(
    clone: Location,
    defs: dg.Definitions,
    stored: dg.DagsterInstance,
    module_emulator: EmulatorProcess,  # noqa: F811
) -> None:
    done = run(defs, stored)
    failures = [str(e.event_specific_data) for e in done.all_events if e.is_step_failure]
    assert not failures
    found = stored.get_run_by_id(done.run_id)
    assert found
    assert found.tags["seqsync/outcome"] == "partial"
    assert int(found.tags["seqsync/rejected"]) > 0
    for name in (*SYNCS, "finish"):
        assert stored.get_latest_materialization_event(dg.AssetKey(["crm", name]))
    assert len(module_emulator.records("Workspace__c")) > 1000
    assert (clone.root / "dbt_project" / "warehouse.duckdb").exists()

    # Again without the models, which writes nothing.
    module_emulator.reset_calls()
    again = run(defs, stored, select=[dg.AssetKey(["crm", name]) for name in (*SYNCS, "finish")])
    assert again.success
    event = stored.get_latest_materialization_event(dg.AssetKey(["crm", "workspaces"]))
    assert event
    assert event.asset_materialization
    assert event.asset_materialization.metadata["seqsync/created"] == dg.MetadataValue.int(0)


def described(failure: dg.DagsterEvent) -> str:
    data = failure.step_failure_data.user_failure_data
    assert data
    return str(data.description)


def test_a_missing_secret_is_named(
    defs: dg.Definitions, stored: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SALESFORCE_CLIENT_SECRET")
    done = run(defs, stored, select=[dg.AssetKey(["crm", "workspaces"])], config={"full_resync": True})
    [failure] = [e for e in done.all_events if e.is_step_failure]
    assert "SALESFORCE_CLIENT_SECRET" in described(failure)


def test_a_failed_dbt_test_stops_its_sync(clone: Location, defs: dg.Definitions, stored: dg.DagsterInstance) -> None:
    check = dg.AssetCheckKey(dg.AssetKey("crm_workspaces"), "not_null_crm_workspaces_workspace_id")
    assert check in defs.resolve_asset_graph().asset_check_keys
    stored.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=check.asset_key, check_name=check.name, passed=False, metadata={}, blocking=True
        )
    )
    done = run(defs, stored, select=[dg.AssetKey(["crm", "workspaces"]), dg.AssetKey(["crm", "permissions"])])
    assert not done.success
    [failure] = [e for e in done.all_events if e.is_step_failure]
    text = described(failure)
    assert failure.step_key == "crm__workspaces"
    assert text.startswith("crm/workspaces: the latest evaluation of 1 dbt test on its model crm_workspaces failed:")


def test_a_sequence_is_scaffolded_from_a_dbt_model(
    clone: Location, defs: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(clone.project()))
    target = next((clone.root / "src").iterdir()) / "defs" / "crm2"
    target.mkdir()
    params = SequenceScaffoldParams(model="crm_workspaces", object="Workspace__c")
    SequenceScaffolder().scaffold(
        dg.ScaffoldRequest("seqsync_dagster.SyncSequence", target, "yaml", clone.root, params)
    )
    text = (target / "defs.yaml").read_text()
    shutil.rmtree(target)
    assert "  dbt: dbt\n" in text
    assert "      model: crm_workspaces\n      key: workspace_id\n      object: Workspace__c\n" in text
    # Its columns are in the warehouse when the demo has run, and else in dbt's own files.
    assert "        Plan__c: plan\n        Seats__c: seats\n" in text
    assert "        # Account__c: {parent: accounts, from: account_id}   # crm/accounts writes Account" in text
    with pytest.raises(click.ClickException, match="Did you mean 'crm_workspaces'"):
        SequenceScaffolder().scaffold(
            dg.ScaffoldRequest(
                "seqsync_dagster.SyncSequence",
                target,
                "yaml",
                clone.root,
                params.model_copy(update={"model": "crm_workspace"}),
            )
        )
