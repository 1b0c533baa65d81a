"""A YAML file with the place of everything in it, read as Dagster reads its own, and several times as fast.

Dagster's reader is Python throughout; this one leaves the text to libyaml where that is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from dagster_shared.yaml_utils.source_position import LineCol, SourcePosition, SourcePositionTree

#: Not everywhere is libyaml there.
LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


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
    node: yaml.Node


def read_documents(text: str, filename: str) -> list[Document]:
    """Every document of a file. Raises `yaml.MarkedYAMLError`, its marks naming the file."""
    loader = _Loader(text)
    try:
        return list(_documents(loader, filename))
    except yaml.MarkedYAMLError as error:
        raise _told_better(error, text, filename) from None
    finally:
        loader.dispose()


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
        tree = _tree(loader, node, filename)
        yield Document(loader.construct_document(node), tree, node)


def _tree(loader: Any, node: yaml.Node, filename: str, key: yaml.Node | None = None) -> SourcePositionTree:
    start, end = (key or node).start_mark, (key or node).end_mark
    place = SourcePosition(filename, LineCol(start.line + 1, start.column + 1), LineCol(end.line + 1, end.column + 1))
    children: dict[Any, SourcePositionTree] = {}
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if isinstance(name, yaml.ScalarNode):
                children[loader.construct_object(name)] = _tree(loader, value, filename, name)
    elif isinstance(node, yaml.SequenceNode):
        children = {n: _tree(loader, value, filename) for n, value in enumerate(node.value)}
    return SourcePositionTree(place, children)
