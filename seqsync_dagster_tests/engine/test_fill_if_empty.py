"""write: if_empty: what somebody wrote into a record stays; what is empty is filled."""

from __future__ import annotations

from typing import Any

import pytest

from seqsync_dagster_tests.engine.test_drift import checked, edit
from seqsync_dagster_tests.engine.world import ACCOUNTS, World, crm

FILLING: dict[str, Any] = {
    **ACCOUNTS,
    "drift": {},
    "fields": {"Name": "name", "Website": {"column": "website", "write": "if_empty"}, "Phone": "account_id"},
}


def sites(world: World) -> dict[str, tuple[str, str | None]]:
    return {k: (r["Name"], r["Website"]) for k, r in world.org.by_external_id("Account").items()}


@pytest.mark.parametrize("most", [2000, 0])
def test_a_field_is_filled_only_where_the_record_holds_nothing(world: World, most: int) -> None:
    world.settings["collections_up_to"] = most
    world.sequence = crm(FILLING)
    seeded = [{"External_Id__c": "A1", "Name": "x", "Website": "theirs"}, {"External_Id__c": "A2", "Name": "x"}]
    world.org.seed("Account", seeded)
    world.insert("crm.accounts", [(f"A{n}", f"n{n}", f"ours{n}", None) for n in range(1, 5)])
    world.sql("UPDATE crm.accounts SET website = NULL WHERE account_id = 'A4'")
    world.run("accounts")
    # What was there before us counts, though the rows were new to us.
    first = {"A1": ("n1", "theirs"), "A2": ("n2", "ours2"), "A3": ("n3", "ours3"), "A4": ("n4", None)}
    assert sites(world) == first

    edit(world, "Account", "A3", Website=None)
    edit(world, "Account", "A2", Website="edited")
    assert checked(world, "accounts").drifted == 0, "such a field is not watched"
    assert "Website" in checked(world, "accounts").left_out
    world.sql("UPDATE crm.accounts SET name = 'new', website = CASE account_id WHEN 'A2' THEN NULL ELSE 'later' END")
    assert world.run("accounts").counts.updated == 4
    assert sites(world) == {
        "A1": ("new", "theirs"),
        "A2": ("new", "edited"),
        "A3": ("new", "later"),
        "A4": ("new", "later"),
    }
    assert world.run("accounts").counts.planned == 0


def test_only_rows_with_something_to_fill_are_read_and_the_change_has_a_name(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, "fields": {"Name": "name", "Website": "website"}})
    world.insert("crm.accounts", [("A1", "a", None, None), ("A2", "b", None, None)])
    world.run("accounts")
    world.sequence = crm({**FILLING, "removed": "clear", "clear_fields": ["Phone"]})
    world.org.reset_calls()
    report = world.run("accounts")
    assert report.resync_reason == (
        "Phone was added to the mapping; "
        "Website is filled from column 'website' (write: if_empty), it was column 'website'"
    )
    asked = [call for call in world.org.calls()["calls"] if "/query" in call]
    # Who the org is, and nothing else: no row has a website.
    assert sum(world.org.calls()["calls"][call] for call in asked) == 1
    assert world.sequence.sync("accounts").emptied() == ["Phone"]
    assert "Website" not in crm({**FILLING, "removed": "clear"}).sync("accounts").emptied()
