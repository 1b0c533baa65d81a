"""Errors in YAML that say file, line, what is wrong, and what would be right.

Dagster validates a component's attributes before the component sees them, points at the nearest
enclosing list item, and cannot carry the error types of our own models. So the models are handed
to Dagster for their JSON schema only, and the validation is done here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, RootModel, ValidationError

from seqsync_dagster.components.yaml_file import LOADER, repeated_names
from seqsync_dagster.errors import ConfigurationError
from seqsync_dagster.sequence.strict import nearest

if TYPE_CHECKING:
    import dagster as dg
    from dagster_shared.yaml_utils.source_position import LineCol, SourcePosition, SourcePositionTree
    from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[str | int, ...]

#: A line that holds a secret where only the name of one should be, or an address, which may hold one: no error may
#: show it.
_SECRET = re.compile(r"://|\btoken\s*:(?!\s*(\{\s*env\s*:\s*\w+\s*\}|#|$))")


def as_written(
    spec: type[BaseModel], adjust: Callable[[dict[str, Any]], dict[str, Any]] = lambda schema: schema
) -> type[BaseModel]:
    """A model that takes any attributes as they are, and shows the JSON schema of `spec` to editors, adjusted."""

    class AsWritten(RootModel[Any]):
        @classmethod
        def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return adjust(spec.model_json_schema(*args, **kwargs))

        @classmethod
        def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
            # Asked when `dg` writes one schema of all components: there, names of its parts would lead nowhere.
            schema = cls.model_json_schema()
            inlined: dict[str, Any] = _inlined(schema, schema.pop("$defs", {}))
            return inlined

    AsWritten.__name__ = AsWritten.__qualname__ = spec.__name__
    return AsWritten


def _inlined(schema: Any, parts: dict[str, Any]) -> Any:
    """A schema with its parts in their places instead of references to them. None of ours is part of itself."""
    if isinstance(schema, list):
        return [_inlined(each, parts) for each in schema]
    if not isinstance(schema, dict):
        return schema
    whole = {name: _inlined(each, parts) for name, each in schema.items() if name != "$ref"}
    if "$ref" in schema:
        part = parts[str(schema["$ref"]).rpartition("/")[2]]
        # What is said at the place of use is closer than what the part says of itself.
        whole = {**_inlined(part, parts), **whole}
    # Lists its parts by their names once more.
    whole.pop("discriminator", None)
    return whole


@dataclass(frozen=True)
class YamlSource:
    """Where one component stands in YAML; nowhere when it was made in Python."""

    tree: SourcePositionTree | None
    raw: Any
    quote: bool = True
    """Whether an error may show the line it is about. Not where the line may hold a secret."""

    @classmethod
    def of(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext, *, quote: bool = True) -> YamlSource:
        """Of the component that `context` is loading, whose attributes came through `as_written`."""
        tree = context.resolution_context.source_position_tree
        raw = attributes.root if isinstance(attributes, RootModel) else {}
        return cls(tree.children.get("attributes", tree) if tree else None, raw, quote)

    def error(self, message: str, *location: str | int) -> ConfigurationError:
        """The error with file and line of the attribute at `location`, or of the nearest one around it."""
        if self.tree is None:
            return ConfigurationError(message)
        position = _closest(self.tree, location).position
        return ConfigurationError(_at(position.filename, position.start, message, self._quotes(location)))

    def _quotes(self, location: Sequence[str | int]) -> bool:
        return self.quote and "alerts" not in location

    def position(self, *location: str | int) -> SourcePosition | None:
        """Where the attribute at `location` stands, or the nearest one around it; None without a file."""
        return _closest(self.tree, location).position if self.tree is not None else None

    def validate(self, spec: type[Model], *, is_tag: Callable[[Location], bool] = lambda location: False) -> Model:
        """The attributes as a `spec`. Raises `ConfigurationError` with every mistake found.

        `is_tag` tells locations that pydantic makes up (the arms of a union) from those in the file.
        """
        if self.tree is not None:
            self._refuse_repeated_names(self.tree)
        try:
            return spec.model_validate(self.raw)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=True)
        known = [f.alias or name for name, f in spec.model_fields.items()]
        mistakes = list(dict.fromkeys(self._mistake(e, is_tag, known) for e in found))
        raise ConfigurationError("\n".join(mistakes)) from None

    def _mistake(self, error: ErrorDetails, is_tag: Callable[[Location], bool], known: Collection[str]) -> str:
        location: Location = ()
        full: Location = ()
        for part in error["loc"]:
            full += (part,)
            if not is_tag(full) and part != "[key]":
                location += (part,)
        location = self._shared(location)
        message = _worded(error, location, known)
        if name := _name_of_item(self.raw, location):
            # The place is searched by what the message names inside the sync, not by the sync's own name.
            message = message.removeprefix(f"sync {name!r}: ")
        place = self.tree and _narrowed(_closest(self.tree, location), self.raw, location, message)
        if name:
            message = f"sync {name!r}: {message}"
        quote = self._quotes(location)
        return _at(place.position.filename, place.position.start, message, quote) if place else message

    def _shared(self, location: Location) -> Location:
        """Where in the file it stands: what a sync does not say itself, the defaults of its sequence say."""
        if location[:1] != ("syncs",) or len(location) < 3 or not isinstance(self.raw, dict):
            return location
        defaults = self.raw.get("defaults")
        if _depth(defaults, location[2:]) > _depth(_at_path(self.raw, location[:2]), location[2:]):
            return ("defaults", *location[2:])
        return location

    def refuse_repeated(self, file: str, names: Iterable[tuple[str, LineCol]]) -> None:
        """Raise `ConfigurationError` for the first of these `repeated_names`."""
        for name, start in names:
            message = f"{name!r} stands twice in the same mapping; only the last one would count. Take one out."
            raise ConfigurationError(_at(file, start, message, self.quote))

    def _refuse_repeated_names(self, tree: SourcePositionTree) -> None:
        file = tree.position.filename
        for node in _nodes(Path(file), tree.position.start.line):
            self.refuse_repeated(file, repeated_names(node))


def unknown_name(what: str, name: str, known: Collection[str], plural: str) -> str:
    """`` no WHAT 'x'. Did you mean 'y'? PLURAL: ...``, the list cut when it is long."""
    shown = sorted(known)
    listed = ", ".join(shown[:20]) + (f" and {len(shown) - 20} more" if len(shown) > 20 else "")
    return f"no {what} {name!r}.{nearest(name, known)} {plural}: {listed or 'none'}."


def mistake_behind(error: BaseException) -> ConfigurationError | None:
    """The mistake in a file that made Dagster raise `error`, if that is what it was."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigurationError):
            return cause
        if isinstance(cause, yaml.MarkedYAMLError) and cause.problem_mark is not None:
            return not_yaml(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def not_yaml(error: yaml.MarkedYAMLError) -> ConfigurationError:
    """A file that YAML cannot read, with its line."""
    mark = error.problem_mark
    if mark is None:
        return ConfigurationError(f"this is not YAML: {error}")
    snippet = mark.get_snippet() if mark.buffer else None
    excerpt = f"\n{snippet}" if snippet and not _SECRET.search(snippet) else ""
    return ConfigurationError(f"{mark.name}:{mark.line + 1}: this is not YAML: {error.problem}.{excerpt}")


def _worded(error: ErrorDetails, location: Location, known: Collection[str]) -> str:
    field = ".".join(str(p) for p in location if not isinstance(p, int)) or "attributes"
    field = field.removeprefix("syncs.")
    match error["type"]:
        case "missing":
            return f"{field} is missing."
        case "value_error":
            return error["msg"].removeprefix("Value error, ")
        case "extra_forbidden":
            name = str(location[-1])
            return f"unknown name {name!r}.{nearest(name, known)} Known here: {', '.join(sorted(known))}."
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", error["ctx"]["expected"])
            return (
                f"{field} is {error['input']!r}; it can be {' or '.join(allowed)}."
                f"{nearest(str(error['input']), allowed)}"
            )
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{field} is {_shown(error['input'])}; a mapping of names to values is needed here."
        case "tuple_type" | "list_type":
            return f"{field} is {_shown(error['input'])}; a list is needed here."
        case "string_type" if isinstance(error["input"], bool):
            return f"{field}: YAML reads this as {str(error['input']).lower()}; put it in quotes."
        case _:
            return f"{field}: {error['msg']}."


def _shown(value: Any) -> str:
    return "empty" if value is None else repr(value)[:60]


def _name_of_item(raw: Any, location: Location) -> str | None:
    match location:
        case ("syncs", int(index), *_):
            try:
                return str(raw["syncs"][index]["name"])
            except (LookupError, TypeError):
                return None
    return None


def _at_path(value: Any, path: Location) -> Any:
    for part in path:
        try:
            value = value[part]
        except (LookupError, TypeError):
            return None
    return value


def _depth(value: Any, path: Location) -> int:
    """How far `path` leads into `value`."""
    return next((n for n in range(len(path), 0, -1) if _at_path(value, path[:n]) is not None), 0)


def _closest(tree: SourcePositionTree, location: Sequence[str | int]) -> SourcePositionTree:
    for part in location:
        if part not in tree.children:
            break
        tree = tree.children[part]
    return tree


def _narrowed(tree: SourcePositionTree, raw: Any, location: Location, message: str) -> SourcePositionTree:
    """The place inside `tree` that the message names.

    A rule between fields is checked on the whole mapping, so its error stands at the mapping's first line;
    its text names the item, the field and the value in quotes.
    """
    value = raw
    for part in location:
        try:
            value = value[part]
        except (LookupError, TypeError):
            return tree
    quoted = re.findall(r"'([^']*)'", message)
    for name in quoted:
        tree, value = next(_places(tree, value, name), (tree, value))
    for name in re.findall(r"\w+", re.sub(r"'[^']*'", " ", message)):
        inner = value.get("fields") if isinstance(value, dict) else None
        if isinstance(value, dict) and name in value and name in tree.children:
            tree, value = tree.children[name], value[name]
        elif isinstance(value, list) and (place := _item_named(value, name)) in tree.children:
            tree, value = tree.children[place], value[place]
        elif isinstance(inner, dict) and name in inner:
            tree, value = tree.children["fields"].children[name], inner[name]
    return tree


def _item_named(items: list[Any], name: str) -> int:
    return next((i for i, item in enumerate(items) if isinstance(item, dict) and item.get("name") == name), -1)


def _places(tree: SourcePositionTree, value: Any, name: str) -> Iterator[tuple[SourcePositionTree, Any]]:
    """Where `name` is a key, the name of an item, or a value; nearest to the top first."""
    level = [(tree, value)]
    while level:
        below: list[tuple[SourcePositionTree, Any]] = []
        for node, content in level:
            for key, child in _pairs(content):
                place = node.children.get(key)
                if place is None:
                    continue
                named = isinstance(child, dict) and child.get("name") == name
                # A bare `on` is read as true.
                if key == name or child == name or named or (key is True and name == "on"):
                    yield place, child
                below.append((place, child))
        level = below


def _pairs(content: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(content, dict):
        return content.items()
    return enumerate(content) if isinstance(content, list) else ()


def _at(file: str, start: tuple[int, int], message: str, quote: bool) -> str:
    number, column = start
    text = f"{file}:{number}: {message}"
    if not quote:
        return text
    try:
        line = Path(file).read_text(encoding="utf-8").splitlines()[number - 1]
    except (OSError, IndexError):
        return text
    if _SECRET.search(line):
        return text
    margin = f"{number:>6} | "
    return f"{text}\n{margin}{line}\n{' ' * (len(margin) + column - 1)}^"


def _nodes(file: Path, first_line: int) -> Iterator[yaml.Node]:
    """The document of a file that the line is in."""
    try:
        documents = list(yaml.compose_all(file.read_text(encoding="utf-8"), Loader=LOADER))
    except (OSError, yaml.YAMLError):
        return
    for document in documents:
        if document is not None and document.start_mark.line < first_line <= document.end_mark.line + 1:
            yield document
