"""A YAML file with the place of everything in it, read as Dagster reads its own, and several times as fast.

Dagster's reader is Python throughout; this one leaves the text to libyaml where that is there. It is lent to Dagster:
reading the files of many sequences took nearly as long as building their assets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from dagster_shared.yaml_utils import parse_yamls_with_source_position
from dagster_shared.yaml_utils.source_position import (
    LineCol,
    SourcePosition,
    SourcePositionTree,
    ValueAndSourcePositionTree,
)

from seqsync_dagster.components.private import decl

#: Not everywhere is libyaml there.
LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(LOADER):  # type: ignore[misc,valid-type]
    """Dates stay text, as in the other files of a code location."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - a name of yaml's
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in LOADER.yaml_implicit_resolvers.items()
    }


@dataclass(frozen=True)
class Document:
    """One document of a file."""

    value: Any
    tree: SourcePositionTree
    repeated: tuple[tuple[str, LineCol], ...]
    """Names that stand a second time in one mapping."""


def read_documents(text: str, filename: str) -> list[Document]:
    """Every document of a file. Raises `yaml.MarkedYAMLError`, its marks naming the file."""
    loader = _Loader(text)
    try:
        return list(_documents(loader, filename))
    except yaml.MarkedYAMLError as error:
        raise _told_better(error, text, filename) from None
    finally:
        loader.dispose()


def lend_to_dagster() -> None:
    """Let Dagster read the files of a code location with this reader from now on, where it is the faster one."""
    if LOADER is not yaml.SafeLoader:
        decl.parse_yamls_with_source_position = read_for_dagster  # type: ignore[attr-defined]


def read_for_dagster(
    src: str, filename: str = "<string>", implicits_to_remove: Sequence[str] = (_TIMESTAMP,)
) -> list[ValueAndSourcePositionTree]:
    """Every document of a file, in Dagster's terms. What this reader cannot read is left to Dagster's own."""
    if list(implicits_to_remove) == [_TIMESTAMP]:
        try:
            return [ValueAndSourcePositionTree(each.value, each.tree) for each in read_documents(src, filename)]
        except (yaml.YAMLError, RecursionError):
            # A mistake is to be told in Dagster's words.
            pass
    return parse_yamls_with_source_position(src, filename, implicits_to_remove)


def _told_better(error: yaml.MarkedYAMLError, text: str, filename: str) -> yaml.MarkedYAMLError:
    """The same mistake in the words of the reader in Python, which shows the line as well."""
    try:
        list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as better:
        error = better
    mark = error.problem_mark
    if mark is not None:
        error.problem_mark = yaml.Mark(filename, mark.index, mark.line, mark.column, mark.buffer, mark.pointer)
    return error


def _documents(loader: Any, filename: str) -> Iterator[Document]:
    while loader.check_node():
        node = loader.get_node()
        # Before merge keys put the names of other mappings there as well.
        repeated = tuple(repeated_names(node))
        tree = _tree(loader, node, filename)
        yield Document(loader.construct_document(node), tree, repeated)


def _tree(loader: Any, node: yaml.Node, filename: str, key: yaml.Node | None = None) -> SourcePositionTree:
    start, end = (key or node).start_mark, (key or node).end_mark
    place = SourcePosition(filename, LineCol(start.line + 1, start.column + 1), LineCol(end.line + 1, end.column + 1))
    children: dict[Any, SourcePositionTree] = {}
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.tag == _MERGE:
                loader.flatten_mapping(node)
                return _tree(loader, node, filename, key)
            if isinstance(name, yaml.ScalarNode):
                children[loader.construct_object(name)] = _tree(loader, value, filename, name)
    elif isinstance(node, yaml.SequenceNode):
        children = {n: _tree(loader, value, filename) for n, value in enumerate(node.value)}
    return SourcePositionTree(place, children)


def repeated_names(node: yaml.Node) -> Iterator[tuple[str, LineCol]]:
    """The names that stand a second time in one mapping: YAML takes the last of them and says nothing."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    yield key.value, LineCol(key.start_mark.line + 1, key.start_mark.column + 1)
                seen.add(key.value)
            yield from repeated_names(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from repeated_names(item)
