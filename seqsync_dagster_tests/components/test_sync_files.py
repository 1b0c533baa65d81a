"""A sequence in several files, and what its syncs share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from seqsync_dagster import SyncSequence

from .location import Location, location
from .test_errors import error_of

SEQUENCE = """
type: seqsync_dagster.SyncSequence
attributes:
  name: crm
  destination: salesforce
  dbt: null
  defaults:
    match: External_Id__c
    key: id
    sensitive: [email, phone]
    errors: {fatal: continue}
    fields: {LeadSource: {constant: Product}}
  syncs: {from: syncs/*.yaml}
"""
FILES = {
    "contacts": """
        table: crm.contacts
        object: Contact
        key: [id, region]
        sensitive: title
        fields:
          LastName: name
          Email: {column: email}
          Title: title
          AccountId: {parent: accounts, from: account_id}
    """,
    "accounts": """
        # No field of its own is sensitive.
        table: crm.accounts
        object: Account
        fields: {Name: name, LeadSource: source}
    """,
}


def write(made: Location, **files: str) -> Path:
    defs = made.write("crm", SEQUENCE)
    for name, text in (FILES | files).items():
        made.write(f"crm/syncs/{name}", text).rename(defs.parent / "syncs" / f"{name}.yaml")
        (defs.parent / "syncs" / name).rmdir()
    return defs.parent / "syncs"


def test_syncs_stand_in_files_and_share_defaults() -> None:
    with location() as made:
        folder = write(made)
        sequence = made.component("crm")
        defs = made.load()
    assert isinstance(sequence, SyncSequence)
    accounts, contacts = sequence.spec.syncs
    assert (accounts.name, contacts.name) == ("accounts", "contacts"), "named after their files"
    assert (accounts.key, contacts.key, contacts.match) == (("id",), ("id", "region"), "External_Id__c")
    assert set(contacts.fields) == {"LeadSource", "LastName", "Email", "Title", "AccountId"}
    assert accounts.fields["LeadSource"] == "source", "a sync's own word counts"
    assert (accounts.sensitive, contacts.sensitive) == ((), ("title", "email")), "a default cannot be uncovered"
    assert sequence.spec.errors_of(accounts).fatal == "continue"
    graph = defs.resolve_asset_graph()
    key = dg.AssetKey(["crm", "contacts"])
    assert graph.get(key).parent_keys == {dg.AssetKey(["crm", "accounts"])}
    first, second = graph.get(key).metadata["dagster/code_references"].code_references
    assert first.file_path == str(folder / "contacts.yaml")
    assert second.file_path == str(folder.parent / "defs.yaml")


def test_a_file_may_merge_one_mapping_into_another() -> None:
    merging = """
        table: crm.accounts
        object: Account
        fields:
          Name: name
          BillingCity: &kept {column: city, nulls: ignore}
          ShippingCity: {<<: *kept, column: shipping_city}
    """
    with location() as made:
        write(made, accounts=merging)
        sequence = made.component("crm")
    assert isinstance(sequence, SyncSequence)
    assert sequence.spec.sync("accounts").fields["ShippingCity"].model_dump(exclude_unset=True) == {
        "column": "shipping_city",
        "nulls": "ignore",
    }


WRONG: dict[str, tuple[dict[str, str], str, str]] = {
    "a mistake in a sync's file": (
        {"accounts": "table: crm.accounts\nobjekt: Account # <--\nfields: {Name: name}\n"},
        "syncs/accounts.yaml:2",
        "sync 'accounts': unknown name 'objekt'. Did you mean 'object'?",
    ),
    "a rule between fields in a sync's file": (
        {"accounts": "table: a.b\nobject: Account\nsensitive: nam # <--\nfields: {Name: name}\n"},
        "syncs/accounts.yaml:3",
        "sensitive names 'nam'",
    ),
    "a rule between two files": (
        {"contacts": "table: a.b\nobject: Contact\nfields:\n  A: {parent: acounts, from: x} # <--\n"},
        "syncs/contacts.yaml:4",
        "'contacts': A points to the parent 'acounts', which is no sync of this sequence. Did you mean 'accounts'?",
    ),
    "a file that is no mapping": (
        {"accounts": "- table: a.b\n"},
        "syncs/accounts.yaml:1",
        "the file is no mapping; it holds one sync",
    ),
    "an empty file": ({"accounts": "# nothing\n"}, "syncs/accounts.yaml:1", "the file is empty; it holds one sync"),
    "several documents": (
        {"accounts": "table: a.b\n---\ntable: c.d\n"},
        "syncs/accounts.yaml:1",
        "the file holds several documents",
    ),
    "no YAML": (
        {"accounts": "table: a.b\nfields: {Name: name\n"},
        "syncs/accounts.yaml:3",
        "this is not YAML: expected ',' or '}'",
    ),
    "a name twice in a file": (
        {"accounts": "table: a.b\nobject: Account\ntable: c.d # <--\nfields: {Name: name}\n"},
        "syncs/accounts.yaml:3",
        "'table' stands twice in the same mapping",
    ),
    "two files, one name": (
        {"more": "name: accounts\ntable: a.b\nobject: Lead\nfields: {Name: name}\n"},
        "syncs/",
        "two syncs are named 'accounts'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_told_with_its_own_file_and_line(case: str) -> None:
    files, place, message = WRONG[case]
    with location() as made:
        write(made, **files)
        found = error_of(made)
    assert f"{place}" in found, found
    assert message in found, found


DEFAULTS = {
    "an unknown default": ("    key: id\n", "    kee: id # <--\n", "defaults: unknown name 'kee'. Did you mean 'key'?"),
    "what cannot be shared": ("    key: id\n", "    key: id\n    table: x # <--\n", "'table' is each sync's own."),
    "a wrong default": (
        "    key: id\n",
        "    key: id\n    removed: delet # <--\n",
        "defaults.removed is 'delet'; it can be keep or delete or clear. Did you mean 'delete'?",
    ),
    "a wrong mapping among the defaults": (
        "    fields: {LeadSource: {constant: Product}}",
        "    fields:\n      LeadSource: {constnt: Product} # <--",
        "defaults.fields.LeadSource: a field is mapped to a column name",
    ),
    "no file": ("syncs/*.yaml}", "snycs/*.yaml} # <--", "syncs.from: no file matches 'snycs/*.yaml' in"),
    "no file of that name": (
        "syncs/*.yaml}",
        "syncs/acounts.yaml} # <--",
        "Did you mean 'syncs/accounts.yaml'? YAML files there: syncs/accounts.yaml, syncs/contacts.yaml.",
    ),
    "another word than from": ("{from: ", "{form: ", "syncs: unknown name 'form'. Did you mean 'from'?"),
    "no path": ("{from: syncs/*.yaml}", "{from: 7} # <--", "syncs.from is a path or a list of paths"),
}


@pytest.mark.parametrize("case", DEFAULTS)
def test_a_mistake_in_what_is_shared_is_told_once_where_it_stands(case: str) -> None:
    old, new, message = DEFAULTS[case]
    assert old in SEQUENCE
    text = SEQUENCE.replace(old, new, 1)
    with location() as made:
        folder = write(made)
        made.write("crm", text)
        found = error_of(made)
    assert message in found
    assert found.count("defs.yaml:") == 1
    line = next((n for n, t in enumerate(text.strip("\n").splitlines(), 1) if "<--" in t), None)
    assert line is None or found.startswith(f"{folder.parent}/defs.yaml:{line}: "), found


def test_editors_know_of_files_and_defaults() -> None:
    schema: Any = SyncSequence.get_model_cls().model_json_schema()
    assert schema["properties"]["defaults"]["properties"]["match"]["description"]
    assert "name" not in schema["properties"]["defaults"]["properties"]
    forms = schema["properties"]["syncs"]["anyOf"]
    assert [f["type"] for f in forms] == ["array", "object"]
    assert schema["$defs"]["SyncSpec"]["required"] == []
    assert re.match("The syncs", schema["properties"]["syncs"]["description"])
