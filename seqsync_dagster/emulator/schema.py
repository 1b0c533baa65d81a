"""The objects and fields of the emulated org, and how they describe themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

SOAP_TYPES = {
    "id": "tns:ID", "reference": "tns:ID", "int": "xsd:int", "double": "xsd:double", "currency": "xsd:double",
    "boolean": "xsd:boolean", "date": "xsd:date", "datetime": "xsd:dateTime",
}  # fmt: skip
TEXT_TYPES = frozenset({"string", "url", "picklist", "multipicklist", "combobox", "phone", "textarea", "email"})
DECIMAL_TYPES = frozenset({"double", "currency"})


@dataclass(frozen=True, slots=True)
class Field:
    """One field; `computed` is the SQL expression of a field nobody writes.

    `refers` is the object whose records a lookup holds; `others` are those that a polymorphic one may hold
    besides, and that this org need not have. `fixed`: said only when a record is created, as master-detail is.
    """

    name: str
    label: str
    type: str
    length: int = 0
    precision: int = 0
    scale: int = 0
    required: bool = False
    defaulted: bool = False
    writable: bool = True
    external_id: bool = False
    id_lookup: bool = False
    unique: bool = False
    refers: str = ""
    others: tuple[str, ...] = ()
    fixed: bool = False
    formula: bool = False
    auto_number: bool = False
    relationship: str = ""
    picklist: tuple[str, ...] = ()
    restricted: bool = False
    computed: str = ""

    @property
    def match(self) -> bool:
        return self.external_id or self.id_lookup

    @property
    def xsd(self) -> str:
        return SOAP_TYPES.get(self.type, "xsd:string")

    @property
    def targets(self) -> list[str]:
        """Every object a lookup may point to, in the order of a describe."""
        return sorted((self.refers, *self.others)) if self.refers else []

    def describe(self) -> dict[str, Any]:
        """As "Field" of DescribeSObjectResult in the SOAP API Developer Guide, which REST writes as JSON."""
        long_text = self.type == "textarea" and self.length > 255
        return {
            "name": self.name, "label": self.label, "type": self.type, "soapType": self.xsd,
            "length": self.length, "byteLength": self.length * 3, "precision": self.precision,
            "scale": self.scale, "digits": 9 if self.type == "int" else 0,
            "createable": self.writable, "updateable": self.writable and not self.fixed,
            "nillable": not (self.required or self.defaulted),
            "defaultedOnCreate": self.defaulted or self.auto_number, "externalId": self.external_id,
            "idLookup": self.match or self.type == "id", "unique": self.unique, "caseSensitive": False,
            "referenceTo": self.targets, "relationshipName": self.relationship or None,
            "relationshipOrder": 0 if self.fixed else None, "cascadeDelete": self.fixed,
            "restrictedDelete": self.required and bool(self.refers) and not self.fixed,
            "polymorphicForeignKey": bool(self.others), "namePointing": bool(self.others),
            "picklistValues": [
                {"active": True, "defaultValue": False, "label": v, "validFor": None, "value": v}
                for v in self.picklist
            ],
            "restrictedPicklist": self.restricted, "dependentPicklist": False, "controllerName": None,
            "calculated": self.formula, "calculatedFormula": None, "autoNumber": self.auto_number,
            "nameField": self.name == "Name", "compoundFieldName": None, "custom": self.name.endswith("__c"),
            "filterable": not long_text, "sortable": not long_text, "groupable": not long_text,
            "encrypted": False, "htmlFormatted": False, "permissionable": self.writable and not self.required,
            "deprecatedAndHidden": False, "defaultValue": False if self.type == "boolean" else None,
            "defaultValueFormula": None, "inlineHelpText": None,
        }  # fmt: skip


class Column(NamedTuple):
    """What one column or key of a write sets: a field, or a lookup by `via`, a field of the object `parent`."""

    field: Field
    via: Field | None = None
    parent: str = ""


class PolymorphismError(ValueError):
    """A `Type:Relationship.Field` header for a lookup that takes none of that type."""


@dataclass(frozen=True)
class SObject:
    """One object. Names are looked up without regard to case, as Salesforce does."""

    name: str
    label: str
    prefix: str
    own: tuple[Field, ...]
    writable: bool = True
    fields: dict[str, Field] = field(init=False)

    def __post_init__(self) -> None:
        every = [Field("Id", f"{self.label} ID", "id", 18, writable=False, defaulted=True), *self.own]
        if self.name not in ("User", "Group", "Organization", "RecordType", "Name"):
            # A queue may own a task or a record of a custom object, but no account and no contact.
            queues = ("Group",) if self.name.endswith("__c") or self.name == "Task" else ()
            every.append(_lookup("OwnerId", "Owner ID", "User", "Owner", defaulted=True, others=queues))
        every += [
            Field("IsDeleted", "Deleted", "boolean", writable=False, defaulted=True),
            Field("CreatedDate", "Created Date", "datetime", writable=False, defaulted=True),
            Field("LastModifiedDate", "Last Modified Date", "datetime", writable=False, defaulted=True),
            Field("SystemModstamp", "System Modstamp", "datetime", writable=False, defaulted=True,
                  computed='"LastModifiedDate"'),
        ]  # fmt: skip
        object.__setattr__(self, "fields", {f.name: f for f in every})

    @cached_property
    def _by_name(self) -> dict[str, Field]:
        return {f.name.lower(): f for f in self.fields.values()}

    @cached_property
    def _by_relationship(self) -> dict[str, Field]:
        return {f.relationship.lower(): f for f in self.fields.values() if f.relationship}

    @cached_property
    def stored(self) -> tuple[Field, ...]:
        """Fields with a column of their own to write."""
        return tuple(f for f in self.fields.values() if not f.computed)

    @cached_property
    def required(self) -> tuple[Field, ...]:
        return tuple(f for f in self.own if f.required and not f.computed)

    @cached_property
    def uniques(self) -> tuple[Field, ...]:
        return tuple(f for f in self.own if f.unique)

    def find(self, name: str) -> Field | None:
        return self._by_name.get(name.lower())

    def lookup(self, relationship: str) -> Field | None:
        return self._by_relationship.get(relationship.lower())

    def column(self, name: str) -> Column | None:
        """What a CSV header cell sets; None if nothing here has that name."""
        relationship, dot, via = name.partition(".")
        if not dot:
            found = self.find(name)
            return Column(found) if found else None
        named, colon, bare = relationship.partition(":")
        lookup = self.lookup(bare if colon else relationship)
        if colon and not (lookup and lookup.others and _among(named, lookup)):
            raise PolymorphismError(bare if lookup else "")
        return self.by(lookup, named, via) if lookup else None

    def by(self, lookup: Field, named: str, via: str) -> Column | None:
        """A lookup by a field of one of its objects: the `named` one, if any; None if nothing there has that name."""
        parent = OBJECTS.get(_among(named, lookup) or lookup.refers)
        field = parent.find(via) if parent else None
        return Column(lookup, field, parent.name) if parent and field and field.match else None

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name, "label": self.label, "labelPlural": self.label + "s", "keyPrefix": self.prefix,
            "custom": self.name.endswith("__c"), "createable": self.writable, "updateable": self.writable,
            "deletable": self.writable, "queryable": True, "retrieveable": True, "undeletable": False,
            "searchable": True, "layoutable": True, "triggerable": True, "mergeable": False,
            "childRelationships": [
                {"childSObject": child.name, "field": f.name, "cascadeDelete": f.fixed,
                 "restrictedDelete": f.required and not f.fixed, "relationshipName": None, "deprecatedAndHidden": False}
                for child, f in children_of(self.name)
            ],
            "recordTypeInfos": [], "deprecatedAndHidden": False, "customSetting": False,
        }  # fmt: skip

    def describe_fully(self) -> dict[str, Any]:
        return {**self.describe(), "fields": [f.describe() for f in self.fields.values()]}


def _among(named: str, lookup: Field) -> str | None:
    return next((target for target in lookup.targets if target.lower() == named.lower()), None)


def _lookup(
    name: str, label: str, to: str, relationship: str, required: bool = False, defaulted: bool = False,
    fixed: bool = False, others: tuple[str, ...] = (),
) -> Field:  # fmt: skip
    return Field(
        name, label, "reference", 18, required=required, defaulted=defaulted, refers=to, relationship=relationship,
        fixed=fixed, others=others,
    )  # fmt: skip


def _external_id() -> Field:
    return Field("External_Id__c", "External Id", "string", 80, external_id=True, unique=True)


def _choice(name: str, label: str, values: str, restricted: bool) -> Field:
    return Field(name, label, "picklist", 255, picklist=tuple(values.split("/")), restricted=restricted)


_FULL_NAME = """trim(coalesce("FirstName" || ' ', '') || coalesce("LastName", ''))"""

_ALL = (
    SObject("Account", "Account", "001", (
        Field("Name", "Account Name", "string", 255, required=True), _external_id(),
        _lookup("ParentId", "Parent Account ID", "Account", "Parent"),
        Field("MasterRecordId", "Master Record ID", "reference", 18, writable=False, refers="Account",
              relationship="MasterRecord"),
        _lookup("RecordTypeId", "Record Type ID", "RecordType", "RecordType"),
        _lookup("Primary_Contact__c", "Primary Contact", "Contact", "Primary_Contact__r"),
        Field("Website", "Website", "url", 255),
        _choice("Industry", "Industry", "Agriculture/Banking/Consulting/Education/Energy/Retail/Technology", False),
        Field("NumberOfEmployees", "Employees", "int"),
        Field("AnnualRevenue", "Annual Revenue", "currency", precision=18, scale=2),
        Field("BillingCity", "Billing City", "string", 40),
        Field("BillingCountry", "Billing Country", "string", 80),
        Field("Phone", "Account Phone", "phone", 40),
        Field("Description", "Account Description", "textarea", 32000),
        Field("Customer_Since__c", "Customer Since", "date"),
        Field("Last_Seen__c", "Last Seen", "datetime"),
        Field("Active__c", "Active", "boolean", defaulted=True),
    )),
    SObject("Workspace__c", "Workspace", "a0W", (
        Field("Name", "Workspace Name", "string", 80, required=True), _external_id(),
        _lookup("Account__c", "Account", "Account", "Account__r", required=True),
        _choice("Plan__c", "Plan", "Free/Team/Business/Enterprise", True),
        Field("Seats__c", "Seats", "double", precision=18),
        Field("Mrr__c", "MRR", "currency", precision=16, scale=2),
        Field("Region__c", "Region", "string", 40),
        Field("Trial_Ends__c", "Trial Ends", "datetime"),
    )),
    SObject("Contact", "Contact", "003", (
        Field("FirstName", "First Name", "string", 40),
        Field("LastName", "Last Name", "string", 80, required=True),
        Field("Name", "Full Name", "string", 121, writable=False, computed=_FULL_NAME), _external_id(),
        Field("Email", "Email", "email", 80, id_lookup=True),
        Field("Phone", "Business Phone", "phone", 40),
        Field("Title", "Title", "string", 128),
        _lookup("AccountId", "Account ID", "Account", "Account"),
        _lookup("RecordTypeId", "Record Type ID", "RecordType", "RecordType"),
        Field("MasterRecordId", "Master Record ID", "reference", 18, writable=False, refers="Contact",
              relationship="MasterRecord"),
        _lookup("Workspace__c", "Workspace", "Workspace__c", "Workspace__r"),
        _choice("LeadSource", "Lead Source", "Web/Phone Inquiry/Partner Referral/Purchased List/Product/Other", False),
        Field("Description", "Contact Description", "textarea", 32000),
        Field("Birthdate", "Birthdate", "date"),
    )),
    SObject("Workspace_Member__c", "Workspace Member", "a0M", (
        Field("Name", "Member Number", "string", 80, writable=False, auto_number=True,
              computed="""printf('WM-%06d', "Id")"""),
        _external_id(),
        _lookup("Workspace__c", "Workspace", "Workspace__c", "Workspace__r", required=True),
        _lookup("Contact__c", "Contact", "Contact", "Contact__r", required=True),
        _choice("Role__c", "Role", "Owner/Admin/Member/Viewer", True),
        Field("Joined_On__c", "Joined On", "date"),
    )),
    SObject("Subscription__c", "Subscription", "a0S", (
        Field("Name", "Subscription Number", "string", 80, writable=False, auto_number=True,
              computed="""printf('SUB-%06d', "Id")"""),
        _external_id(),
        Field("Batch__c", "Batch", "string", 20, external_id=True),
        _lookup("Account__c", "Account", "Account", "Account__r", required=True, fixed=True),
        _choice("Status__c", "Status", "Trial/Active/Past Due/Cancelled", True),
        _choice("Channel__c", "Channel", "Web/Partner/Sales", False),
        Field("Addons__c", "Add-ons", "multipicklist", 4099, picklist=("Support", "Training", "Sandbox")),
        Field("Amount__c", "Amount", "currency", precision=10, scale=2),
        Field("Annual_Amount__c", "Annual Amount", "currency", precision=18, scale=2, writable=False, formula=True,
              computed="""CASE WHEN "Amount__c" IS NOT NULL THEN printf('%.2f', "Amount__c" * 12) END"""),
        Field("Term_Months__c", "Term in Months", "double", precision=3),
        Field("Legacy_Code__c", "Legacy Code", "string", 12, writable=False),
        Field("Auto_Renews__c", "Renews by Itself", "boolean", defaulted=True),
        Field("Renews_On__c", "Renews On", "date"),
        Field("Signed_At__c", "Signed At", "datetime"),
    )),
    SObject("Case", "Case", "500", (
        Field("Subject", "Subject", "string", 255), _external_id(),
        Field("Description", "Description", "textarea", 32000),
    )),
    SObject("Task", "Task", "00T", (
        Field("Subject", "Subject", "combobox", 255, picklist=("Call", "Email", "Send Letter", "Other")),
        _external_id(),
        Field("ActivityDate", "Due Date Only", "date"),
        Field("Description", "Description", "textarea", 32000),
        _lookup("WhoId", "Name ID", "Contact", "Who", others=("Lead",)),
        _lookup("WhatId", "Related To ID", "Account", "What", others=("Workspace__c", "Subscription__c", "Contract")),
        Field("IsClosed", "Closed", "boolean", writable=False, defaulted=True),
    )),
    SObject("Lead", "Lead", "00Q", (
        Field("FirstName", "First Name", "string", 40),
        Field("LastName", "Last Name", "string", 80, required=True),
        Field("Name", "Full Name", "string", 121, writable=False, computed=_FULL_NAME), _external_id(),
        Field("Company", "Company", "string", 255, required=True),
        Field("Email", "Email", "email", 80, id_lookup=True),
    )),
    SObject("User", "User", "005", (
        Field("Username", "Username", "string", 80, required=True, id_lookup=True),
        Field("Email", "Email", "email", 128, required=True, id_lookup=True),
        Field("FirstName", "First Name", "string", 40),
        Field("LastName", "Last Name", "string", 80, required=True),
        Field("Name", "Full Name", "string", 121, writable=False, computed=_FULL_NAME),
        Field("IsActive", "Active", "boolean", defaulted=True),
    ), writable=False),
    SObject("Group", "Group", "00G", (
        Field("Name", "Name", "string", 40, required=True),
        Field("DeveloperName", "Developer Name", "string", 80),
        Field("Type", "Type", "picklist", 40, required=True, picklist=("Queue", "Regular")),
    ), writable=False),
    SObject("RecordType", "Record Type", "012", (
        Field("Name", "Name", "string", 80, required=True),
        Field("DeveloperName", "Record Type Name", "string", 80, required=True),
        Field("SobjectType", "SObject Type Name", "picklist", 40, required=True, picklist=("Account", "Contact")),
        Field("IsActive", "Active", "boolean", defaulted=True),
    ), writable=False),
    SObject("Organization", "Organization", "00D", (
        Field("Name", "Name", "string", 80, writable=False),
        Field("IsSandbox", "Is Sandbox", "boolean", writable=False, defaulted=True),
        Field("OrganizationType", "Edition", "string", 40, writable=False),
        Field("InstanceName", "Instance Name", "string", 5, writable=False),
    ), writable=False),
)  # fmt: skip

#: What a polymorphic lookup shows of the record it holds, whatever object that is of ("Name" of the Object Reference).
NAME = SObject("Name", "Name", "", (
    Field("Name", "Name", "string", 255),
    Field("Type", "Type", "picklist", 40),
    Field("FirstName", "First Name", "string", 40),
    Field("LastName", "Last Name", "string", 80),
    Field("Email", "Email", "email", 128),
    Field("Username", "Username", "string", 80),
), writable=False)  # fmt: skip

OBJECTS: dict[str, SObject] = {o.name: o for o in _ALL}
_BY_NAME = {o.name.lower(): o for o in _ALL}


def find_object(name: str) -> SObject | None:
    return _BY_NAME.get(name.lower())


def children_of(parent: str) -> Iterable[tuple[SObject, Field]]:
    """Every lookup that may point at an object, with the object that has it."""
    return [(o, f) for o in _ALL for f in o.fields.values() if parent in (f.refers, *f.others)]
