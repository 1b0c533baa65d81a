"""The planning step against a bare scan and row hash of the same model.

``python -m seqsync_dagster_tests.benchmarks.plan --rows 10000000``

The model has a bigint key and eight mapped columns: four texts, a decimal, a
timestamp, a boolean and an integer. The ledger is made by the engine's own
first plan and its own settle; only the destination's word in between is
written by SQL, since it takes a destination an hour to say it.

What is timed is what a run does until it knows its plan: open the room,
compare, write the plan, release the warehouse, close the room. The baseline
opens the same database in the same way and hashes the same columns once.
"""

from __future__ import annotations

import argparse
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from seqsync_dagster.destinations.protocol import Account, CallCount, Destination, FieldInfo, ObjectInfo
from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.engine.planning import Planned, plan
from seqsync_dagster.engine.report import Counts
from seqsync_dagster.engine.settling import settle_completed
from seqsync_dagster.engine.site import Site, Work
from seqsync_dagster.journal import Journal, Scope
from seqsync_dagster.ledger import registry
from seqsync_dagster.sequence.options import OptionRemark
from seqsync_dagster.sequence.spec import SequenceSpec
from seqsync_dagster.warehouse.hashing import row_hash
from seqsync_dagster.warehouse.open import Room, open_warehouse
from seqsync_dagster.warehouse.settings import WarehouseSettings
from seqsync_dagster.warehouse.source import ModelSource
from seqsync_dagster_tests.benchmarks.measure import seconds, table
from seqsync_dagster_tests.postgres_server import running_server

SYNC = {
    "name": "accounts",
    "table": "crm.accounts",
    "key": "account_id",
    "object": "Account",
    "match": "External_Id__c",
    "fields": {
        "Name": "name",
        "Website": "website",
        "Phone": "phone",
        "BillingCity": "city",
        "AnnualRevenue": "revenue",
        "Last_Seen__c": "last_seen",
        "Active__c": "active",
        "NumberOfEmployees": "employees",
    },
}
_COLUMNS = ["account_id", *cast(dict[str, str], SYNC["fields"]).values()]
_NUMBERS = {"duckdb": "range({rows}) AS r(i)", "postgresql": "generate_series(CAST(0 AS bigint), {rows} - 1) AS r(i)"}
_MODEL = """
CREATE TABLE crm.accounts AS SELECT
  CAST(i AS bigint) AS account_id,
  'Company ' || mod(i * 7919, 1000003) AS name,
  'https://www.company' || i || '.example' AS website,
  '+33' || (100000000 + mod(i * 31, 800000000)) AS phone,
  'City ' || mod(i * 17, 1009) AS city,
  CAST(mod(i * 13, 100000000) / 100.0 AS decimal(18, 2)) AS revenue,
  CAST('2024-01-01' AS timestamp) + mod(i, 500000) * INTERVAL '1 minute' AS last_seen,
  mod(i, 3) = 0 AS active,
  CAST(mod(i * 101, 50021) AS bigint) AS employees
FROM {numbers}"""
_CHANGED = """
CREATE TABLE crm.{name} AS SELECT account_id,
  CASE WHEN {which} THEN name || ' Inc.' ELSE name END AS name,
  website, phone, city, revenue, last_seen, active, employees
FROM crm.accounts"""
#: Multiplying by a large odd number scatters the keys over the whole table; the low digits alone would be periodic.
_RANDOM = "mod(mod(account_id * 2654435761, 4294967296), 100) = 42"


class _Silent:
    """A destination that is only asked who it is."""

    def __init__(self) -> None:
        self.calls = CallCount()

    def account(self) -> Account:
        return Account("00D000000000001", "Benchmark", "http://127.0.0.1")

    def describe(self, object: str) -> ObjectInfo:
        key = FieldInfo("External_Id__c", "External id", "string", 255, matchable=True, unique=True)
        fields = {name: FieldInfo(name, name, "string", 255) for name in cast(dict[str, str], SYNC["fields"])}
        return ObjectInfo(object, object, {key.name: key, **fields})

    def remarks(self, object: str, options: Mapping[str, Any]) -> Sequence[OptionRemark]:
        return []


