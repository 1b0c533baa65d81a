"""What an asset shows: counts that Dagster plots, tables of rows, and where each field comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import dagster as dg

from seqsync_dagster.components.private import NamespacedMetadataSet, TableMetadataSet
from seqsync_dagster.sequence.mappings import (
    ColumnMapping,
    ConstantMapping,
    ParentLookup,
    ParentsLookup,
    RecordLookup,
)

if TYPE_CHECKING:
    from seqsync_dagster.engine.report import (
        Counts,
        DriftReport,
        FinishReport,
        PlannedRow,
        PlanReport,
        RowChange,
        RowProblem,
        SyncReport,
    )
    from seqsync_dagster.sequence.mappings import FieldMapping
    from seqsync_dagster.sequence.spec import SequenceSpec
    from seqsync_dagster.sequence.sync import SyncSpec


class SyncMetadata(NamespacedMetadataSet):
    """What a sync is: stands with the asset's definition."""

    object: str | None = None
    match: str | None = None
    model: str | None = None
    key: str | None = None
    removed: str | None = None

    @classmethod
    def namespace(cls) -> str:
        """Prefix of the keys."""
        return "seqsync"


class RunMetadata(NamespacedMetadataSet):
    """What one run of a sync did, beside its counts. Numbers are plotted over time."""

    summary: str | None = None
    plan_id: str | None = None
    destination: str | None = None
    full_resync: str | None = None
    seconds: float | None = None
    rows_per_second: float | None = None
    api_calls: int | None = None
    row_bearing_calls: int | None = None

    @classmethod
    def namespace(cls) -> str:
        """Prefix of the keys."""
        return "seqsync"


#: Marks a materialisation as one of ours; one reported by hand has no plan.
PLAN_ID = "seqsync/plan_id"


def of_run(report: SyncReport) -> Mapping[str, Any]:
    """Metadata of a sync's materialisation."""
    counts = report.counts
    entries: dict[str, Any] = {
        **RunMetadata(
            summary=report.summary,
            plan_id=report.plan_id,
            destination=report.destination,
            full_resync=report.resync_reason,
            seconds=round(report.seconds, 3),
            rows_per_second=round(report.rows_per_second, 1),
            api_calls=report.api_calls,
            row_bearing_calls=report.row_bearing_calls,
        ),
        **numbers(counts),
    }
    # What was read because it changed is not how many rows there are.
    if report.scan is None or report.scan.full:
        entries.update(TableMetadataSet(row_count=counts.model))
    if report.scan is not None:
        entries["seqsync/scan"] = str(report.scan)
        entries["seqsync/rows_read"] = report.scan.rows
        if report.scan.last_full is not None:
            entries["seqsync/last_full_scan"] = dg.MetadataValue.timestamp(report.scan.last_full)
    if report.problems:
        entries["seqsync/problems"] = problems_table(report.problems)
    if report.changes:
        entries["seqsync/changes"] = changes_table(report.changes)
    return entries


def of_plan(report: PlanReport) -> Mapping[str, Any]:
    """Metadata of the observation that tells a plan."""
    entries: dict[str, Any] = {
        "seqsync/plan_id": report.review_id,
        "seqsync/plan_expires": dg.MetadataValue.timestamp(report.expires_at),
        "seqsync/destination": report.destination,
        "seqsync/to_create": report.creates,
        "seqsync/to_update": report.updates,
        "seqsync/to_follow": report.follow,
        "seqsync/to_remove": report.removals,
        "seqsync/would_stay_held": report.stay_held,
        "seqsync/api_calls_needed": report.calls,
        "seqsync/guard": report.guard or "passes",
    }
    if report.resync_reason is not None:
        entries["seqsync/full_resync"] = report.resync_reason
    if report.risks:
        entries["seqsync/risks"] = dg.MetadataValue.md("\n".join(f"- {risk}" for risk in report.risks))
    if report.rows:
        entries["seqsync/planned_changes"] = planned_table(report.rows)
    if report.problems:
        entries["seqsync/problems"] = problems_table(report.problems)
    return entries


