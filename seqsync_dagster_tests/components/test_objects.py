"""What an asset shows beside its rows: objects below it, links, tags, freshness, pools."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg
import pytest

from .location import PAIR, location, run
from .test_errors import error_of, line_of
from .test_steps import Engine, engine, report

__all__ = ["engine"]

ACCOUNT, CONTACT = dg.AssetKey(["salesforce", "Account"]), dg.AssetKey(["salesforce", "Contact"])
OTHER = """
type: seqsync_dagster.SyncSequence
attributes:
  name: billing
  destination: salesforce
  dbt: null
  syncs:
    - name: payers
      table: crm.payers
      key: payer_id
      object: Account
      match: Billing_Id__c
      fields: {AnnualRevenue: revenue}
"""
SHOWN = PAIR.replace(
    "  owners: team:revops\n",
    "  owners: team:revops\n  tags: {team: revops}\n  links: {runbook: https://wiki.example/crm}\n"
    "  fresh_within: 26h\n",
).replace(
    "      object: Contact\n",
    "      object: Contact\n      tags: {pii: 'yes'}\n      kinds: people\n      links: {board: https://bi.example}\n"
    "      fresh_within: 1h30m\n",
)


def node(defs: dg.Definitions, key: dg.AssetKey) -> dg.AssetSpec:
    return next(spec for spec in defs.resolve_all_asset_specs() if spec.key == key)


def parents(defs: dg.Definitions, key: dg.AssetKey) -> set[str]:
    return {dep.asset_key.to_user_string() for dep in node(defs, key).deps}


def test_the_lineage_ends_in_the_objects_of_the_org() -> None:
    with location(crm=PAIR, billing=OTHER) as made:
        defs = made.load()
    assert parents(defs, ACCOUNT) == {"billing/payers", "crm/accounts"}
    assert parents(defs, CONTACT) == {"crm/contacts"}
    account = node(defs, ACCOUNT)
    assert account.kinds == {"salesforce"}
    assert account.description == "Records of Account in salesforce, written by billing/payers, crm/accounts."
    assert not defs.get_repository_def().asset_graph.get(ACCOUNT).is_executable


def test_where_assets_of_these_keys_are_there_already_they_are_left_alone() -> None:
    with location(crm=PAIR + "  show_objects: false\n", billing=OTHER) as made:
        defs = made.load()
    assert parents(defs, ACCOUNT) == {"billing/payers"}
    assert CONTACT not in {spec.key for spec in defs.resolve_all_asset_specs()}


def test_what_was_written_shows_on_the_object(instance: dg.DagsterInstance, engine: Engine) -> None:
    engine.answers["contacts"] = report("contacts", model=5, unchanged=5)
    with location(crm=PAIR) as made:
        defs = made.load()
        done = run(defs, instance)
        assert done.success
        record = instance.get_latest_materialization_event(ACCOUNT)
        assert record is not None
        assert record.run_id == done.run_id
        assert record.asset_materialization is not None
        shown = record.asset_materialization.metadata
        assert shown["seqsync/created"] == dg.MetadataValue.int(100)
        assert shown["seqsync/sync"] == dg.MetadataValue.text("crm/accounts")
        # Nothing of it was written but by finish, which removed two.
        (contacts,) = instance.fetch_materializations(CONTACT, limit=5).records
        assert contacts.asset_materialization is not None
        assert contacts.asset_materialization.metadata["seqsync/removed"] == dg.MetadataValue.int(2)

        before = instance.get_latest_materialization_event(ACCOUNT)
        engine.answers["accounts"] = report("accounts", model=100, unchanged=100)
        run(defs, instance)
        assert instance.get_latest_materialization_event(ACCOUNT) == before


def test_tags_links_freshness_and_pools_come_from_the_file() -> None:
    with location(crm=SHOWN) as made:
        defs = made.load()
    accounts, contacts = (node(defs, dg.AssetKey(["crm", name])) for name in ("accounts", "contacts"))
    assert (accounts.tags["team"], contacts.tags["team"], contacts.tags["pii"]) == ("revops", "revops", "yes")
    assert (accounts.kinds, contacts.kinds) == ({"salesforce"}, {"salesforce", "people"})
    assert accounts.metadata["runbook"] == dg.MetadataValue.url("https://wiki.example/crm")
    assert contacts.metadata["board"] == dg.MetadataValue.url("https://bi.example")
    assert accounts.freshness_policy == dg.FreshnessPolicy.time_window(timedelta(hours=26))
    assert contacts.freshness_policy == dg.FreshnessPolicy.time_window(timedelta(hours=1, minutes=30))
    ops = {op.name: op.pool for op in defs.resolve_job_def("crm").all_node_defs if isinstance(op, dg.OpDefinition)}
    assert ops == {"crm__accounts": "salesforce", "crm__contacts": "salesforce", "crm__finish": "salesforce"}


@pytest.mark.parametrize("given", ["26", "1 fortnight", "h", "0m", "9999999999d", "99999d"])
def test_a_length_of_time_that_is_none(given: str) -> None:
    text = PAIR.replace("  owners: team:revops\n", f"  owners: team:revops\n  fresh_within: {given} # <--\n")
    with location() as made:
        file = made.write("crm", text)
        mistake = error_of(made)
    assert mistake.startswith(f"{file}:{line_of(text)}: ")
    assert any(f"is {what}" in mistake for what in ("no length of time", "no time at all", "longer than anything"))
