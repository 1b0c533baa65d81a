"""One file per sync: ``syncs: {from: syncs/*.yaml}`` beside a sequence's own file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from seqsync_dagster.components.yaml_file import read_documents
from seqsync_dagster.components.yaml_source import YamlSource, not_yaml
from seqsync_dagster.sequence.strict import nearest

if TYPE_CHECKING:
    from dagster_shared.yaml_utils.source_position import SourcePositionTree


def with_sync_files(source: YamlSource) -> YamlSource:
    """The attributes with the syncs that stand in files of their own, each with the place it has there.

    A file holds one sync as it would stand in the list; its `name` is the file's unless it says another.
    Raises `ConfigurationError`, for a file that is no such thing with that file and its line.
    """
    asked = source.raw.get("syncs") if isinstance(source.raw, dict) else None
    if not isinstance(asked, dict) or source.tree is None:
        return source
    for name in asked:
        if name != "from":
            raise source.error(
                f"syncs: unknown name {str(name)!r}.{nearest(str(name), ['from'])} "
                "syncs is a list of syncs, or {from: syncs/*.yaml}.",
                "syncs",
                name,
            )
    patterns = asked.get("from")
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, list) or not patterns or not all(isinstance(p, str) for p in patterns):
        raise source.error("syncs.from is a path or a list of paths, e.g. syncs/*.yaml.", "syncs", "from")
    folder = Path(source.tree.position.filename).parent
    files: dict[Path, None] = {}
    for pattern in patterns:
        found = _matching(folder, pattern)
        if not found:
            around = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.y*ml") if p.name != "defs.yaml")
            raise source.error(
                f"syncs.from: no file matches {pattern!r} in {folder}.{nearest(pattern, around)} "
                f"YAML files there: {', '.join(around[:20]) or 'none'}.",
                "syncs",
                "from",
            )
        files.update(dict.fromkeys(found))
    read = [_read(source, file) for file in files]
    # Each sync keeps its place in its own file: a tree may have branches in several.
    top = source.tree.children["syncs"]._replace(children={n: tree for n, (_, tree) in enumerate(read)})
    tree = source.tree._replace(children={**source.tree.children, "syncs": top})
    return replace(source, raw={**source.raw, "syncs": [raw for raw, _ in read]}, tree=tree)


def _matching(folder: Path, pattern: str) -> list[Path]:
    if Path(pattern).is_absolute():
        return sorted(Path("/").glob(pattern.lstrip("/")))
    return sorted(p for p in folder.glob(pattern) if p.is_file() and p.name not in ("defs.yaml", "defs.yml"))


def _read(source: YamlSource, file: Path) -> tuple[Any, SourcePositionTree]:
    try:
        documents = read_documents(file.read_text(encoding="utf-8"), str(file))
    except yaml.MarkedYAMLError as error:
        raise not_yaml(error) from None
    except (OSError, UnicodeDecodeError) as error:
        raise source.error(f"syncs.from: {file} cannot be read: {error}.", "syncs", "from") from None
    if len(documents) != 1 or not isinstance(documents[0].value, dict):
        what = "is empty" if not documents else "holds several documents" if len(documents) > 1 else "is no mapping"
        raise source.error(
            f"{file}:1: the file {what}; it holds one sync, as it would stand in syncs: name, model, key, object, ...",
            "syncs",
            "from",
        )
    [document] = documents
    source.refuse_repeated(str(file), document.repeated)
    return {"name": file.stem, **document.value}, document.tree