def planned_table(rows: Sequence[PlannedRow]) -> dg.TableMetadataValue:
    """A sample of what would be sent, field by field."""
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "key": row.key,
                    "operation": row.operation,
                    "field": change.field,
                    "before": _cut(change.before),
                    "after": _cut(change.after),
                    "url": row.url,
                }
            )
            for row in rows
            for change in row.changes
        ],
        schema=_schema(
            key="Key of the row, as text.",
            operation="create or update.",
            field="Destination field that would hold something else.",
            before="What the record holds now; sensitive values are masked.",
            after="What would be sent.",
            url="The record in the destination.",
        ),
    )


def _cut(value: str | None) -> str:
    return "" if value is None else value[:200]


def numbers(counts: Counts) -> dict[str, int]:
    """Every count under its own name, zeros too: a gap in a plot is no zero."""
    named = {f.name: getattr(counts, f.name) for f in fields(counts)} | {"held": counts.held, "invalid": counts.invalid}
    # `seqsync/model` is the model's name.
    named["model_rows"] = named.pop("model")
    return {f"{RunMetadata.namespace()}/{name}": count for name, count in named.items()}


def of_finish(report: FinishReport) -> Mapping[str, Any]:
    """Metadata of the closing asset's materialisation."""
    entries: dict[str, Any] = {
        "seqsync/summary": report.summary,
        "seqsync/referenced": sum(report.referenced.values()),
        "seqsync/references_rejected": sum(report.references_rejected.values()),
        "seqsync/references_held": sum(report.references_held.values()),
        "seqsync/references_waiting": sum(report.references_waiting.values()),
        "seqsync/removed": sum(report.removed.values()),
        "seqsync/removals_rejected": sum(report.rejected.values()),
        "seqsync/kept_for_children": sum(report.kept_for_children.values()),
        "seqsync/seconds": round(report.seconds, 3),
        "seqsync/api_calls": report.api_calls,
        "seqsync/row_bearing_calls": report.row_bearing_calls,
    }
    for name, counted in (
        ("referenced", report.referenced),
        ("references_rejected", report.references_rejected),
        ("references_held", report.references_held),
        ("references_waiting", report.references_waiting),
        ("removed", report.removed),
        ("removals_rejected", report.rejected),
        ("kept_for_children", report.kept_for_children),
    ):
        entries.update({f"seqsync/{name}/{sync}": count for sync, count in counted.items()})
    if shown := (*report.reference_problems, *report.problems):
        entries["seqsync/problems"] = problems_table(shown)
    return entries


def problems_table(problems: Sequence[RowProblem]) -> dg.TableMetadataValue:
    """Rows that were not acknowledged."""
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {"key": p.key, "status": p.status, "code": p.code, "message": p.message, "values": _text(p.values)}
            )
            for p in problems
        ],
        schema=_schema(
            key="Key of the row, as text.",
            status="rejected, held, invalid, waiting or skipped.",
            code="The destination's error code, or ours.",
            message="The destination's own words, or what the row waits for.",
            values="Values that were to be sent; sensitive ones are masked.",
        ),
    )


def changes_table(changes: Sequence[RowChange]) -> dg.TableMetadataValue:
    """A sample of the rows that were sent."""
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {"key": c.key, "operation": c.operation, "record": c.dest_id, "url": c.url, "values": _text(c.values)}
            )
            for c in changes
        ],
        schema=_schema(
            key="Key of the row, as text.",
            operation="created, adopted, updated or removed.",
            record="Id of the record in the destination.",
            url="The record in the destination.",
            values="Values that were sent; sensitive ones are masked.",
        ),
    )


def drift_tables(report: DriftReport) -> Mapping[str, Any]:
    """Which fields drifted, and a sample of what they hold; nothing when nothing drifted."""
    tables: dict[str, Any] = {}
    if report.by_field:
        columns = [dg.TableColumn("field", "text"), dg.TableColumn("changed", "int", description="Records changed.")]
        tables["by_field"] = dg.MetadataValue.table(
            records=[dg.TableRecord({"field": f, "changed": n}) for f, n in report.by_field.items()],
            schema=dg.TableSchema(columns),
        )
    if report.samples:
        tables["samples"] = dg.MetadataValue.table(
            records=[
                dg.TableRecord(
                    {
                        "key": s.key,
                        "field": s.field or "(the record)",
                        "expected": "" if s.expected is None else s.expected,
                        "found": "" if s.found is None else s.found,
                        "url": s.url,
                    }
                )
                for s in report.samples
            ],
            schema=_schema(
                key="Key of the row, as text.",
                field="Field that differs.",
                expected="What was acknowledged, as the destination writes it; sensitive values are masked.",
                found="What the destination holds now; sensitive values are masked.",
                url="The record in the destination.",
            ),
        )
    return tables


