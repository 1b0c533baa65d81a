"""What a person sees when the YAML is wrong: file, line, what, and the nearest right name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from seqsync_dagster.components.yaml_source import mistake_behind
from seqsync_dagster.errors import ConfigurationError

from .location import PAIR, SALESFORCE, WAREHOUSE, Location, location


def error_of(made: Location) -> str:
    with pytest.raises(Exception) as caught:
        made.load()
    mistake = mistake_behind(caught.value)
    assert mistake is not None, f"no ConfigurationError behind {caught.value!r}"
    return str(mistake)


def line_of(text: str) -> int:
    """Line of the mark, in the file as it is written."""
    return next(n for n, line in enumerate(text.strip("\n").splitlines(), 1) if "<--" in line)


def replaced(old: str, new: str, text: str = PAIR) -> str:
    assert old in text
    return text.replace(old, new, 1)


def on(*triggers: str) -> str:
    """The pair, run on these triggers, the last of which is wrong."""
    lines = "".join(f"    - {trigger}\n" for trigger in triggers)
    return replaced("  dbt: null\n", f"  dbt: null\n  runs_on:\n{lines.rstrip()} # <--\n")


SHORT = "type: seqsync_dagster.SyncSequence\nattributes:\n  name: crm\n  destination: salesforce\n"
WRONG = {
    "unknown option of the destination": (
        replaced(
            "      object: Contact\n", "      object: Contact\n      options:\n        allow_duplicate: true # <--\n"
        ),
        "sync 'contacts': options: Salesforce has no option 'allow_duplicate'. Did you mean 'allow_duplicates'?",
    ),
    "wrong value of an option": (
        replaced(
            "      object: Contact\n", "      object: Contact\n      options:\n        assignment_rule: activ # <--\n"
        ),
        "sync 'contacts': options: assignment_rule is 'activ'; it can be active, none, or the id of a rule, 01Q and "
        "12 or 15 characters more. Did you mean 'active'?",
    ),
    "an option that the object has no use for": (
        replaced(
            "      object: Contact\n", "      object: Contact\n      options:\n        assignment_rule: none # <--\n"
        ),
        "sync 'contacts': options: assignment_rule: Contact has no assignment rules; there are some for Account and",
    ),
    "unknown word beside a column of changes": (
        replaced(
            "      object: Contact\n",
            "      object: Contact\n      changed_since:\n        column: u\n        overlap: 5 # <--\n"
            "      full_scan: {cron: 0 3 * * *}\n",
        ),
        "sync 'contacts': unknown name 'overlap'. Did you mean 'overlap_minutes'?",
    ),
    "no time of a full scan": (
        replaced(
            "      object: Contact\n",
            "      object: Contact\n      changed_since: u\n      full_scan:\n        cron: 61 * * * * # <--\n",
        ),
        "cron '61 * * * *' is no cron expression: Bad minute. It has five fields",
    ),
    "unknown field of a sync": (
        replaced("      object: Account\n", "      objekt: Account # <--\n"),
        "sync 'accounts': unknown name 'objekt'. Did you mean 'object'?",
    ),
    "unknown field of the sequence": (
        replaced("  destination: salesforce", "  destinaton: salesforce # <--"),
        "unknown name 'destinaton'. Did you mean 'destination'?",
    ),
    "unknown name in a lookup": (
        replaced("{parent: accounts, from: account_id}", "{parent: accounts, form: account_id} # <--"),
        "sync 'contacts': unknown name 'form'. Did you mean 'from'?",
    ),
    "a bare on": (
        replaced("      object: Contact\n", "      object: Contact\n      on: x # <--\n"),
        "sync 'contacts': unknown name 'on'.",
    ),
    "unknown parent": (
        replaced("{parent: accounts, from: account_id}", "{parent: acounts, from: account_id} # <--"),
        "sync 'contacts': AccountId points to the parent 'acounts', which is no sync of this sequence. "
        "Did you mean 'accounts'?",
    ),
    "a parent without its column": (
        replaced(
            "        AccountId: {parent: accounts, from: account_id}",
            "        AccountId:\n          parents:\n            - {parent: accounts, from: account_id}\n"
            "            - {parent: contacts, form: contact_id} # <--",
        ),
        "sync 'contacts': unknown name 'form'. Did you mean 'from'?",
    ),
    "an unknown one of several parents": (
        replaced(
            "        AccountId: {parent: accounts, from: account_id}",
            "        AccountId:\n          parents:\n            - {parent: accounts, from: account_id}\n"
            "            - {parent: acounts, from: contact_id} # <--",
        ),
        "sync 'contacts': AccountId points to the parent 'acounts', which is no sync of this sequence. "
        "Did you mean 'accounts'?",
    ),
    "cycle": (
        replaced(
            "        Name: name\n",
            "        Name: name\n        Main__c: {parent: contacts, from: main_contact_id} # <--\n",
        ),
        "the syncs wait for each other in a circle:",
    ),
    "missing key": (
        replaced("    - name: contacts\n", "    - name: contacts # <--\n").replace("      key: contact_id\n", ""),
        "sync 'contacts': key is missing.",
    ),
    "empty key": (replaced("key: contact_id", "key: [] # <--"), "sync 'contacts': key names the model's primary key"),
    "bad mapping form": (
        replaced("Email: email", "Email: [email] # <--"),
        "sync 'contacts': fields.Email: a field is mapped to a column name, or to one of {column: ...}",
    ),
    "column read as a boolean": (
        replaced("Email: email", "Email: yes # <--"),
        "sync 'contacts': fields.Email: a field is mapped to a column name",
    ),
    "constant read as a list": (
        replaced("{constant: Product}", "{constant: [Product]} # <--"),
        "sync 'contacts': fields.LeadSource.constant",
    ),
    "two syncs write one field": (
        replaced("        Name: name\n", "        Name: name # <--\n")
        .replace("      object: Contact\n", "      object: Account\n")
        .replace("LastName: last_name", "Name: last_name"),
        "syncs 'accounts' and 'contacts' both write Account.Name",
    ),
    "wrong word": (
        replaced("removed: delete", "removed: delet # <--"),
        "sync 'contacts': removed is 'delet'; it can be keep or delete or clear. Did you mean 'delete'?",
    ),
    "sensitive column": (
        replaced("sensitive: email", "sensitive: emial # <--"),
        "sensitive names 'emial', which is neither a mapped column nor a field. Did you mean 'email'?",
    ),
    "name twice in a mapping": (
        replaced("        Email: email\n", "        Email: email\n        Email: mail # <--\n"),
        "'Email' stands twice in the same mapping",
    ),
    "unknown destination": (
        replaced("destination: salesforce", "destination: salesfroce # <--"),
        "destination: no folder in defs/ 'salesfroce'. Did you mean 'salesforce'? Folders: crm, salesforce, warehouse.",
    ),
    "destination that is none": (
        replaced("destination: salesforce", "destination: warehouse # <--"),
        "destination: defs/warehouse holds a Warehouse, and a Connection is needed here.",
    ),
    "unknown warehouse": (
        replaced("  destination: salesforce", "  warehouse: warehose # <--\n  destination: salesforce"),
        "warehouse: no folder in defs/ 'warehose'. Did you mean 'warehouse'?",
    ),
    "model without a dbt project": (
        replaced("table: crm.contacts", "model: crm_contacts # <--"),
        "sync 'contacts': model 'crm_contacts' is a dbt model, and this sequence has dbt: null.",
    ),
    "no cron": (
        replaced("  dbt: null", '  dbt: null\n  runs_on:\n    - {cron: "every hour"} # <--'),
        "cron 'every hour' is no cron expression",
    ),
    "no time zone": (
        replaced("  dbt: null", '  dbt: null\n  runs_on:\n    - {cron: "0 * * * *", timezone: Europe/Pairs} # <--'),
        "timezone 'Europe/Pairs' is no known time zone. Did you mean 'Europe/Paris'?",
    ),
    "a cron that never comes": (
        on('{cron: "0 0 31 4,6 *"}'),
        "cron '0 0 31 4,6 *' never comes: none of its months has such a day.",
    ),
    "an interval without a unit": (
        on("{every: 1:30}"),
        "every: 90 is no length of time. Write a number with its unit: 90s, 30m, 26h, 2d, or 1h30m.",
    ),
    "two intervals": (on("{every: 1h}", "{every: 2h}"), "runs_on says every twice; the shorter interval is enough."),
    "an unknown name in a trigger": (on("{every: 1h, enable: true}"), "unknown name 'enable'. Did you mean 'enabled'?"),
    "after a sequence that is none": (
        on("{after: crn}"),
        "runs_on: after: no sequence 'crn'. Did you mean 'crm'? Sequences here: crm. One of another code location "
        "needs its location.",
    ),
    "after the sequence itself": (on("{after: crm}"), "runs_on: after names 'crm', the sequence itself."),
    "after one sequence twice": (
        on("{after: a, location: b}", "{after: a, location: b}"),
        "runs_on names after: a twice.",
    ),
    "after in a wrong way": (
        on("{after: crm, location: b, when: finish}"),
        "runs_on.when is 'finish'; it can be success or finished. Did you mean 'finished'?",
    ),
    "dbt Cloud without a job": (on("{dbt_cloud: {account: 1, token: {env: X}}}"), "runs_on.dbt_cloud.job is missing."),
    "dbt Cloud with a name for a number": (
        on("{dbt_cloud: {job: nightly, account: 1, token: {env: X}}}"),
        "job 'nightly' is no number; the address of the job's page shows it.",
    ),
    "dbt Cloud at no address": (
        on("{dbt_cloud: {job: 1, account: 1, token: {env: X}, url: cloud.getdbt.com/api}}"),
        "url is no access URL of dbt Cloud; it looks like https://cloud.getdbt.com, without a path.",
    ),
    "dbt Cloud with another name for env": (
        on("{dbt_cloud: {job: 1, account: {evn: X}, token: {env: X}}}"),
        "account: what the environment holds is named with {env: NAME}, and nothing else.",
    ),
    "wrong trigger": (
        replaced("  dbt: null", "  dbt: null\n  runs_on:\n    - {models: some} # <--"),
        "runs_on.models is 'some'; it can be all or any.",
    ),
    "trigger of no form": (
        replaced("  dbt: null", "  dbt: null\n  runs_on:\n    - {crom: '0 * * * *'} # <--"),
        "runs_on: a trigger is {cron: EXPRESSION, timezone: ZONE}, {every: 15m}, {models: all | any}, ",
    ),
    "underscores": (replaced("name: crm", "name: crm__all # <--"), "two underscores in a row"),
    "after a sync that is none": (
        replaced("      key: contact_id\n", "      key: contact_id\n      after: acounts # <--\n"),
        "sync 'contacts': after names 'acounts', which is no sync of this sequence. Did you mean 'accounts'?",
    ),
    "after itself": (
        replaced("      key: contact_id\n", "      key: contact_id\n      after: contacts # <--\n"),
        "sync 'contacts': after names the sync itself.",
    ),
    "unknown order": (
        replaced("  dbt: null", "  dbt: null\n  order: lsited # <--"),
        "order is 'lsited'; it can be lookups or listed. Did you mean 'listed'?",
    ),
    "unknown executor": (
        replaced("  dbt: null", "  dbt: null\n  executor: multi_process # <--"),
        "executor is 'multi_process'; it can be in_process or multiprocess. Did you mean 'multiprocess'?",
    ),
    "processes without multiprocess": (
        replaced("  dbt: null", "  dbt: null\n  max_concurrent: 4 # <--"),
        "max_concurrent is for executor: multiprocess; say so, or take it out.",
    ),
    "no process at all": (
        replaced("  dbt: null", "  dbt: null\n  executor: multiprocess\n  max_concurrent: 0 # <--"),
        "max_concurrent: Input should be greater than or equal to 1.",
    ),
    "unknown policy for errors": (
        replaced("  dbt: null", "  dbt: null\n  errors: {fatal: stopp} # <--"),
        "errors.fatal is 'stopp'; it can be stop or continue. Did you mean 'stop'?",
    ),
    "unknown policy for rejected rows": (
        replaced("      key: contact_id\n", "      key: contact_id\n      errors: {rejected_rows: continue} # <--\n"),
        "sync 'contacts': errors.rejected_rows is 'continue'; it can be stop or hold_children.",
    ),
    "a limit that is a number": (
        replaced("  dbt: null", "  dbt: null\n  errors: {max_rejected: 5} # <--"),
        "errors.max_rejected is 5; a mapping of names to values is needed here.",
    ),
    "more than everything": (
        replaced("  dbt: null", "  dbt: null\n  guards: {max_removed: {percent: 120}} # <--"),
        "guards.max_removed.percent: Input should be less than or equal to 100.",
    ),
    "unknown guard": (
        replaced("  dbt: null", "  dbt: null\n  guards: {max_deleted: null} # <--"),
        "Did you mean 'max_updated'? Known here: max_created, max_invalid, max_removed, max_updated.",
    ),
    "a name that is none": (
        replaced("    - name: contacts", "    - name: Contacts! # <--"),
        "sync 'Contacts!': name: String should match pattern",
    ),
    "a name too long for a table": (
        replaced("  name: crm", "  name: customers_and_their_workspaces # <--"),
        "name: String should have at most 24 characters.",
    ),
    "a name read as a boolean": (
        replaced("      object: Contact\n", "      object: no # <--\n"),
        "sync 'contacts': object: YAML reads this as false; put it in quotes.",
    ),
    "the same name twice": (
        replaced("    - name: contacts\n", "    - name: accounts\n").replace(
            "- name: accounts\n", "- name: accounts # <--\n", 1
        ),
        "two syncs are named 'accounts'; a name stands for one sync.",
    ),
    "a sync named finish": (
        replaced("    - name: contacts\n", "    - name: finish # <--\n"),
        "a sync cannot be named 'finish': that is the sequence's closing asset.",
    ),
    "two sources": (
        replaced("      table: crm.contacts\n", "      table: crm.contacts # <--\n      query: SELECT 1\n"),
        "sync 'contacts': say where its rows come from with exactly one of model, table, query; found table and query.",
    ),
    "no source": (
        replaced("    - name: contacts\n      table: crm.contacts\n", "    - name: contacts # <--\n"),
        "sync 'contacts': say where its rows come from with exactly one of model, table, query; found none.",
    ),
    "a key column twice": (
        replaced("key: contact_id", "key: [contact_id, contact_id] # <--"),
        "sync 'contacts': key names a column twice: contact_id, contact_id.",
    ),
    "removals without creations": (
        replaced("removed: delete", "mode: update\n      removed: delete # <--"),
        "sync 'contacts': removed: delete needs mode: upsert",
    ),
    "the match field mapped": (
        replaced(
            "      match: External_Id__c\n      removed", "      match: External_Id__c # <--\n      removed"
        ).replace("        Email: email\n", "        Email: email\n        External_Id__c: email\n"),
        "sync 'contacts': the match field External_Id__c is filled from the key; take it out of fields.",
    ),
    "a key that is sensitive": (
        replaced("key: contact_id", "key: contact_id # <--").replace("sensitive: email", "sensitive: contact_id"),
        "sync 'contacts': 'contact_id' cannot be sensitive",
    ),
    "a lookup with too many columns": (
        replaced("{parent: accounts, from: account_id}", "{parent: accounts, from: [account_id, region]} # <--"),
        "sync 'contacts': AccountId needs 1 column(s) in from, as many as the key of 'accounts' has (account_id)",
    ),
    "one field in two spellings": (
        replaced("        Email: email\n", "        Email: email # <--\n        EMAIL: email\n"),
        "sync 'contacts': Email and EMAIL are one field of Contact",
    ),
    "drift of a field that is none": (
        replaced("sensitive: email", "sensitive: email\n      drift: {fields: Emial} # <--"),
        "sync 'contacts': drift names 'Emial', which is no field filled from a column, a constant or a parent. "
        "Did you mean 'Email'?",
    ),
    "two sensors": (
        replaced("  dbt: null", "  dbt: null\n  runs_on:\n    - {models: all}\n    - {models: any} # <--"),
        "runs_on names models twice; one of {models: all} and {models: any} counts.",
    ),
    "fields that are none": (
        SHORT + "  syncs:\n    - {name: a, table: t, key: id, object: O, match: M, fields: name} # <--\n",
        "sync 'a': fields is 'name'; a mapping of names to values is needed here.",
    ),
    "syncs that are none": (
        SHORT + "  syncs: accounts # <--\n",
        "syncs is 'accounts'; a list is needed here.",
    ),
    "a sync that is none": (
        SHORT + "  syncs:\n    - accounts # <--\n",
        "syncs is 'accounts'; a mapping of names to values is needed here.",
    ),
    "no syncs": (
        SHORT + "  syncs: [] # <--\n",
        "syncs is empty; a sequence has at least one sync.",
    ),
    "an owner's list that is a mapping": (
        replaced("owners: team:revops", "owners: {team: revops} # <--"),
        "owners is {'team': 'revops'}; a list is needed here.",
    ),
}


def test_there_are_enough_of_them() -> None:
    assert len(WRONG) >= 40


@pytest.mark.parametrize("case", WRONG)
def test_message_and_line(case: str) -> None:
    text, message = WRONG[case]
    with location(crm=text) as made:
        file = made.root / "src" / next((made.root / "src").iterdir()).name / "defs" / "crm" / "defs.yaml"
        found = error_of(made)
        assert found.startswith(f"{file}:{line_of(text)}: "), found
        assert message in found
        # The line itself, with a caret below it.
        assert re.search(r"\n +\d+ \| .*# <--\n +\^", found), found


def test_every_mistake_at_once() -> None:
    text = PAIR.replace("      key: account_id\n", "").replace("removed: delete", "removed: delet")
    with location(crm=text) as made:
        found = error_of(made)
    assert "sync 'accounts': key is missing." in found
    assert "removed is 'delet'" in found


def test_connections_do_not_show_their_secrets() -> None:
    with location(salesforce=SALESFORCE.replace("client_id: id", "client_id: 7\n  clent_secret: hunter2")) as made:
        found = error_of(made)
    assert "unknown name 'clent_secret'. Did you mean 'client_secret'? Known here: allow_production," in found
    assert re.search(r"salesforce/defs\.yaml:\d+: ", found)
    assert "hunter2" not in found


def test_state_that_would_die_with_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with location(warehouse=WAREHOUSE) as made:
        found = error_of(made)
    assert re.search(r"warehouse/defs\.yaml:\d+: warehouse: in a pod the ledgers", found)


def test_attributes_missing_altogether() -> None:
    with location(crm="type: seqsync_dagster.SyncSequence\n") as made:
        found = error_of(made)
    assert re.search(r"crm/defs\.yaml:1: name is missing\.", found)
    assert "syncs is missing." in found


def test_made_in_python_without_a_file() -> None:
    from seqsync_dagster import SyncSequence

    with pytest.raises(ConfigurationError, match=r"unknown name 'nmae'\. Did you mean 'name'"):
        SyncSequence.from_attributes_dict(attributes={"nmae": "crm"})


def test_what_the_command_line_prints() -> None:
    text, _ = WRONG["unknown parent"]
    with location(crm=text) as made:
        package = next((made.root / "src").iterdir())
        (package / "__init__.py").touch()
        (package / "definitions.py").write_text(
            "from pathlib import Path\nimport dagster as dg\n"
            "@dg.definitions\ndef defs():\n"
            "    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
        )
        done = subprocess.run(
            [sys.executable, "-m", "dagster", "definitions", "validate", "-m", f"{package.name}.definitions"],
            cwd=package.parent,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert f"{package.name}/defs/crm/defs.yaml:{line_of(text)}: sync 'contacts': AccountId points to" in done.stdout
    assert "Did you mean 'accounts'?" in done.stdout


def test_a_file_that_is_no_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "defs.yaml"
    file.write_text("type: x\nattributes:\n  key: a: b\n")
    with pytest.raises(yaml.YAMLError) as broken, file.open() as stream:
        yaml.safe_load(stream)
    wrapped = RuntimeError("while loading")
    wrapped.__cause__ = broken.value
    mistake = mistake_behind(wrapped)
    assert mistake is not None
    assert str(mistake).startswith(f"{file}:3: this is not YAML: mapping values are not allowed here.")


@pytest.mark.parametrize(
    "trigger",
    [
        "{dbt_cloud: {job: 1, account: 2, token: s3cr3t}}",
        "{dbt_cloud: {job: x, account: 2, token: s3cr3t}}",
        "{dbt_cloud: {job: 1, account: 2, token: s3cr3t}, enable: true}",
        "{dbt_cloud: {job: 1, account: 2, token: {env: X, default: s3cr3t}}}",
        "{dbt_cloud: {job: 1, account: 2, token: {evn: s3cr3t}}}",
        "{dbt_cloud: {job: 1, account: 2, token: s3cr3t, token: s3cr3t}}",
        "{dbt_cloud: {job: 1, account: 2, token: s3cr3t}",
        "{dbt_cloud: {job: 1, account: 2, token: s3cr3t]}}",
        "{dbt_cloud: {job: 1, account: 2, token: [s3cr3t]}}",
        "{dbt_cloud: {job: 1, account: 2, token: 's3cr3t'}}",
    ],
)
def test_a_secret_in_a_file_is_refused_and_not_shown(trigger: str) -> None:
    with location(crm=replaced("  dbt: null", f"  dbt: null\n  runs_on:\n    - {trigger}")) as made:
        message = error_of(made)
    assert re.search(r"crm/defs\.yaml:\d+: ", message)
    assert "s3cr3t" not in message


def test_sequences_that_run_after_each_other_in_a_circle() -> None:
    def sequence(name: str, after: str) -> str:
        text = replaced("  dbt: null", f"  dbt: null\n  runs_on:\n    - {{after: {after}}}")
        return replaced("name: crm", f"name: {name}", text)

    with location(a=sequence("one", "three"), b=sequence("two", "one"), c=sequence("three", "two")) as made:
        message = error_of(made)
        assert "the sequences run after each other in a circle: one runs after three runs after two runs" in message
        assert f"{made.root}" in message and "a/defs.yaml:7" in message
        made.write("a", sequence("one", "three").replace("after: three", "after: three, location: elsewhere"))
        made.load()
