"""Options of a sync reach the destination as they are, and nothing goes with one that it does not understand."""

from __future__ import annotations

import pytest

from seqsync_dagster.errors import ConfigurationError
from seqsync_dagster_tests.engine.world import ACCOUNTS, World, crm


def test_options_go_with_every_row_that_is_sent(world: World) -> None:
    world.insert("crm.accounts", [("A1", "Acme", None, None)])
    world.sequence = crm({**ACCOUNTS, "options": {"allow_duplicate": True}})
    with pytest.raises(ConfigurationError, match=r"Salesforce has no option 'allow_duplicate'\. Did you mean"):
        world.run("accounts")
    assert world.org.records("Account") == []
    rule = {"fault": "duplicate_rule", "object": "Account", "fields": ["Name"]}
    world.org._call("POST", "faults", rule)
    world.org.seed("Account", [{"Name": "Acme"}])
    world.sequence = crm()
    assert world.run("accounts").counts.rejected == 1
    world.sequence = crm({**ACCOUNTS, "options": {"allow_duplicates": True}})
    world.sql("UPDATE crm.accounts SET website = 'acme.com'")
    report = world.run("accounts")
    assert (report.counts.created, report.resync_reason) == (1, None)