def _schema(**columns: str) -> dg.TableSchema:
    return dg.TableSchema([dg.TableColumn(name, "text", description=text) for name, text in columns.items()])


def _text(values: Mapping[str, str]) -> str:
    return json.dumps(dict(values), ensure_ascii=False) if values else ""


def of_definition(sequence: SequenceSpec, sync: SyncSpec, model: dg.AssetKey | None) -> Mapping[str, Any]:
    """Metadata of a sync's asset: object, match, and the way of every column into its field."""
    matched: dict[str, FieldMapping | None] = {} if sync.match is None else {sync.match: None}
    mappings: dict[str, FieldMapping | None] = {**matched, **dict(sync.mappings())}
    return {
        **SyncMetadata(
            object=sync.object,
            match=sync.match,
            model=sync.source,
            key=", ".join(sync.key),
            removed=sync.removed,
        ),
        **TableMetadataSet(
            table_name=sync.object,
            column_schema=dg.TableSchema([_column(sync, field, m) for field, m in mappings.items()]),
            column_lineage=dg.TableColumnLineage(
                {
                    field: deps
                    for field, mapping in mappings.items()
                    if (deps := list(_lineage(sequence, sync, mapping, model)))
                }
            ),
        ),
    }


def of_links(links: Mapping[str, str]) -> Mapping[str, dg.MetadataValue[Any]]:
    """Pages that an asset links to, by their names."""
    return {name: dg.MetadataValue.url(url) for name, url in links.items()}


def _column(sync: SyncSpec, field: str, mapping: FieldMapping | None) -> dg.TableColumn:
    match mapping:
        case None:
            kind, text = "external id", f"the key: {', '.join(sync.key)}"
        case ColumnMapping(column=column):
            kind, text = "value", f"column {column}"
        case ConstantMapping(constant=constant):
            kind, text = "constant", repr(constant)
        case ParentLookup(parent=parent, from_=columns):
            kind, text = "reference", f"the record of {parent} with the key in {', '.join(columns)}"
        case ParentsLookup(parents=parents):
            each = (f"the record of {p.parent} with the key in {', '.join(p.from_)}" for p in parents)
            kind, text = "reference", " or ".join(each)
        case RecordLookup(lookup=object_, by=by, from_=column):
            where = f"is in {column}" if column is not None else f"is {mapping.value!r}"
            kind, text = "reference", f"the {object_} whose {by} {where}"
    return dg.TableColumn(field, kind, description=text)


def _lineage(
    sequence: SequenceSpec, sync: SyncSpec, mapping: FieldMapping | None, model: dg.AssetKey | None
) -> Sequence[dg.TableColumnDep]:
    parents: Sequence[str] = ()
    columns: Sequence[str] = ()
    match mapping:
        case None:
            columns = sync.key
        case ColumnMapping(column=column):
            columns = (column,)
        case ParentLookup():
            columns, parents = mapping.from_, [mapping.parent]
        case ParentsLookup():
            columns = list(dict.fromkeys(column for each in mapping.parents for column in each.from_))
            parents = [each.parent for each in mapping.parents]
        case RecordLookup(from_=column):
            columns = (column,) if column is not None else ()
    deps = [dg.TableColumnDep(model, column) for column in columns] if model else []
    for parent in parents:
        # Finish fills in a deferred lookup, so that asset is not upstream of this one.
        match_of_parent = sequence.sync(parent).match if parent in sync.waits_for() else None
        if match_of_parent is not None:
            deps.append(dg.TableColumnDep(dg.AssetKey([sequence.name, parent]), match_of_parent))
    return deps
