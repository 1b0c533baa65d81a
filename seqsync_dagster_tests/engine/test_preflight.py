"""What a mapping is told before anything is sent: every problem of it, each with its field and its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from seqsync_dagster.destinations.salesforce.describe import read_describe
from seqsync_dagster.destinations.salesforce.destination import SalesforceDestination
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings
from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.engine.preflight.mapped import Mapped, Write, first_writes
from seqsync_dagster.engine.preflight.mapping import check_mapping
from seqsync_dagster.errors import ConfigurationError, DestinationRefused, ModelMissing
from seqsync_dagster.ledger.tables import StateTables
from seqsync_dagster.sequence.spec import SequenceSpec
from seqsync_dagster.warehouse.column_types import read_type
from seqsync_dagster.warehouse.open import qualified
from seqsync_dagster_tests.emulator_process import EmulatorProcess
from seqsync_dagster_tests.engine.world import ACCOUNTS, WORKSPACES, World, crm

#: A model's columns, with type names of both engines.
TYPES = {
    "id": "VARCHAR",
    "other_id": "VARCHAR",
    "name": "varchar(200)",
    "flag": "BOOLEAN",
    "small": "int4",
    "number": "BIGINT",
    "whole": "DECIMAL(12,0)",
    "amount": "DECIMAL(18,4)",
    "share": "DOUBLE",
    "day": "DATE",
    "moment": "timestamptz",
    "clock": "TIME",
    "token": "UUID",
    "shape": "polygon",
}
PARENT = {
    "name": "accounts",
    "table": "crm.accounts",
    "key": "id",
    "object": "Account",
    "match": "External_Id__c",
    "fields": {"Name": "name"},
}
TO_ACCOUNT = {"parent": "accounts", "from": "other_id"}


@pytest.fixture(scope="module")
def org(module_emulator: EmulatorProcess) -> Iterator[SalesforceDestination]:
    settings = SalesforceSettings.model_validate(
        {"url": module_emulator.url, "client_id": "demo", "client_secret": "demo-secret"}
    )
    destination = SalesforceDestination(settings, "salesforce")
    yield destination
    destination.close()


def checked(
    org: SalesforceDestination,
    object: str,
    fields: dict[str, Any],
    *,
    writes: set[Write] | None = None,
    sent_types: dict[str, str] | None = None,
    types: dict[str, str] | None = None,
    **more: Any,
) -> list[str]:
    """The risks of one sync of `object`, beside a sync of accounts; raises with its problems."""
    sync = {
        "name": "tested",
        "table": "crm.tested",
        "key": "id",
        "object": object,
        "match": "External_Id__c",
        "fields": fields,
        **more,
    }
    sequence = SequenceSpec.model_validate({"name": "crm", "destination": "salesforce", "syncs": [PARENT, sync]})
    tested = sequence.sync("tested")
    asked = first_writes(tested) if writes is None else frozenset(writes)
    return check_mapping(org, Mapped(sequence, tested, types or TYPES, asked, sent_types or {}))


def problems(org: SalesforceDestination, object: str, fields: dict[str, Any], **more: Any) -> list[str]:
    """The lines of the one message."""
    with pytest.raises(ConfigurationError) as refused:
        checked(org, object, fields, **more)
    head, *lines = str(refused.value).splitlines()
    assert head == f"sync tested: its fields do not fit {object} in the destination. Nothing was sent."
    return [line.removeprefix("  - ") for line in lines]


def of(object: str, **more: Any) -> dict[str, Any]:
    return {"object": object, **more}


ACCOUNT, CONTACT, SUBSCRIPTION = (of(o, mode="update") for o in ("Account", "Contact", "Subscription__c"))
TASK = of("Task")


@pytest.mark.parametrize(
    ("sync", "fields", "line"),
    [
        # Fields that are not there, or that nobody writes.
        (ACCOUNT, {"Websit": "name"}, "Account has no field 'Websit', or this user may not see it. "
         "Did you mean 'Website'?"),
        (ACCOUNT, {"Zzzzzz": "name"}, "Account has no field 'Zzzzzz', or this user may not see it. "
         "Correct the name, or let this user see the field."),
        (SUBSCRIPTION, {"Annual_Amount__c": "amount"},
         "Subscription__c.Annual_Amount__c is a formula: the destination computes it. Take it out of fields"),
        (SUBSCRIPTION, {"Name": "name"},
         "Subscription__c.Name is an auto-number: the destination counts it. Take it out of fields"),
        (SUBSCRIPTION, {"Legacy_Code__c": "name"}, "Subscription__c.Legacy_Code__c is read-only for this user. "
         "Take it out of fields, or give this user edit access to it"),
        (CONTACT, {"Name": "name"}, "Contact.Name is read-only for this user. "
         "Take it out of fields, or give this user edit access to it"),
        (SUBSCRIPTION, {"Account__c": TO_ACCOUNT}, "Subscription__c.Account__c cannot be updated by this user. "
         "Take it out of fields, or give this user edit access to it"),
        # Lookups.
        (CONTACT, {"Workspace__c": TO_ACCOUNT}, "Contact.Workspace__c points to Workspace__c, but sync 'accounts' "
         "writes Account. Fields of Contact that point to Account: AccountId"),
        (CONTACT, {"Title": TO_ACCOUNT}, "Contact.Title (string) is no lookup, but sync 'accounts' writes Account. "
         "Fields of Contact that point to Account: AccountId"),
        (TASK, {"WhoId": TO_ACCOUNT}, "Task.WhoId points to Contact or Lead, but sync 'accounts' writes Account. "
         "Fields of Task that point to Account: WhatId"),
        (TASK, {"WhatId": {"parents": [TO_ACCOUNT, {"parent": "tested", "from": "name"}]}},
         "Task.WhatId points to Account or Contract or Subscription__c or Workspace__c, but sync 'tested' writes Task. "
         "Fields of Task that point to Task: none"),
        (TASK, {"OwnerId": {"lookup": "Account", "by": "Name", "from": "name"}}, "Task.OwnerId points to Group or "
         "User, but the mapping finds Account. Fields of Task that point to Account: WhatId"),
        (ACCOUNT, {"OwnerId": {"lookup": "User", "by": "Emial", "from": "name"}},
         "Account.OwnerId: by: User has no field 'Emial', or this user may not see it. Did you mean 'Email'?"),
        (ACCOUNT, {"OwnerId": {"lookup": "User", "by": "IsActive", "from": "name"}}, "Account.OwnerId: records cannot "
         "be found by User.IsActive (boolean). Search by a field that tells them apart: Email, Id, Username"),
        (ACCOUNT, {"ParentId": {"lookup": "Account", "by": "Description", "from": "name"}},
         "Account.ParentId: records cannot be found by Account.Description (textarea). "
         "Search by a field that tells them apart: External_Id__c, Id"),
        # Types.
        (ACCOUNT, {"Active__c": "number"}, "Account.Active__c (boolean) cannot take column 'number' (BIGINT). "
         "Cast it in the model to a boolean"),
        (ACCOUNT, {"Customer_Since__c": "moment"}, "Account.Customer_Since__c (date) cannot take column 'moment' "
         "(timestamptz). Cast it in the model to a date"),
        (ACCOUNT, {"Last_Seen__c": "day"}, "Account.Last_Seen__c (datetime) cannot take column 'day' (DATE). "
         "Cast it in the model to a timestamp"),
        (ACCOUNT, {"Last_Seen__c": "clock"}, "Account.Last_Seen__c (datetime) cannot take column 'clock' (TIME). "
         "Cast it in the model to a timestamp"),
        (ACCOUNT, {"AnnualRevenue": "flag"}, "Account.AnnualRevenue (currency) cannot take column 'flag' (BOOLEAN). "
         "Cast it in the model to a number"),
        (ACCOUNT, {"NumberOfEmployees": "share"}, "Account.NumberOfEmployees (int) cannot take column 'share' "
         "(DOUBLE). Cast it in the model to an integer: the field takes whole numbers only"),
        (ACCOUNT, {"NumberOfEmployees": "amount"}, "Account.NumberOfEmployees (int) cannot take column 'amount' "
         "(DECIMAL(18,4)). Cast it in the model to an integer: the field takes whole numbers only"),
        (ACCOUNT, {"ParentId": "number"}, "Account.ParentId (reference) cannot take column 'number' (BIGINT): it holds "
         "the id of a record. Find it with {parent: SYNC, from: number} or {lookup: OBJECT, by: FIELD, from: number}"),
        # Constants, whose value is known.
        (SUBSCRIPTION, {"Status__c": {"constant": "Activ"}}, "Subscription__c.Status__c (picklist) cannot take the "
         "constant 'Activ': it is no value of the picklist. Did you mean 'Active'? Values: Trial, Active, Past Due, "
         "Cancelled"),
        (SUBSCRIPTION, {"Auto_Renews__c": {"constant": "yes"}}, "Subscription__c.Auto_Renews__c (boolean) cannot take "
         "the constant 'yes': write true or false"),
        (SUBSCRIPTION, {"Term_Months__c": {"constant": 1000}}, "Subscription__c.Term_Months__c (double) cannot take "
         "the constant 1000: write a number of at most 3 digits before the point"),
        (SUBSCRIPTION, {"Renews_On__c": {"constant": "31.12.2024"}}, "Subscription__c.Renews_On__c (date) cannot take "
         "the constant '31.12.2024': write a date as '2024-12-31'"),
        (SUBSCRIPTION, {"Signed_At__c": {"constant": "2024-12-31"}}, "Subscription__c.Signed_At__c (datetime) cannot "
         "take the constant '2024-12-31': write a moment with its zone as '2024-12-31T23:59:59Z'"),
        (ACCOUNT, {"NumberOfEmployees": {"constant": 2.5}},
         "Account.NumberOfEmployees (int) cannot take the constant 2.5: write a whole number"),
        (ACCOUNT, {"Phone": {"constant": "1" * 41}},
         f"Account.Phone (phone) cannot take the constant '{'1' * 41}': the field holds 40 characters"),
        (ACCOUNT, {"ParentId": {"constant": "A1"}}, "Account.ParentId (reference) cannot take the constant 'A1': "
         "write a record's id, of 15 or 18 characters; or find the record with parent: or lookup:"),
        # What an object asks for.
        (of("Account", match="Website"), {"Phone": "name"}, "Account requires Name, which nothing is mapped "
         "to. Map a column or a constant, or say mode: update, which creates no record"),
        (of("User", match="Username", removed="delete"), {"LastName": "name", "Email": "name"},
         "records of User cannot be created by this user (mode: upsert). "
         "Give this user the permission on the object, or say mode: update"),
        (of("User", match="Username", removed="delete"), {"LastName": "name", "Email": "name"},
         "records of User cannot be deleted by this user (removed: delete). "
         "Give this user the permission on the object, or say removed: keep"),
        (of("User", match="Username", mode="update"), {"LastName": "name"},
         "records of User cannot be updated by this user (mode: update). Give this user the permission on the object"),
        # The match field.
        (of("Task", match="Externl_Id__c"), {"Subject": "name"}, "match: Task has no field 'Externl_Id__c', "
         "or this user may not see it. Did you mean 'External_Id__c'?"),
        (of("Contact", match="Phone", mode="update"), {"Title": "name"}, "Contact.Phone cannot be matched on; "
         "it is no external id. Fields of Contact that can: Email, External_Id__c, Id"),
        (of("Subscription__c", match="Batch__c"), {"Account__c": TO_ACCOUNT}, "Subscription__c.Batch__c "
         "cannot be matched on; it is not unique there, so that a key could stand in several records: make it unique. "
         "Fields of Subscription__c that can: External_Id__c"),
        (of("Task", match="Id"), {"Subject": "name"}, "Task.Id cannot be matched on; the destination fills it "
         "itself, and mode: upsert creates records by it. Fields of Task that can: External_Id__c"),
        (of("Task", match="Id", mode="update", key=["id", "other_id"]), {"Subject": "name"},
         "Task.Id (id) cannot be matched on: a key of several columns (id, other_id) is one text. "
         "Match on a text field"),
        (of("Subscription__c", match="Batch__c", mode="update", key="token"), {"Amount__c": "amount"},
         "Subscription__c.Batch__c (string) holds 20 characters, column 'token' (UUID) sends 36 in every row. "
         "Use a longer field"),
    ],
)  # fmt: skip
def test_a_wrong_mapping_is_told_field_fault_and_remedy(
    org: SalesforceDestination, sync: dict[str, Any], fields: dict[str, Any], line: str
) -> None:
    assert line in problems(org, fields=fields, **sync)


@pytest.mark.parametrize(
    ("sync", "fields"),
    [
        (ACCOUNT, {"Website": "number", "Description": "moment", "Industry": "flag", "Phone": "amount"}),
        (ACCOUNT, {"NumberOfEmployees": "whole", "AnnualRevenue": "number", "Active__c": "flag"}),
        (ACCOUNT, {"NumberOfEmployees": "small", "AnnualRevenue": "share", "Description": "shape"}),
        (ACCOUNT, {"Customer_Since__c": "day", "Last_Seen__c": "moment", "ParentId": "other_id"}),
        (ACCOUNT, {"Industry": {"constant": "Beekeeping"}, "Active__c": {"constant": True}}),
        (ACCOUNT, {"OwnerId": {"lookup": "user", "by": "Email", "from": "name"}}),
        (TASK, {"WhatId": TO_ACCOUNT, "OwnerId": {"lookup": "User", "by": "Email", "from": "name"}}),
        (TASK, {"WhoId": {"lookup": "Contact", "by": "External_Id__c", "from": "name"}, "Subject": "name"}),
        # Unique among the record types of one object, and no others are looked among.
        (ACCOUNT, {"RecordTypeId": {"lookup": "RecordType", "by": "DeveloperName", "from": "name"}}),
        (of("Account", match="Id", mode="update"), {"Phone": "name"}),
        (of("Subscription__c"), {"Account__c": TO_ACCOUNT, "Status__c": {"constant": "Past Due"}}),
    ],
)
def test_what_the_destination_converts_or_takes_is_neither_problem_nor_risk(
    org: SalesforceDestination, sync: dict[str, Any], fields: dict[str, Any]
) -> None:
    assert checked(org, fields=fields, **sync) == []


@pytest.mark.parametrize(
    ("fields", "risk"),
    [
        ({"Customer_Since__c": "name"}, "Account.Customer_Since__c (date) is filled from column 'name' (varchar(200)): "
         "rows whose text is not a date are refused"),
        ({"NumberOfEmployees": "name"}, "Account.NumberOfEmployees (int) is filled from column 'name' (varchar(200)): "
         "rows whose text is not an integer are refused"),
        ({"AnnualRevenue": "amount"}, "Account.AnnualRevenue (currency) keeps 2 digits after the point, "
         "column 'amount' (DECIMAL(18,4)) has 4: the rest is rounded away"),
        ({"RecordTypeId": {"lookup": "RecordType", "by": "Name", "from": "name"}}, "Account.RecordTypeId is found by "
         "RecordType.Name, which is not unique there: where several records have the value, if_missing: hold decides"),
        ({"OwnerId": {"lookup": "User", "by": "LastName", "from": "name"}}, "Account.OwnerId is found by User.LastName,"
         " which is not unique there: where several records have the value, if_missing: hold decides"),
    ],
)  # fmt: skip
def test_what_only_some_rows_may_break_is_a_risk(org: SalesforceDestination, fields: Any, risk: str) -> None:
    assert checked(org, fields=fields, **ACCOUNT) == [risk]


def test_digits_before_the_point_that_do_not_fit_are_a_risk_too(org: SalesforceDestination) -> None:
    risks = checked(org, "Subscription__c", {"Amount__c": "amount"}, mode="update")
    assert risks[0] == (
        "Subscription__c.Amount__c (currency) holds 8 digits before the point: "
        "rows of column 'amount' (DECIMAL(18,4)) with more are refused"
    )


def test_a_column_that_was_retyped_is_named_as_the_models_fault(org: SalesforceDestination) -> None:
    found = problems(org, "Account", {"Active__c": "number"}, mode="update", sent_types={"number": "boolean"})
    assert found == [
        "Account.Active__c (boolean) cannot take column 'number' (now BIGINT: the model changed, it was boolean when "
        "last sent). Cast it in the model to a boolean"
    ]
    longer = problems(org, "Account", {"Active__c": "name"} | {"Nmae": "name"}, sent_types={"name": "varchar"})
    assert not any("the model changed" in line for line in longer)


def test_a_field_that_is_set_only_once_stops_a_plan_with_updates_and_no_other(org: SalesforceDestination) -> None:
    fields = {"Account__c": TO_ACCOUNT}
    assert checked(org, "Subscription__c", fields, writes={"create"}) == []
    assert problems(org, "Subscription__c", fields, writes={"create", "update"}) == [
        "Subscription__c.Account__c can only be set when a record is created, and the plan has updates. Take it out of "
        "fields, or let it be changed there (a master-detail field: allow reparenting)"
    ]


def test_a_sensitive_constant_is_not_quoted(org: SalesforceDestination) -> None:
    fields = {"Status__c": {"constant": "Hush"}, "Account__c": TO_ACCOUNT}
    text = "\n".join(problems(org, "Subscription__c", fields, sensitive="Status__c"))
    assert "the constant ***" in text and "Hush" not in text


def test_an_unknown_object_is_named_with_the_nearest(org: SalesforceDestination) -> None:
    with pytest.raises(DestinationRefused, match=r"no object 'Subscripton__c'.*Did you mean 'Subscription__c'"):
        checked(org, "Subscripton__c", {"Name": "name"})
    (line,) = problems(org, "Task", {"WhatId": {"lookup": "Contract", "by": "Name", "from": "name"}})
    assert line.startswith("Task.WhatId: lookup: Salesforce at http") and "has no object 'Contract'" in line


def test_several_values_of_a_restricted_picklist_are_judged_one_by_one() -> None:
    said = {"createable": True, "updateable": True, "nillable": True}
    values = [{"value": v, "active": v != "Old"} for v in ("Red", "Blue", "Old")]
    field = {"name": "Tags__c", "type": "multipicklist", "length": 4099, "restrictedPicklist": True, **said}
    key = {"name": "External_Id__c", "type": "string", "length": 80, "externalId": True, "unique": True, **said}
    info = read_describe({"name": "Thing__c", "fields": [{**field, "picklistValues": values}, key]})

    class Described:
        def describe(self, object: str) -> Any:
            return info

        def remarks(self, object: str, options: Any) -> list[Any]:
            return []

    def check(constant: str) -> list[str]:
        return checked(Described(), "Thing__c", {"Tags__c": {"constant": constant}})  # type: ignore[arg-type]

    assert check("Red;Blue") == []
    with pytest.raises(ConfigurationError, match="'Red;Old': it is no value of the picklist"):
        check("Red;Old")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("VARCHAR", "text"), ("character varying(20)", "text"), ("bpchar(3)", "text"), ("ENUM('a', 'b')", "text"),
        ("jsonb", "text"), ("JSON", "text"), ("UUID", "uuid"), ("bool", "boolean"), ("HUGEINT", "integer"),
        ("int8", "integer"), ("UTINYINT", "integer"), ("numeric(10,2)", "decimal"), ("numeric", "decimal"),
        ("double precision", "float"), ("float4", "float"), ("FLOAT", "float"), ("DATE", "date"),
        ("TIMESTAMP WITH TIME ZONE", "datetime"), ("TIMESTAMP_NS", "datetime"), ("timestamptz", "datetime"),
        ("timestamp without time zone", "datetime"), ("timetz", "time"), ("INTEGER[]", "unknown"),
        ("polygon", "unknown"), ("VARCHAR(10)[3]", "unknown"),
    ],
)  # fmt: skip
def test_both_engines_names_of_types_are_read(name: str, kind: str) -> None:
    assert read_type(name).kind == kind


def test_a_decimals_digits_are_read() -> None:
    assert [(t.precision, t.scale) for t in map(read_type, ("DECIMAL(18,2)", "numeric(5)", "numeric"))] == [
        (18, 2), (5, 0), (0, 0),
    ]  # fmt: skip


def test_every_problem_stands_in_one_message_before_anything_is_sent(world: World) -> None:
    world.sql(
        "CREATE TABLE crm.subscriptions (id text, account_id text, code bigint, amount decimal(10, 2), "
        "renews timestamp, auto bigint)"
    )
    world.insert("crm.subscriptions", [("S1", "A1", 1, 2, None, 1)])
    world.sequence = crm(
        ACCOUNTS,
        {
            "name": "subscriptions",
            "table": "crm.subscriptions",
            "key": "id",
            "object": "Subscription__c",
            "match": "Batch__c",
            "fields": {
                "Name": "code",
                "Status__c": {"constant": "Activ"},
                "Amuont__c": "amount",
                "Annual_Amount__c": "amount",
                "Renews_On__c": "renews",
                "Auto_Renews__c": "auto",
                "OwnerId": {"parent": "accounts", "from": "account_id"},
            },
        },
    )
    with pytest.raises(ConfigurationError) as refused:
        world.run("subscriptions")
    lines = str(refused.value).splitlines()
    starts = [
        "sync subscriptions: its fields do not fit Subscription__c in the destination. Nothing was sent.",
        "  - Subscription__c.Batch__c cannot be matched on; it is not unique",
        "  - Subscription__c.Name is an auto-number",
        "  - Subscription__c.Status__c (picklist) cannot take the constant 'Activ'",
        "  - Subscription__c has no field 'Amuont__c'",
        "  - Subscription__c.Annual_Amount__c is a formula",
        "  - Subscription__c.Renews_On__c (date) cannot take column 'renews'",
        "  - Subscription__c.Auto_Renews__c (boolean) cannot take column 'auto'",
        "  - Subscription__c.OwnerId points to Group or User, but sync 'accounts' writes Account.",
        "  - Subscription__c requires Account__c",
    ]
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))
    calls = world.org.calls()
    assert calls["row_bearing"] == 0
    assert [n for path, n in calls["calls"].items() if path.endswith("/describe")] == [1]


def test_a_refused_first_run_leaves_the_object_and_the_match_field_open(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", None, None)])
    world.sequence = crm({**ACCOUNTS, "object": "Contact"})
    with pytest.raises(ConfigurationError, match="fields do not fit Contact"):
        world.run("accounts")
    world.sequence = crm()
    assert world.run("accounts").counts.created == 1


def test_the_check_comes_before_the_search_for_records(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", "ana.kovac@example.com", None)])
    world.sequence = crm({**ACCOUNTS, "fields": {"Name": "name"}})
    world.run("accounts")
    owner = {"lookup": "User", "by": "Emial", "from": "website"}
    world.sequence = crm({**ACCOUNTS, "fields": {"Name": "name", "OwnerId": owner, "Nmae": "name"}})
    world.org.reset_calls()
    with pytest.raises(ConfigurationError, match=r"(?s)OwnerId: by: User has no field 'Emial'.*no field 'Nmae'"):
        world.run("accounts")
    calls = world.org.calls()
    # One query: who the org is. None looks for users.
    assert (calls["row_bearing"], calls["calls"]["GET /services/data/vN/query"]) == (0, 1)


def test_an_unchanged_run_asks_for_no_description(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", None, None)])
    world.run("accounts")
    world.org.reset_calls()
    assert world.run("accounts").counts.planned == 0
    assert world.org.calls()["total"] == 0
    world.sql("UPDATE crm.accounts SET name = 'b'")
    world.run("accounts")
    described = [n for path, n in world.org.calls()["calls"].items() if path.endswith("/describe")]
    assert described == [1]


def test_risks_are_told_once_not_at_every_run(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, "fields": {"Name": "name", "Customer_Since__c": "website"}})
    world.insert("crm.accounts", [("A1", "a", "2024-01-31", None)])
    world.run("accounts")
    (risk,) = [line for line in world.lines if "rows whose text is not a date are refused" in line]
    assert risk.startswith("accounts: Account.Customer_Since__c (date) is filled from column 'website'")
    assert world.org.records("Account")[0]["Customer_Since__c"] == "2024-01-31"
    world.sql("UPDATE crm.accounts SET website = '2024-02-01'")
    assert world.run("accounts").counts.updated == 1
    assert len([line for line in world.lines if "rows whose text" in line]) == 1


def test_numbers_and_booleans_fill_text_fields_whichever_way_they_are_sent(world: World) -> None:
    world.sql("CREATE TABLE crm.numbers (id text, a bigint, b decimal(10, 2), c boolean)")
    world.insert("crm.numbers", [(f"N{i}", 3300 + i, f"{i}.50", i == 1) for i in range(3)])
    fields = {"Name": "a", "Phone": "b", "BillingCity": "c"}
    world.sequence = crm({**ACCOUNTS, "table": "crm.numbers", "key": "id", "fields": fields})
    for threshold in (0, 2000):
        world.settings["collections_up_to"] = threshold
        world.org.reset()
        world.run("accounts", RunOptions(rebuild_ledger=True))
        record = world.org.by_external_id("Account")["N1"]
        assert (record["Name"], record["Phone"], record["BillingCity"]) == ("3301", "1.50", "true")


def test_a_retyped_column_is_named_in_the_reason_of_the_resync(world: World) -> None:
    world.sequence = crm({**ACCOUNTS, "fields": {"Name": "name", "Website": "website"}})
    world.insert("crm.accounts", [(f"A{i}", f"n{i}", str(i), None) for i in range(3)])
    world.run("accounts")
    retyped = "ALTER TABLE crm.accounts ALTER COLUMN website TYPE bigint"
    world.sql(retyped if world.on_duckdb else retyped + " USING website::bigint")
    was, became = ("varchar", "bigint") if world.on_duckdb else ("text", "int8")
    report = world.run("accounts")
    assert report.resync_reason == f"the model's column 'website' changed its type from {was} to {became}"
    assert world.org.by_external_id("Account")["A2"]["Website"] == "2"
    assert world.run("accounts").counts.planned == 0


def test_what_changed_in_the_mapping_is_the_reason_of_the_resync(world: World) -> None:
    world.insert("crm.accounts", [("A1", "a", "site", None)])
    before = {"Name": "name", "Website": "website", "Industry": {"constant": "Retail"}}
    after = {"Name": "website", "Phone": {"column": "name", "nulls": "ignore"}, "Industry": {"constant": "Energy"}}
    world.sequence = crm({**ACCOUNTS, "fields": before})
    world.run("accounts")
    world.sequence = crm({**ACCOUNTS, "fields": after})
    assert world.run("accounts").resync_reason == (
        "Name is filled from column 'website', it was column 'name'; Phone was added to the mapping; "
        "Industry has another constant; Website was taken out of the mapping"
    )


def test_a_retyped_column_that_no_longer_fits_is_the_models_fault(world: World) -> None:
    world.sql("CREATE TABLE crm.flags (id text, flag boolean)")
    world.insert("crm.flags", [("F1", True)])
    fields = {"Name": "id", "Active__c": "flag"}
    world.sequence = crm({**ACCOUNTS, "table": "crm.flags", "key": "id", "fields": fields})
    world.run("accounts")
    retyped = "ALTER TABLE crm.flags ALTER COLUMN flag TYPE integer"
    world.sql(retyped if world.on_duckdb else retyped + " USING flag::integer")
    with pytest.raises(ConfigurationError, match=r"column 'flag' \(now .*: the model changed, it was bool"):
        world.run("accounts")
    world.sql("ALTER TABLE crm.flags DROP COLUMN flag")
    with pytest.raises(ModelMissing, match=r"has no column 'flag'.*Mend the mapping, or the model"):
        world.run("accounts")


def test_a_ledger_of_an_earlier_release_is_taken_up(world: World) -> None:
    """Its `syncs` has no column that tells the mapping; the first run adds it, and sends nothing again."""
    world.sequence = crm(ACCOUNTS, WORKSPACES)
    world.insert("crm.accounts", [("A1", "a", None, None)])
    world.insert("crm.workspaces", [("W1", "w", "Free", "A1")])
    world.run_all()
    for sync in ("accounts", "workspaces") if world.on_duckdb else ("accounts",):
        _without_mapping(world, sync)
    # A child that reads its parent's ledger, which nobody has brought up to date yet.
    assert world.run("workspaces").counts.planned == 0
    assert world.run("accounts").counts.planned == 0
    world.sequence = crm({**ACCOUNTS, "fields": {"Name": "name"}}, WORKSPACES)
    assert world.run("accounts").resync_reason == "the mapping, or a type of the model, changed"
    world.sequence = crm(ACCOUNTS, WORKSPACES)
    assert "Website was added to the mapping" in (world.run("accounts").resync_reason or "")


def _without_mapping(world: World, sync: str) -> None:
    site = world.site()
    with site.warehouse.open("crm", sync) as room:
        syncs = StateTables.of(world.sequence, world.sequence.sync(sync), room.schema).syncs
        room.connection.exec_driver_sql(f"ALTER TABLE {qualified(syncs)} DROP COLUMN mapping")
        room.connection.commit()
    site.warehouse.close()
    site.journal.close()