class Bench:
    """A warehouse with the model in three states, and a ledger settled with the first of them."""

    def __init__(self, url: str, folder: Path, rows: int) -> None:
        self.url, self.rows = url, rows
        warehouse, journal = open_warehouse(WarehouseSettings.model_validate({"url": url}), folder)
        sequence = SequenceSpec.model_validate({"name": "crm", "destination": "salesforce", "syncs": [SYNC]})
        self.site = Site(sequence, warehouse, Journal(journal), cast(Destination, _Silent()))
        self.sync = sequence.sync("accounts")
        self._write_models()
        self._settle_first()

    def _write_models(self) -> None:
        engine = sa.create_engine(self.url, poolclass=NullPool)
        middle = self.rows // 2
        with engine.begin() as connection:
            numbers = _NUMBERS[connection.dialect.name].format(rows=self.rows)
            connection.exec_driver_sql("CREATE SCHEMA crm")
            connection.exec_driver_sql(_MODEL.format(numbers=numbers))
            clustered = f"account_id >= {middle} AND account_id < {middle + self.rows // 100}"
            for name, which in (("random", _RANDOM), ("clustered", clustered)):
                connection.exec_driver_sql(_CHANGED.format(name=name, which=which))
        if engine.dialect.name == "postgresql":
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM ANALYZE")
        engine.dispose()

    @contextmanager
    def _work(self) -> Iterator[Work]:
        with self.site.journal.acquire(Scope("crm", "accounts"), "benchmark") as lease:
            run_id = f"benchmark.{uuid.uuid4().hex[:8]}"
            yield Work(self.site, self.sync, RunOptions(), run_id, "benchmark", lease, lambda _: None)

    def _planned(self, work: Work, model: str) -> Planned:
        with self.site.warehouse.open("crm", "accounts", model=True) as room:
            return plan(work, room, ModelSource.of_table(f"crm.{model}"), remembered=False)

    def _settle_first(self) -> None:
        with self._work() as work:
            planned = self._planned(work, "accounts")
            with self._room(work) as room:
                tables = work.tables(room.schema)
                p, o = tables.plan, tables.outcome
                said = sa.select(p.c.seq, sa.literal("001").concat(sa.cast(p.c.seq, sa.Text)), sa.true())
                room.connection.execute(sa.insert(o).from_select(["seq", "dest_id", "created"], said))
                room.connection.commit()
                settle_completed(
                    work, room, tables, planned.plan_id, counts=Counts(created=self.rows), registry=planned.registry
                )

    @contextmanager
    def _room(self, work: Work) -> Iterator[Room]:
        with self.site.warehouse.open("crm", work.sync.name) as room:
            yield room

    def plan(self, model: str) -> tuple[float, Planned]:
        """Seconds of one planning step, and what it found. The plan is dropped again."""
        found: list[Planned] = []
        with self._work() as work:
            took = seconds(lambda: found.append(self._planned(work, model)))
            if not found[0].nothing_to_do:
                with self._room(work) as room:
                    tables = work.tables(room.schema)
                    registry.update(room.connection, tables, "crm", "accounts", plan_run_id=None)
                    room.connection.execute(sa.text(f'DROP TABLE "{tables.plan.schema}"."{tables.plan.name}"'))
                    room.connection.commit()
                self.site.journal.close_run(work.lease, work.run_id)
        return took, found[0]

    def scan(self, model: str) -> None:
        """The baseline: one row hash over all columns, and the cheapest aggregate that needs it."""
        with self.site.warehouse.open("crm", "scan", model=True) as room:
            relation = room.model(ModelSource.of_table(f"crm.{model}"), _COLUMNS)
            hashed: sa.Select[Any] = sa.select(sa.func.max(row_hash(*[relation.c[c] for c in _COLUMNS])))
            room.connection.execute(hashed.select_from(relation)).scalar_one()

    def close(self) -> None:
        """Release everything."""
        self.site.warehouse.close()
        self.site.journal.close()


_EXPECTED = {"accounts": "unchanged", "random": "1% changed, anywhere", "clustered": "1% changed, side by side"}


def run(url: str, folder: Path, rows: int, repeat: int) -> str:
    """Measure one engine; the table."""
    with closing(Bench(url, folder, rows)) as bench:
        results = []
        for model, what in _EXPECTED.items():
            counts = bench.plan(model)[1].counts
            # Each plan is compared with the scan just before it: the machine's other work slows both.
            pairs = [(seconds(partial(bench.scan, model)), bench.plan(model)[0]) for _ in range(repeat)]
            scans, plans = zip(*pairs, strict=True)
            ratio = median(p / s for s, p in pairs)
            results.append((what, counts.planned, counts.unchanged, median(plans), median(scans), ratio))
    title = f"plan: {bench.site.warehouse.backend}, {rows:,} rows x {len(_COLUMNS) - 1} columns, median of {repeat}"
    return table(title, ("model", "planned", "unchanged", "plan s", "scan+hash s", "ratio"), results)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the model in DuckDB")
    parser.add_argument("--postgres-rows", type=int, default=0, help="rows of the model in PostgreSQL; 0: without it")
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seqsync_plan_")))
        if given.rows:
            print(run(f"duckdb:///{folder}/warehouse.duckdb", folder, given.rows, given.repeat), flush=True)
        if given.postgres_rows:
            url = stack.enter_context(stack.enter_context(running_server()).fresh_database())
            print(run(url, folder, given.postgres_rows, given.repeat), flush=True)


if __name__ == "__main__":
    main()
