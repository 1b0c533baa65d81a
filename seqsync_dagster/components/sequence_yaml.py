"""A drafted sequence as YAML, with what is worth knowing beside it as comments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import yaml

from seqsync_dagster.components.neighbours import Writer
from seqsync_dagster.engine.proposing import Proposal, Reference


@dataclass(frozen=True)
class Drafted:
    """A sequence of one sync."""

    name: str
    destination: str
    warehouse: str
    dbt: str | None
    sync: str
    model: str | None
    table: str | None
    key: tuple[str, ...]
    object: str
    match: str
    columns: tuple[str, ...]
    """Of the model; empty when they are not known."""
    described: bool
    """The destination was asked for the object's fields."""
    proposal: Proposal
    writers: Sequence[Writer]
    """Syncs of the location that write to the same destination."""
    notes: tuple[str, ...]


def render(type_name: str, drafted: Drafted) -> str:
    """The file's text."""
    return "\n".join(_lines(type_name, drafted)) + "\n"


def _lines(type_name: str, d: Drafted) -> Iterator[str]:
    for note in d.notes:
        yield f"# {_flat(note)}"
    for writer in d.writers:
        if writer.object == d.object:
            other = _flat(f"{writer.sequence}/{writer.sync} writes {d.object} too")
            yield f"# {other}: give a field to one of them only."
    yield f"type: {_scalar(type_name)}"
    yield "attributes:"
    yield f"  name: {_scalar(d.name)}"
    yield f"  destination: {_scalar(d.destination)}"
    yield f"  warehouse: {_scalar(d.warehouse)}"
    yield f"  dbt: {_scalar(d.dbt) if d.dbt is not None else 'null'}"
    yield "  # When it runs by itself:"
    yield "  # runs_on:"
    yield '  #   - {cron: "0 * * * *", timezone: Europe/Paris}   # builds the dbt models, then syncs'
    yield "  #   - {models: all}                                 # the models were built elsewhere: syncs only"
    yield "  syncs:"
    yield f"    - name: {_scalar(d.sync)}"
    if d.model is not None:
        yield f"      model: {_scalar(d.model)}"
    else:
        yield f"      table: {_scalar(d.table or '')}"
    key = ", ".join(_scalar(column) for column in d.key)
    yield f"      key: {key if len(d.key) == 1 else f'[{key}]'}"
    yield f"      object: {_scalar(d.object)}"
    yield f"      match: {_scalar(d.match)}"
    yield "      # removed: delete      # what becomes of a record whose row leaves the model (default: keep)"
    yield "      # sensitive: [email]   # columns that are sent, and masked in every table, log and metadata"
    yield "      fields:"
    yield from _fields(d)


def _fields(d: Drafted) -> Iterator[str]:
    p = d.proposal
    if not d.described and p.fields:
        yield "        # Guessed: compare them with the object's own names (Setup > Object Manager)."
    for field, column in p.fields.items():
        yield f"        {_scalar(field)}: {_scalar(column)}"
    if not p.fields:
        column = next((c for c in d.columns if c not in d.key), d.key[0])
        yield "        # Put your own here: destination field <- column. Without one there is nothing to send."
        yield f"        {_scalar('Name' if d.match != 'Name' else 'Description')}: {_scalar(column)}"
    for unfit in p.unfit:
        yield f"        # {_scalar(unfit.field)}: {_scalar(unfit.column)}   # {_flat(unfit.why)}: cast it in the model"
    for reference in p.references:
        yield from _reference(d, reference)
    for field in p.required:
        yield f"        # {_scalar(field)}:   # {_flat(d.object)} requires it: name a column, or {{constant: ...}}"
    if p.unmapped:
        yield f"        # Columns without a field of their name: {', '.join(_flat(c) for c in p.unmapped)}"


def _reference(d: Drafted, reference: Reference) -> Iterator[str]:
    field, column = _scalar(reference.field), _scalar(reference.column)
    if d.object in reference.objects:
        yield f"        # {field}: {{parent: {_scalar(d.sync)}, from: {column}}}   # a record of this very sync"
        return
    writers = [w for w in d.writers if w.object in reference.objects]
    for writer in writers:
        where = _flat(f"{writer.sequence}/{writer.sync} writes {writer.object}: put both in one sequence")
        yield f"        # {field}: {{parent: {_scalar(writer.sync)}, from: {column}}}   # {where}"
    if not writers:
        found = _scalar(reference.objects[0]) if reference.objects else "OBJECT"
        by = "Email" if reference.column.lower().endswith("email") else "External_Id__c"
        yield f"        # {field}: {{lookup: {found}, by: {by}, from: {column}}}   # a record that no sync writes"


def _scalar(text: str) -> str:
    """As YAML reads it back, on one line."""
    return (
        str(yaml.safe_dump(text, default_flow_style=True, width=10_000, allow_unicode=True))
        .removesuffix("...\n")
        .strip()
    )


def _flat(text: str) -> str:
    return " ".join(text.split())
