"""The folders of a code location that hold components."""

from __future__ import annotations

from pathlib import Path

_COMPONENT_FILES = ("defs.yaml", "defs.yml", "component.py")


def holds_component(folder: Path) -> bool:
    """Whether a component stands in this very folder."""
    return any((folder / file).is_file() for file in _COMPONENT_FILES)


def component_folders(defs: Path) -> list[str]:
    """Folders in `defs`, however deep, that hold a component."""
    files = [file for name in _COMPONENT_FILES for file in defs.rglob(name)]
    return sorted({file.parent.relative_to(defs).as_posix() for file in files})
