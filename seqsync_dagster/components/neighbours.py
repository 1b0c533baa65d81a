"""What stands in `defs/` already, told from its files: only what is needed is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dagster as dg
import yaml

from seqsync_dagster.components.folders import component_folders
from seqsync_dagster.components.sequence_component import SyncSequence
from seqsync_dagster.components.yaml_file import LOADER
from seqsync_dagster.components.yaml_source import mistake_behind
from seqsync_dagster.errors import ConfigurationError


@dataclass(frozen=True)
class Writer:
    """A sync of the location."""

    sequence: str
    sync: str
    object: str


class Neighbours:
    """The components of a code location, by folder."""

    def __init__(self, tree: dg.ComponentTree) -> None:
        self._tree = tree

    @cached_property
    def _found(self) -> Mapping[str, tuple[type[dg.Component], Mapping[str, Any]]]:
        found = {}
        for folder in sorted(set(component_folders(self._tree.defs_module_path))):
            for file in (self._tree.defs_module_path / folder / name for name in ("defs.yaml", "defs.yml")):
                for written in _documents(file):
                    kind = _class_of(str(written.get("type", "")))
                    if kind is not None:
                        attributes = written.get("attributes")
                        found[folder] = (kind, attributes if isinstance(attributes, dict) else {})
        return found

    def folders(self, kind: type[dg.Component]) -> list[str]:
        """Where components of a kind stand."""
        return [folder for folder, (found, _) in self._found.items() if issubclass(found, kind)]

    def has_dbt(self) -> bool:
        """Whether there is any dbt project. Told by name: dbt is imported for those only who have one."""
        return any("Dbt" in base.__name__ for found, _ in self._found.values() for base in found.__mro__)

    def load(self, folder: str) -> dg.Component:
        """The component in a folder. Raises `ConfigurationError` for a mistake in its file, or in one on the way."""
        try:
            component: dg.Component = self._tree.load_component(folder)
        except Exception as error:
            mistake = mistake_behind(error)
            raise mistake or ConfigurationError(
                f"defs/{folder} cannot be loaded ({type(error).__name__}). See what is wrong with: dg check defs"
            ) from None
        return component

    @property
    def sequences(self) -> Mapping[str, str]:
        """Name of each sequence -> its folder."""
        return {str(self._found[f][1].get("name")): f for f in self.folders(SyncSequence)}

    def writers(self, destination: str) -> Sequence[Writer]:
        """The syncs that write to a connection, as far as they stand in their sequence's own file."""
        written = []
        for folder in self.folders(SyncSequence):
            attributes = self._found[folder][1]
            syncs = attributes.get("syncs")
            if attributes.get("destination") == destination and isinstance(syncs, list):
                sequence = str(attributes.get("name"))
                written += [
                    Writer(sequence, str(sync.get("name")), str(sync.get("object")))
                    for sync in syncs
                    if isinstance(sync, dict)
                ]
        return written


def neighbours(tree: dg.ComponentTree) -> Neighbours:
    """Of the project of this tree."""
    return Neighbours(tree)


def _documents(file: Any) -> list[Mapping[str, Any]]:
    try:
        documents = list(yaml.load_all(file.read_text(encoding="utf-8"), Loader=LOADER))
    except (OSError, yaml.YAMLError):
        # What is wrong with other files is told when they are loaded.
        return []
    return [d for d in documents if isinstance(d, dict)]


def _class_of(name: str) -> type[dg.Component] | None:
    module, _, attribute = name.rpartition(".")
    if not module:
        return None
    try:
        found = getattr(__import__(module, fromlist=[attribute]), attribute)
    except (ImportError, AttributeError):
        return None
    return found if isinstance(found, type) and issubclass(found, dg.Component) else None
