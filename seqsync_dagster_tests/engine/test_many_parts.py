"""Several Bulk jobs per level: outcomes are copied beside the plan as they come, each once."""

from __future__ import annotations

import pytest

from seqsync_dagster.engine import apply
from seqsync_dagster.journal import Journal
from seqsync_dagster_tests.engine.world import World


def test_outcomes_that_are_staged_on_the_way_are_all_and_each_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "PAGE", 150)
    staged: list[int] = []
    outcomes = Journal.outcomes
    monkeypatch.setattr(
        Journal, "outcomes", lambda *given, **more: (staged.append(more["after_seq"]), outcomes(*given, **more))[1]
    )
    world.settings = {"collections_up_to": 0, "bulk_part_rows": 400}
    world.insert(
        "crm.accounts",
        # Every hundredth is refused by the org, every ninetieth cannot be sent at all.
        [
            (
                f"A{n:04}",
                None if n % 100 == 7 else f"Name {n}",
                "#N/A" if n % 90 == 5 else None,
                None if n < 900 else "A0000",
            )
            for n in range(1_300)
        ],
    )
    refused = {n for n in range(1_300) if n % 100 == 7 or n % 90 == 5}
    report = world.run("accounts")
    assert (report.counts.created, report.counts.rejected) == (1_300 - len(refused), len(refused))
    assert len(world.org.records("Account")) == report.counts.created
    ledger = world.ledger("accounts")
    assert {k for k, row in ledger.items() if row["state"] == "rejected"} == {f"a{n:04}" for n in refused}
    assert all(row["dest_id"] for row in ledger.values() if row["state"] == "acknowledged")
    # More often than at the end of each of the two levels, and at the end.
    assert len(staged) > 3 and staged == sorted(staged)
    assert world.run("accounts").counts.planned == 0
