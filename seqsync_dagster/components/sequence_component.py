"""A sequence of syncs as a component."""

# No postponed annotations here: Dagster reads those of the asset functions.

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self, TypeVar

import dagster as dg
from pydantic import BaseModel

from seqsync_dagster.components import checks, executors, metadata, options
from seqsync_dagster.components.alert_sensor import build_watch
from seqsync_dagster.components.alerting import alerting, check_addresses, has_alerts
from seqsync_dagster.components.assets import Step, run_finish_step, run_sync_step
from seqsync_dagster.components.describing import describe
from seqsync_dagster.components.destination_component import Connection
from seqsync_dagster.components.drift import run_drift_step
from seqsync_dagster.components.editor_schema import for_editors
from seqsync_dagster.components.folders import component_folders, holds_component
from seqsync_dagster.components.inputs import DbtGraph, Inputs, all_builds, all_deps
from seqsync_dagster.components.objects import Writers, object_specs, writers_of
from seqsync_dagster.components.outcome import SEQUENCE
from seqsync_dagster.components.plan_job import Planning, build_plan_job
from seqsync_dagster.components.scaffolding import SequenceScaffolder
from seqsync_dagster.components.sync_files import with_sync_files
from seqsync_dagster.components.tracing import trace
from seqsync_dagster.components.triggers import Target, build_triggers, check_after, needs_others
from seqsync_dagster.components.warehouse_component import Warehouse
from seqsync_dagster.components.watching import Watch
from seqsync_dagster.components.yaml_file import lend_to_dagster
from seqsync_dagster.components.yaml_source import Location, YamlSource, as_written, unknown_name
from seqsync_dagster.errors import SeqsyncError
from seqsync_dagster.sequence.graph import order, waits_for
from seqsync_dagster.sequence.spec import SequenceSpec
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.sequence.triggers import DbtCloudTrigger
from seqsync_dagster.sequence.words import FINISH

if TYPE_CHECKING:
    from seqsync_dagster.engine.run import Site
    from seqsync_dagster.engine.telling import Tell
    from seqsync_dagster.journal.store import Journal

Kind = TypeVar("Kind", bound=dg.Component)

# Dagster meets this class in the first file of a sequence; there may be hundreds more to read.
lend_to_dagster()


