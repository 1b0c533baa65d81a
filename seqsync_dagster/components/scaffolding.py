"""`dg scaffold defs seqsync_dagster.SyncSequence`: a sequence to go on from, that loads and runs as it is written."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
import dagster as dg
from pydantic import BaseModel, Field

from seqsync_dagster.errors import SeqsyncError
from seqsync_dagster.sequence.strict import nearest
from seqsync_dagster.sequence.words import MAX_NAME

if TYPE_CHECKING:
    from seqsync_dagster.components.destination_component import Connection
    from seqsync_dagster.components.neighbours import Neighbours
    from seqsync_dagster.components.warehouse_component import Warehouse
    from seqsync_dagster.destinations.protocol import ObjectInfo
    from seqsync_dagster.warehouse.source import ModelSource

Kind = TypeVar("Kind", bound=dg.Component)


class SequenceScaffoldParams(BaseModel):
    """What a new sequence is made from. What is left out is asked for, or proposed."""

    model: str | None = Field(default=None, description="dbt model to read.")
    table: str | None = Field(default=None, description="Table or view to read instead, as `schema.table`.")
    object: str | None = Field(default=None, description="Destination object, by its API name, e.g. `Contact`.")
    key: list[str] | None = Field(default=None, description="The model's primary key column(s).")
    match: str | None = Field(default=None, description="Destination field (external id) that the key is matched on.")
    name: str | None = Field(default=None, description="Name of the sequence; default: that of its folder.")
    sync: str | None = Field(default=None, description="Name of the sync; default: made from the object's.")
    destination: str | None = Field(default=None, description="Folder in `defs/` of the connection.")
    warehouse: str | None = Field(default=None, description="Folder in `defs/` of the warehouse.")
    dbt: str | None = Field(default=None, description="Folder in `defs/` of the dbt project.")


class SequenceScaffolder(dg.Scaffolder[SequenceScaffoldParams]):
    """Asks, looks into warehouse and destination as far as they can be reached, and writes `defs.yaml`."""

    @classmethod
    def get_scaffold_params(cls) -> type[SequenceScaffoldParams]:
        """What can be given on the command line."""
        return SequenceScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[SequenceScaffoldParams]) -> None:
        """Write the sequence. Raises `click.ClickException`, and leaves nothing behind, when that cannot be done."""
        try:
            text = self._text(request)
        except (SeqsyncError, click.ClickException, click.Abort) as error:
            # Dagster made the folder before it asked.
            with suppress(OSError):
                request.target_path.rmdir()
            if isinstance(error, SeqsyncError):
                raise click.ClickException(str(error)) from None
            raise
        file = request.target_path if request.append else request.target_path / "defs.yaml"
        with file.open("a" if request.append else "w", encoding="utf-8") as out:
            out.write(f"---\n{text}" if request.append else text)
        click.echo(f"Wrote {file}. Read it, then: dg check defs")

    def _text(self, request: dg.ScaffoldRequest[SequenceScaffoldParams]) -> str:
        from seqsync_dagster.components.neighbours import neighbours
        from seqsync_dagster.components.sequence_yaml import render

        if request.scaffold_format != "yaml":
            raise click.ClickException("A sequence is declared in YAML: leave out --format python.")
        root = request.project_root or Path.cwd()
        try:
            tree = dg.ComponentTree.for_project(root)
        except dg.DagsterError as error:
            raise click.ClickException(str(error)) from None
        folder = request.target_path.parent if request.append else request.target_path
        made = _Making(request.params, neighbours(tree), root, asks=sys.stdin.isatty())
        return render(request.type_name, made.sequence(folder.name))


@dataclass
class _Making:
    """A sequence in the making."""

    given: SequenceScaffoldParams
    around: Neighbours
    root: Path
    asks: bool
    notes: list[str] = field(default_factory=list)

    def sequence(self, folder: str) -> Any:
        """Everything that `render` needs."""
        from seqsync_dagster.components.destination_component import Connection
        from seqsync_dagster.components.sequence_yaml import Drafted
        from seqsync_dagster.components.warehouse_component import Warehouse
        from seqsync_dagster.engine.proposing import propose

        if not self.asks:
            self._refuse_what_is_missing()
        name = self._name(folder)
        destination, connection = self._folder("destination", Connection, self.given.destination)  # type: ignore[type-abstract]
        warehouse_folder, warehouse = self._folder("warehouse", Warehouse, self.given.warehouse)
        dbt, model, source, documented = self._model()
        object_ = self.given.object or self._ask("object", "Object to write to, by its API name (e.g. Account)")
        columns = self._columns(warehouse, source, documented)
        info = self._describe(connection, object_)
        key = self._key(columns, source.label, object_)
        match = self._match(info)
        return Drafted(
            name=name,
            destination=destination,
            warehouse=warehouse_folder,
            dbt=dbt,
            sync=self._sync(object_),
            model=model,
            table=self.given.table if model is None else None,
            key=key,
            object=info.name if info is not None else object_,
            match=match,
            columns=tuple(columns),
            described=info is not None,
            proposal=propose(columns, key, info, match),
            writers=self.around.writers(destination),
            notes=tuple(self.notes),
        )

    def _refuse_what_is_missing(self) -> None:
        missing = {"--model (or --table)": self.given.model or self.given.table, "--object": self.given.object}
        lacking = [option for option, value in missing.items() if not value]
        if lacking:
            self._refuse(
                f"{' and '.join(lacking)} missing, and there is no terminal to ask on. For example: "
                "--model crm_accounts --object Account --match External_Id__c --key account_id"
            )

    def _name(self, folder: str) -> str:
        name = self.given.name or _as_name(folder)
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or len(name) > MAX_NAME or "__" in name:
            self._refuse(
                f"{name!r} cannot be a sequence's name: a letter, then letters, digits and single underscores, all "
                f"lower case, at most {MAX_NAME}. Give one with --name."
            )
        if name in self.around.sequences:
            self._refuse(f"there is a sequence {name!r} in defs/{self.around.sequences[name]}. Give another --name.")
        return name

    def _sync(self, object_: str) -> str:
        name = self.given.sync or _plural(_as_name(re.sub(r"__[A-Za-z]{1,3}$", "", object_)))[:MAX_NAME].rstrip("_")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or len(name) > MAX_NAME or "__" in name or name == "finish":
            self._refuse(f"{name!r} cannot be a sync's name. Give one with --sync.")
        return name

    def _folder(self, what: str, kind: type[Kind], given: str | None) -> tuple[str, Kind]:
        found = self.around.folders(kind)
        if given is None and len(found) > 1:
            # What a sequence takes when it does not say.
            usual = what if what in found else None
            if self.asks or usual is None:
                usual = self._ask(what, f"Folder of the {what} ({', '.join(found)})", default=usual)
            given = usual
        if given is None and not found:
            needed = {"destination": "SalesforceConnection salesforce", "warehouse": "Warehouse warehouse"}[what]
            self._refuse(
                f"there is no {what} in defs/ that a sequence could use. Declare one first: "
                f"dg scaffold defs seqsync_dagster.{needed}, then fill in what its file asks for."
            )
        folder = given or found[0]
        if folder not in found:
            self._refuse(f"no {what} in defs/{folder}.{nearest(folder, found)} There: {', '.join(found) or 'none'}.")
        component = self.around.load(folder)
        assert isinstance(component, kind)
        return folder, component

    def _model(self) -> tuple[str | None, str | None, ModelSource, Mapping[str, str]]:
        """Folder of the dbt project, model, the relation, and the columns that dbt knows."""
        from seqsync_dagster.warehouse.source import ModelSource

        if self.given.table is not None:
            if self.given.model is not None:
                self._refuse("give --model or --table, not both.")
            return None, None, ModelSource.of_table(self.given.table), {}
        dbt = self._dbt()
        if dbt is None:
            if self.given.model is not None:
                self._refuse(
                    f"model {self.given.model!r} is a dbt model, and there is no seqsync_dagster.DbtProject in defs/. "
                    "Declare one, or give --table schema.table."
                )
            self.given = self.given.model_copy(update={"table": self._ask("table", "Table to read (schema.table)")})
            return None, None, ModelSource.of_table(self.given.table or ""), {}
        folder, project = dbt
        models: Mapping[str, Any] = project.models()
        model = self.given.model or self._ask("model", f"dbt model to read ({_few(models)})")
        if model not in models:
            self._refuse(f"there is no dbt model {model!r}.{nearest(model, models)} Models: {_few(models)}.")
        return folder, model, project.source_of(model), project.columns_of(model)

    def _dbt(self) -> tuple[str, Any] | None:
        if not self.around.has_dbt():
            return None
        from seqsync_dagster.components.dbt import DbtProject

        return self._folder("dbt", DbtProject, self.given.dbt) if self.around.folders(DbtProject) else None

    def _columns(self, warehouse: Warehouse, source: ModelSource, documented: Mapping[str, str]) -> Mapping[str, str]:
        from seqsync_dagster.warehouse.columns import columns_of

        try:
            return columns_of(warehouse.settings, warehouse.base, source)
        except SeqsyncError as error:
            text = str(error).splitlines()[0].rstrip(".")
            instead = "the columns are those that dbt knows" if documented else "its columns are not known"
            self._note(f"{source.label} could not be looked at: {instead}", text)
            return documented

    def _describe(self, connection: Connection, object_: str) -> ObjectInfo | None:
        try:
            destination = connection.connect_to_look()
        except SeqsyncError as error:
            self._unseen(error)
            return None
        with closing(destination):
            try:
                destination.account()
            except SeqsyncError as error:
                self._unseen(error)
                return None
            # Somebody answers: an object that is not there is a mistake.
            return destination.describe(object_)

    def _unseen(self, error: SeqsyncError) -> None:
        text = str(error).splitlines()[0].rstrip(".")
        self._note("The destination could not be asked: names of fields are guessed from the columns'", text)

    def _key(self, columns: Mapping[str, str], model: str, object_: str) -> tuple[str, ...]:
        from seqsync_dagster.engine.proposing import key_of

        if self.given.key:
            for column in self.given.key if columns else ():
                if column not in columns:
                    self._refuse(f"{model} has no column {column!r}.{nearest(column, columns)}")
            return tuple(self.given.key)
        likely = key_of(columns, model, object_)
        if self.asks:
            answer = self._ask("key", f"Primary key column(s) of {model}, parted by commas", default=likely or "id")
            return tuple(part.strip() for part in answer.split(",") if part.strip())
        if likely is None and columns:
            self._refuse(
                f"none of the columns of {model} looks like its primary key. Give it with --key. "
                f"Columns: {', '.join(columns)}."
            )
        self._note(f"Check key: {likely or 'id'} is a guess")
        return (likely or "id",)

    def _match(self, info: ObjectInfo | None) -> str:
        from seqsync_dagster.engine.proposing import match_fields

        able = match_fields(info) if info is not None else []
        match = self.given.match
        if match is None and self.asks:
            listed = f" ({', '.join(able)})" if able else ""
            match = self._ask("match", f"External id field that the key is matched on{listed}", default=_first(able))
        if info is not None and not able and match is None:
            self._refuse(
                f"{info.name} has no field that a key could be matched on: add an external id (text, unique), e.g. "
                "External_Id__c, and let the user see it; or give --match."
            )
        match = match or _first(able)
        if info is not None and match not in info.fields:
            self._refuse(f"{info.name} has no field {match!r}.{nearest(match, info.fields)}")
        return match

    def _ask(self, name: str, text: str, default: str | None = None) -> str:
        if not self.asks:
            self._refuse(f"--{name} is missing. {text}.")
        answer: str = click.prompt(text, default=default)
        return answer.strip()

    def _note(self, text: str, why: str = "") -> None:
        """Say something to whoever is there, and without the reason, which is of this moment, in the file."""
        self.notes.append(f"{text}.")
        click.echo(f"Note: {text}.{f' {why}.' if why else ''}", err=True)

    def _refuse(self, text: str) -> NoReturn:
        raise click.ClickException(text[:1].upper() + text[1:])


def _first(able: list[str]) -> str:
    return able[0] if able else "External_Id__c"


def _few(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:20]) + (f" and {len(listed) - 20} more" if len(listed) > 20 else "")


def _as_name(text: str) -> str:
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
    return re.sub(r"[^a-z0-9]+", "_", parted.lower()).strip("_")


def _plural(noun: str) -> str:
    if re.search(r"[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if re.search(r"(s|x|ch|sh)$", noun) else f"{noun}s"
