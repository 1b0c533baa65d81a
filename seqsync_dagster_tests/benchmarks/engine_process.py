"""One run of the real engine in a process of its own, which tells what it cost: seconds, and peak memory.

Imports only what a run needs, since imports are most of its memory. Started by ``first_load``::

    python -m seqsync_dagster_tests.benchmarks.engine_process FOLDER ORG_URL [--parents]
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Fields of Account, and the columns they are filled from.
FIELDS = {
    "Name": "name",
    "Website": "website",
    "Industry": "industry",
    "NumberOfEmployees": "employees",
    "AnnualRevenue": "revenue",
    "BillingCity": "city",
    "BillingCountry": "country",
    "Phone": "phone",
    "Description": "description",
    "Last_Seen__c": "last_seen",
    "Active__c": "active",
}
PARENT = {"ParentId": {"parent": "accounts", "from": "parent_id"}}
PART_ROWS = 100_000

_steps: dict[str, dict[str, float]] = {}


def peak_mb() -> float:
    """The most memory this process has had resident."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux counts the process that started this one into ru_maxrss: 244 MB instead of 170 before the first row.
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def own_mb(pid: int) -> float:
    """The memory a process has now that no file stands for; 0 where the system does not tell, or after its end."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def _timed(module: Any, name: str) -> None:
    original: Callable[..., Any] = getattr(module, name)

    def wrapper(*arguments: Any, **more: Any) -> Any:
        start = time.perf_counter()
        try:
            return original(*arguments, **more)
        finally:
            step = _steps.setdefault(name, {"seconds": 0.0, "peak_mb": 0.0})
            step["seconds"] += time.perf_counter() - start
            step["peak_mb"] = peak_mb()

    setattr(module, name, wrapper)


def engine_run(folder: Path, url: str, parents: bool) -> dict[str, Any]:
    """One run of the sync `accounts` of the warehouse in `folder`; what it cost, step by step."""
    began = time.perf_counter()
    from seqsync_dagster.destinations.salesforce.destination import SalesforceDestination
    from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings
    from seqsync_dagster.engine import apply, options, run, site
    from seqsync_dagster.journal import Journal
    from seqsync_dagster.sequence.spec import SequenceSpec
    from seqsync_dagster.warehouse.open import open_warehouse
    from seqsync_dagster.warehouse.settings import WarehouseSettings
    from seqsync_dagster.warehouse.source import ModelSource

    for module, name in ((run, "plan"), (run, "apply"), (apply, "stage_outcomes"), (run, "settle_completed")):
        _timed(module, name)
    _timed(Journal, "record")
    sync = {
        "name": "accounts",
        "table": "crm.accounts",
        "key": "account_id",
        "object": "Account",
        "match": "External_Id__c",
        "fields": FIELDS | (PARENT if parents else {}),
    }
    spec = SequenceSpec.model_validate({"name": "crm", "destination": "salesforce", "syncs": [sync]})
    settings = WarehouseSettings.model_validate({"url": f"duckdb:///{folder}/warehouse.duckdb"})
    warehouse, journal = open_warehouse(settings, folder)
    connection = SalesforceSettings.model_validate(
        {"url": url, "client_id": "demo", "client_secret": "demo-secret", "bulk_part_rows": PART_ROWS}
    )
    there = site.Site(spec, warehouse, Journal(journal), SalesforceDestination(connection, "salesforce"))
    imports = {"imports": {"seconds": time.perf_counter() - began, "peak_mb": peak_mb()}}
    report = run.run_sync(
        there,
        "accounts",
        ModelSource.of_table("crm.accounts"),
        options.RunOptions(),
        run_id="benchmark",
        holder="benchmark",
        remembered=False,
        log=lambda _: None,
    )
    there.warehouse.close()
    there.journal.close()
    there.destination.close()
    return {
        "seconds": report.seconds,
        "peak_mb": peak_mb(),
        "created": report.counts.created,
        "unchanged": report.counts.unchanged,
        "api_calls": report.api_calls,
        "row_bearing_calls": report.row_bearing_calls,
        "steps": imports | _steps,
    }


if __name__ == "__main__":
    print(json.dumps(engine_run(Path(sys.argv[1]), sys.argv[2], "--parents" in sys.argv)))