@dg.scaffold_with(SequenceScaffolder)
@dataclass
class SyncSequence(dg.Component):
    """Syncs that run in the order their references demand: parents before children, as one job.

    Each sync sends one warehouse model to one destination object and is one asset
    `<sequence>/<sync>`; `<sequence>/finish` closes the sequence with the references that rows went
    without, and the removals, children first.
    The job `<sequence>` builds the dbt models upstream, with their tests, and runs the syncs; a
    sync whose model fails a dbt test of severity error sends nothing.

    .. code-block:: yaml

        # defs/crm/defs.yaml
        type: seqsync_dagster.SyncSequence
        attributes:
          name: crm
          warehouse: warehouse          # folders in defs/
          destination: salesforce
          dbt: dbt
          runs_on:
            - {cron: "0 * * * *", timezone: Europe/Paris}
            - {models: all}
          syncs:
            - name: accounts
              model: crm_accounts       # a dbt model; or table: or query:, with deps:
              key: account_id
              object: Account
              match: External_Id__c
              fields:
                Name: name
                ParentId: {parent: accounts, from: parent_account_id}
            - name: contacts
              model: crm_contacts
              key: contact_id
              object: Contact
              match: External_Id__c
              sensitive: email
              fields:
                LastName: last_name
                Email: email
                LeadSource: {constant: Product}
                AccountId: {parent: accounts, from: account_id}

    The job `<sequence>_plan` tells what a run would do and sends nothing; what it found can then be
    sent exactly as it was read, with the run option `plan_id`.

    Run options (config of the job): `full_resync`, `only_keys`, `limit`, `approve_plan`, `plan_id`,
    `rebuild_ledger`, and for single rows `requeue`, `skip_once`, `skip_always`.
    A wrong file fails at load with file, line, and the nearest right name.
    """

    spec: SequenceSpec
    source: YamlSource = field(default_factory=lambda: YamlSource(None, {}), repr=False)

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The attributes' schema, for editors."""
        return as_written(SequenceSpec, for_editors)

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """From YAML. Raises `ConfigurationError` with file and line of every mistake."""
        source = with_sync_files(YamlSource.of(attributes, context))
        return cls(spec=source.validate(SequenceSpec, is_tag=_is_tag), source=source)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Assets, checks, job, schedules and sensor of the sequence."""
        if "__" in self.spec.name:
            # Operations are named <sequence>__<sync>, and one must never have the name of a job.
            raise self.source.error(f"name {self.spec.name!r}: two underscores in a row are ours to use.", "name")
        warehouse = self._component(context, "warehouse", self.spec.warehouse, Warehouse)
        connection = self._component(context, "destination", self.spec.destination, Connection)  # type: ignore[type-abstract]
        self._check_options(connection)
        check_addresses(self.spec, self.source.error)
        inputs = self._inputs(context)
        assets = [
            *(self._sync_asset(self.spec.sync(n), inputs[n], warehouse, connection) for n in order(self.spec)),
            self._finish_asset(warehouse, connection),
        ]
        syncs = [asset.key for asset in assets]
        drifts = [
            self._drift_check(sync, inputs[sync.name], warehouse, connection)
            for sync in self.spec.syncs
            if sync.drift is not None
        ]

        triggers = list(self._triggers(context, tuple(syncs), inputs, warehouse))
        return dg.Definitions(
            assets=[*assets, *self._object_specs(context, connection)],
            asset_checks=drifts,
            jobs=[
                self._job([*syncs, *sorted(all_builds(inputs))]),
                self._plan_job(inputs, warehouse, connection),
                *self._drift_job(),
            ],
            schedules=[each for each in triggers if isinstance(each, dg.ScheduleDefinition)],
            sensors=[
                *(each for each in triggers if isinstance(each, dg.SensorDefinition)),
                *([build_watch(self.spec, lambda: self.open_journal(warehouse))] if has_alerts(self.spec) else []),
            ],
            resources={options.RESOURCE: options.OPTIONS},
        )

    def _triggers(
        self,
        context: dg.ComponentLoadContext,
        syncs: tuple[dg.AssetKey, ...],
        inputs: Mapping[str, Inputs],
        warehouse: Warehouse,
    ) -> Iterator[dg.ScheduleDefinition | dg.SensorDefinition]:
        target = Target(self.spec.name, syncs, lambda: self.held_by(warehouse), self.source.error)
        # The other sequences are looked through only for one that names another: with many of them that takes long.
        if needs_others(self.spec):
            others = context.component_tree.get_all_components(SyncSequence)
            check_after(self.spec, {other.spec.name: other.spec for other in others}, target)
        yield from build_triggers(self.spec, target, all_deps(inputs.values()))

    def get_asset_spec(self, sync: SyncSpec, inputs: Inputs, kind: str) -> dg.AssetSpec:
        """The asset of one sync. Override to change how it is shown; the key must stay."""
        return dg.AssetSpec(
            self.key_of(sync.name),
            deps=[*inputs.deps, *(self.key_of(other) for other in waits_for(self.spec, sync.name))],
            group_name=self.spec.name,
            description=describe(sync),
            owners=[*(sync.owners or self.spec.owners)],
            kinds={kind, *sync.kinds},
            tags={**self.spec.tags, **sync.tags, SEQUENCE: self.spec.name},
            metadata={
                **metadata.of_definition(self.spec, sync, inputs.model),
                **metadata.of_links({**self.spec.links, **sync.links}),
                **self._place_of(sync),
            },
            freshness_policy=_freshness(sync.fresh_within or self.spec.fresh_within),
        )

    def _place_of(self, sync: SyncSpec) -> Mapping[str, Any]:
        """The line that the sync stands at, for Dagster to lead there; it adds that of the sequence by itself."""
        index = next(n for n, each in enumerate(self.spec.syncs) if each.name == sync.name)
        place = self.source.position("syncs", index)
        if place is None:
            return {}
        reference = dg.LocalFileCodeReference(
            file_path=place.filename, line_number=place.start.line, label=f"sync {sync.name}"
        )
        return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference])}

    def _object_specs(self, context: dg.ComponentLoadContext, connection: Connection) -> Iterator[dg.AssetSpec]:
        if self.spec.show_objects:
            yield from object_specs(self.spec, _writers(context.component_tree), connection.kind)

    def get_finish_spec(self, kind: str) -> dg.AssetSpec:
        """The closing asset. Override to change how it is shown; the key must stay."""
        deletes = [s.name for s in self.spec.syncs if s.removed == "delete"]
        named = [s.name for s in self.spec.syncs if s.mode == "delete"]
        clears = [s.name for s in self.spec.syncs if s.removed == "clear"]
        what = f"Deletes the records whose rows left {', '.join(deletes)}, children before parents. " if deletes else ""
        what += f"Deletes the records that {', '.join(named)} name. " if named else ""
        what += f"Empties the records whose rows left {', '.join(clears)}. " if clears else ""
        if fields := self._filled_later():
            what = f"Fills in references that rows went without ({', '.join(fields)}). {what}"
        return dg.AssetSpec(
            self.key_of(FINISH),
            deps=[self.key_of(sync.name) for sync in self.spec.syncs],
            group_name=self.spec.name,
            description=f"Closes the sequence {self.spec.name}. {what}Its metadata sums up what was removed.",
            owners=[*self.spec.owners],
            kinds={kind},
            tags={SEQUENCE: self.spec.name},
        )

    def key_of(self, sync: str) -> dg.AssetKey:
        """Asset key of one of the sequence's syncs, or of `finish`."""
        return dg.AssetKey([self.spec.name, sync])

    @contextmanager
    def open_site(self, warehouse: Warehouse, connection: Connection, tell: "Tell | None" = None) -> Iterator["Site"]:
        """Warehouse, journal and destination for one step; everything is closed again when it ends.

        `tell` hears what the run does.
        """
        from contextlib import closing

        from seqsync_dagster.engine.run import Site
        from seqsync_dagster.engine.telling import to_nobody
        from seqsync_dagster.journal.store import Journal

        opened, journal_url = warehouse.open()
        with closing(opened), Journal(journal_url) as journal, closing(connection.connect()) as destination:
            yield Site(
                sequence=self.spec,
                warehouse=opened,
                journal=journal,
                destination=destination,
                tell=tell or to_nobody,
            )

    def held_by(self, warehouse: Warehouse) -> str | None:
        """Which living run is at work on one of the sequence's syncs, and on which; None when nobody is."""
        from seqsync_dagster.journal.lease import Scope

        with self.open_journal(warehouse) as journal:
            for sync in self.spec.syncs:
                scope = Scope(self.spec.name, sync.name)
                if holder := journal.holder(scope):
                    return f"{scope} is held by {holder}"
        return None

    def _step(self, key: dg.AssetKey, warehouse: Warehouse, connection: Connection) -> Step:
        return Step(
            key,
            open_site=lambda tell: self.open_site(warehouse, connection, tell),
            open_journal=lambda: self.open_journal(warehouse),
            sequence=self.spec,
            in_turn=lambda: self._in_turn(warehouse),
            watches=self.watches(warehouse),
        )

    def watches(self, warehouse: Warehouse) -> Sequence[Watch]:
        """Who follows the steps of this sequence. Override to add your own."""
        told = [alerting(lambda: self.open_journal(warehouse))] if has_alerts(self.spec) else []
        return (trace, *told)

    @contextmanager
    def open_journal(self, warehouse: Warehouse) -> Iterator["Journal"]:
        """The journal alone, for what can be known without warehouse and destination."""
        from seqsync_dagster.journal.store import Journal

        with Journal(warehouse.journal_url()) as journal:
            yield journal

    @contextmanager
    def _in_turn(self, warehouse: Warehouse) -> Iterator[None]:
        with ExitStack() as opened:
            if executors.runs_in_processes(self.spec):
                # Tags that are a little wrong are better than a run that fails for them.
                with suppress(SeqsyncError):
                    journal = opened.enter_context(self.open_journal(warehouse))
                    opened.enter_context(journal.in_turn())
            yield

    def _sync_asset(
        self, sync: SyncSpec, inputs: Inputs, warehouse: Warehouse, connection: Connection
    ) -> dg.AssetsDefinition:
        spec = self.get_asset_spec(sync, inputs, connection.kind)
        step = self._step(spec.key, warehouse, connection)

        # A multi_asset of one asset: only as a subset are its checks optional, and they are when nothing was sent.
        @dg.multi_asset(
            name=f"{self.spec.name}__{sync.name}",
            specs=[spec],
            check_specs=checks.check_specs(spec.key),
            can_subset=True,
            pool=self.spec.destination,
        )
        def sync_asset(context: dg.AssetExecutionContext, seqsync: options.RunOptionsResource) -> Iterator[Any]:
            yield from run_sync_step(context, seqsync, step, inputs)

        return sync_asset

    def _finish_asset(self, warehouse: Warehouse, connection: Connection) -> dg.AssetsDefinition:
        spec = self.get_finish_spec(connection.kind)
        step = self._step(spec.key, warehouse, connection)

        @dg.multi_asset(
            name=f"{self.spec.name}__{FINISH}",
            specs=[spec],
            check_specs=[
                checks.removals_spec(spec.key),
                *([checks.references_spec(spec.key)] if self._filled_later() else []),
            ],
            can_subset=True,
            pool=self.spec.destination,
        )
        def finish_asset(context: dg.AssetExecutionContext, seqsync: options.RunOptionsResource) -> Iterator[Any]:
            yield from run_finish_step(context, seqsync, step)

        return finish_asset

    def _filled_later(self) -> list[str]:
        later = [(sync, slot) for sync in self.spec.syncs for slot in sync.filled_later()]
        return list(dict.fromkeys(f"{sync.name}.{sync.field_of(slot)}" for sync, slot in later))

    def _drift_check(
        self, sync: SyncSpec, inputs: Inputs, warehouse: Warehouse, connection: Connection
    ) -> dg.AssetChecksDefinition:
        key = self.key_of(sync.name)
        step = self._step(key, warehouse, connection)
        heals = sync.drift is not None and sync.drift.heal

        # An operation of its own: the asset's can only tell what a run did, this one can be executed by itself.
        @dg.multi_asset_check(
            name=f"{self.spec.name}__{sync.name}__{checks.DRIFT}", specs=[checks.drift_spec(key, heals=heals)]
        )
        def drift_check(context: dg.AssetCheckExecutionContext) -> Iterator[Any]:
            yield run_drift_step(context, step, inputs)

        return drift_check

    def _drift_job(self) -> Iterator[Any]:
        selected = self._drift_checks()
        if selected:
            yield dg.define_asset_job(
                f"{self.spec.name}_{checks.DRIFT}",
                dg.AssetSelection.checks(*selected),
                description=f"Compares the records of {self.spec.name} with what was acknowledged. Sends nothing.",
                executor_def=executors.LOOSE_IN_PROCESS,
                tags={SEQUENCE: self.spec.name},
                owners=list(self.spec.owners) or None,
            )

    def _plan_job(self, inputs: Mapping[str, Inputs], warehouse: Warehouse, connection: Connection) -> dg.JobDefinition:
        in_order = {name: inputs[name] for name in order(self.spec)}
        planning = Planning(self.spec.name, in_order, lambda: self.open_site(warehouse, connection))
        return build_plan_job(planning, self.spec.owners)

    def _drift_checks(self, *, in_job: bool | None = None) -> list[dg.AssetCheckKey]:
        return [
            dg.AssetCheckKey(self.key_of(sync.name), checks.DRIFT)
            for sync in self.spec.syncs
            if sync.drift is not None and in_job in (None, sync.drift.in_job)
        ]

    def _job(self, selection: list[dg.AssetKey]) -> Any:
        # A job has every check of its assets unless told otherwise, and this one reads every record back.
        apart = self._drift_checks(in_job=False)
        selected = dg.AssetSelection.assets(*selection)
        return dg.define_asset_job(
            self.spec.name,
            selected - dg.AssetSelection.checks(*apart) if apart else selected,
            config=options.at_the_top,
            description=self.spec.description
            or f"Builds the models and sends them: {', '.join(order(self.spec))}, then {FINISH}.",
            executor_def=executors.executor_of(self.spec),
            tags={**self.spec.tags, SEQUENCE: self.spec.name},
            owners=list(self.spec.owners) or None,
        )

    def _check_options(self, connection: Connection) -> None:
        for index, sync in enumerate(self.spec.syncs):
            for remark in connection.remarks(sync.object, sync.options):
                if remark.problem:
                    message = f"sync {sync.name!r}: options: {remark.text}"
                    raise self.source.error(message, "syncs", index, "options", remark.name)

    def _inputs(self, context: dg.ComponentLoadContext) -> Mapping[str, Inputs]:
        found: dict[str, Inputs] = {}
        for index, sync in enumerate(self.spec.syncs):
            if sync.model is None:
                found[sync.name] = Inputs.of_relation(sync)
            else:
                found[sync.name] = self._dbt_input(context, index, sync, sync.model)
        return found

    def _dbt_input(self, context: dg.ComponentLoadContext, index: int, sync: SyncSpec, model: str) -> Inputs:
        if self.spec.dbt is None:
            raise self.source.error(
                f"sync {sync.name!r}: model {model!r} is a dbt model, and this sequence has dbt: null. "
                "Name the dbt project's folder in dbt, or read the relation with table.",
                "syncs",
                index,
                "model",
            )
        # Imported here: without dbt models a code location needs no dbt.
        from seqsync_dagster.components.dbt import DbtProject

        project = self._component(context, "dbt", self.spec.dbt, DbtProject)
        models = project.models()
        if model not in models:
            raise self.source.error(
                f"sync {sync.name!r}: {unknown_name('dbt model', model, models, 'Models')}", "syncs", index, "model"
            )
        graph = DbtGraph(context.build_defs(self.spec.dbt))
        key = project.asset_key_for_model(model)
        if key not in graph:
            raise self.source.error(
                f"sync {sync.name!r}: the dbt model {model!r} is there, but the component in defs/{self.spec.dbt} "
                "does not select it. Widen its select.",
                "syncs",
                index,
                "model",
            )
        stored = models[model].get("config", {}).get("materialized") in ("table", "incremental", "snapshot", "seed")
        # What dbt Cloud builds Dagster is not told, so "not built again" would not mean "not changed".
        stored = stored and not any(isinstance(trigger, DbtCloudTrigger) for trigger in self.spec.runs_on)
        return Inputs.of_model(sync, project.source_of(model), key, graph, stored=stored)

    def _component(self, context: dg.ComponentLoadContext, what: str, name: str, kind: type[Kind]) -> Kind:
        # All folders are looked through for the message only: with many sequences that takes long.
        if not holds_component(context.defs_module_path / name):
            folders = component_folders(context.defs_module_path)
            raise self.source.error(f"{what}: {unknown_name('folder in defs/', name, folders, 'Folders')}", what)
        component = context.load_component(name)
        if not isinstance(component, kind):
            raise self.source.error(
                f"{what}: defs/{name} holds a {type(component).__name__}, and a {kind.__name__} is needed here.", what
            )
        return component


# Looked for once for a code location, and not once for each of its sequences.
@lru_cache(maxsize=1)
def _writers(tree: dg.ComponentTree) -> Writers:
    return writers_of(each.spec for each in tree.get_all_components(SyncSequence))


def _freshness(within: timedelta | None) -> dg.FreshnessPolicy | None:
    return None if within is None else dg.FreshnessPolicy.time_window(fail_window=within)


def _is_tag(location: Location) -> bool:
    # pydantic puts the arm of a union into an error's location.
    match location:
        case ("syncs", int(), "fields", _, _) | ("runs_on", int(), _) | ("syncs", int(), "changed_since", _):
            return True
    return False
