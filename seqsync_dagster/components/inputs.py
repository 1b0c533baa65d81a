"""What a sync reads, as Dagster knows it: asset keys, tests, and the relation in the warehouse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from seqsync_dagster.warehouse.source import ModelSource

if TYPE_CHECKING:
    from seqsync_dagster.sequence.sync import SyncSpec


@dataclass(frozen=True)
class Inputs:
    """The model of one sync."""

    source: ModelSource
    model: dg.AssetKey | None
    """The dbt model's asset; none when the sync reads a table or a query."""
    deps: tuple[dg.AssetKey, ...]
    """Assets that must be built before the sync, the model among them."""
    tests: tuple[dg.AssetCheckKey, ...] = ()
    """dbt tests of the model whose failure closes the gate."""
    builds: frozenset[dg.AssetKey] = frozenset()
    """The model and everything that dbt builds it from."""
    stored: bool = False
    """dbt writes the model's rows down, so that they are as its latest build left them; a view's are not."""

    @classmethod
    def of_relation(cls, sync: SyncSpec) -> Inputs:
        """Of a sync that reads a table or a query."""
        if sync.table:
            source = ModelSource.of_table(sync.table)
        else:
            source = ModelSource(label=f"query of {sync.name}", query=sync.query)
        return cls(source=source, model=None, deps=_asset_keys(sync))

    @classmethod
    def of_model(cls, sync: SyncSpec, source: ModelSource, key: dg.AssetKey, dbt: DbtGraph, *, stored: bool) -> Inputs:
        """Of a sync that reads a dbt model."""
        return cls(
            source=source,
            model=key,
            deps=tuple(dict.fromkeys((key, *_asset_keys(sync)))),
            tests=dbt.tests_of(key),
            builds=dbt.upstream_of(key),
            stored=stored,
        )

    def build(self, instance: dg.DagsterInstance) -> str | None:
        """Which materialisation the model's rows are of, as far as Dagster knows; None when it cannot know."""
        if self.model is None or not self.stored:
            return None
        latest = next(iter(instance.fetch_materializations(self.model, limit=1).records), None)
        # The number alone begins anew with Dagster's storage.
        return None if latest is None else f"{latest.storage_id} of {latest.run_id} at {latest.timestamp}"


class DbtGraph:
    """Which dbt asset is built from which, and its tests, as the dbt component defines them."""

    def __init__(self, defs: dg.Definitions) -> None:
        self._parents: dict[dg.AssetKey, list[dg.AssetKey]] = {}
        self._tests: dict[dg.AssetKey, list[dg.AssetCheckKey]] = {}
        for assets in defs.assets or ():
            if isinstance(assets, dg.AssetsDefinition):
                for spec in assets.specs:
                    self._parents[spec.key] = [dep.asset_key for dep in spec.deps]
                for check in assets.check_specs:
                    # dagster-dbt marks tests of severity error as blocking, and those that warn not.
                    if check.blocking:
                        self._tests.setdefault(check.asset_key, []).append(check.key)

    def __contains__(self, key: dg.AssetKey) -> bool:
        return key in self._parents

    def tests_of(self, key: dg.AssetKey) -> tuple[dg.AssetCheckKey, ...]:
        """Tests of error severity."""
        return tuple(self._tests.get(key, ()))

    def upstream_of(self, key: dg.AssetKey) -> frozenset[dg.AssetKey]:
        """The asset and all its ancestors that dbt builds; sources are not built."""
        found: set[dg.AssetKey] = set()
        waiting = [key]
        while waiting:
            next_key = waiting.pop()
            if next_key in self._parents and next_key not in found:
                found.add(next_key)
                waiting.extend(self._parents[next_key])
        return frozenset(found)


def all_builds(inputs: Mapping[str, Inputs]) -> frozenset[dg.AssetKey]:
    """Every dbt asset that one of the syncs is built from."""
    return frozenset[dg.AssetKey]().union(*(i.builds for i in inputs.values()))


def all_deps(inputs: Iterable[Inputs]) -> tuple[dg.AssetKey, ...]:
    """Every asset that one of the syncs reads, once, in order."""
    return tuple(dict.fromkeys(key for i in inputs for key in i.deps))


def _asset_keys(sync: SyncSpec) -> tuple[dg.AssetKey, ...]:
    return tuple(dg.AssetKey.from_user_string(dep) for dep in sync.deps)
