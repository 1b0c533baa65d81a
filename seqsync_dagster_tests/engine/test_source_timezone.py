"""Timestamps without a zone are sent as the moments that the model means by them."""

from __future__ import annotations

from typing import Any

from seqsync_dagster_tests.engine.test_drift import checked
from seqsync_dagster_tests.engine.world import ACCOUNTS, World, crm

SEEN: dict[str, Any] = {
    **ACCOUNTS,
    "table": "crm.seen",
    "key": "id",
    "drift": {},
    "fields": {"Name": "id", "Last_Seen__c": "seen", "Description": "zoned"},
}
#: Wall clock in Paris, and the moment: the clocks go forward on 31 March 2024 at 02:00, back on 27 October at 03:00.
PARIS = {
    "2024-03-31 01:59:59": "2024-03-31T00:59:59",
    "2024-03-31 03:00:00": "2024-03-31T01:00:00",
    "2024-03-31 02:30:00": "2024-03-31T01:30:00",  # never shown by a clock
    "2024-10-27 01:59:59": "2024-10-26T23:59:59",
    "2024-10-27 02:30:00": "2024-10-27T01:30:00",  # shown twice: the later one
    "2024-10-27 03:00:00": "2024-10-27T02:00:00",
}


def _seen(world: World) -> dict[str, str]:
    return {k: str(r["Last_Seen__c"])[:19] for k, r in world.org.by_external_id("Account").items()}


def test_timestamps_without_a_zone_are_meant_in_the_source_timezone(world: World) -> None:
    kind = "timestamp_ns" if world.on_duckdb else "timestamp"
    world.sql(f"CREATE TABLE crm.seen (id text, seen {kind}, zoned timestamptz)")
    world.insert("crm.seen", [(wall, wall, f"{wall}+00") for wall in PARIS])
    world.sequence = crm(SEEN)
    world.run("accounts")
    assert _seen(world) == {wall: wall.replace(" ", "T") for wall in PARIS}, "without the option they are UTC"
    # UTC is what was meant anyway: nothing is sent again.
    world.sequence = crm({**SEEN, "source_timezone": "UTC"}, source_timezone="Europe/Paris")
    assert world.run("accounts").counts.planned == 0

    world.sequence = crm(SEEN, source_timezone="Europe/Paris")
    report = world.run("accounts")
    assert report.resync_reason == "times without a zone are taken as Europe/Paris, they were taken as UTC"
    assert _seen(world) == PARIS
    zoned = world.org.by_external_id("Account")["2024-03-31 03:00:00"]["Description"]
    assert zoned == "2024-03-31T03:00:00.000Z", "a timestamp with a zone says itself which moment it is"
    assert checked(world, "accounts").drifted == 0
    assert world.run("accounts").counts.planned == 0

    # A sync's own zone goes before the sequence's.
    world.sequence = crm({**SEEN, "source_timezone": "America/New_York"}, source_timezone="Europe/Paris")
    reason = "times without a zone are taken as America/New_York, they were taken as Europe/Paris"
    assert world.run("accounts").resync_reason == reason
    assert _seen(world)["2024-03-31 03:00:00"] == "2024-03-31T07:00:00"


def test_a_zone_that_decides_nothing_makes_no_row_due(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", None, None)])
    world.run("accounts")
    world.sequence = crm(source_timezone="Europe/Paris")
    assert world.run("accounts").counts.planned == 0
