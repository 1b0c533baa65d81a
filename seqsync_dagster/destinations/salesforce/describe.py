"""Salesforce's describe, read into the protocol's words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from seqsync_dagster.destinations.protocol import FieldInfo, FieldKind, ObjectInfo
from seqsync_dagster.destinations.salesforce.connection import CallRefused, Connection
from seqsync_dagster.errors import DestinationRefused

#: Field types by what they hold (Object Reference for the Salesforce Platform, "Field Types").
_KINDS: Mapping[str, FieldKind] = {
    **dict.fromkeys(("string", "textarea", "url", "phone", "email", "encryptedstring"), "text"),
    **dict.fromkeys(("picklist", "multipicklist", "combobox"), "text"),
    **dict.fromkeys(("id", "reference"), "id"),
    **dict.fromkeys(("int", "long"), "integer"),
    **dict.fromkeys(("double", "currency", "percent"), "number"),
    **dict.fromkeys(("address", "location"), "compound"),
    "boolean": "boolean",
    "date": "date",
    "datetime": "datetime",
    "time": "time",
    "base64": "binary",
}

#: Object -> a field unique among the records that are looked among: those of one object, of record types
#: ("RecordType" of the Object Reference).
_TELLS_APART: Mapping[str, str] = {"RecordType": "DeveloperName"}


def describe_object(connection: Connection, object: str) -> ObjectInfo:
    """What the org says about `object`; an unknown one is refused with the nearest name there is."""
    try:
        return read_describe(connection.read(f"sobjects/{object}/describe"))
    except CallRefused as refusal:
        if refusal.status != 404:
            raise
    listed = connection.read("sobjects")["sobjects"]
    hint = nearest_name(object, (str(entry["name"]) for entry in listed))
    raise DestinationRefused(f"Salesforce at {connection.url} has no object '{object}' that this user may see. {hint}")


def nearest_name(wanted: str, names: Iterable[str]) -> str:
    """A sentence that names what was probably meant."""
    by_folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(wanted.casefold(), by_folded, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{by_folded[close[0]]}'?"
    return "Check its API name in Setup > Object Manager; custom objects end in __c."


def read_describe(described: Mapping[str, Any]) -> ObjectInfo:
    """Read the reply of ``GET /sobjects/{object}/describe``.

    What its properties mean: SOAP API Developer Guide, describeSObjects(), "DescribeSObjectResult" and "Field".
    """
    name = described["name"]
    fields = (_read_field(entry, entry["name"] == _TELLS_APART.get(name)) for entry in described["fields"])
    return ObjectInfo(
        name=name,
        label=described.get("label") or name,
        fields={field.name: field for field in fields},
        creatable=bool(described.get("createable", True)),
        updatable=bool(described.get("updateable", True)),
        deletable=bool(described.get("deletable", True)),
    )


def _read_field(entry: Mapping[str, Any], tells_apart: bool) -> FieldInfo:
    creatable = bool(entry.get("createable"))
    return FieldInfo(
        name=entry["name"],
        label=entry.get("label") or entry["name"],
        type=entry["type"],
        length=int(entry.get("length") or 0),
        precision=int(entry.get("precision") or 0),
        scale=int(entry.get("scale") or 0),
        creatable=creatable,
        updatable=bool(entry.get("updateable")),
        # Booleans are not nillable either, but the org fills them in.
        required=creatable and not entry.get("nillable") and not entry.get("defaultedOnCreate"),
        # A checkbox is true or false, and a record always has an owner.
        clearable=bool(entry.get("nillable", True)),
        matchable=bool(entry.get("externalId") or entry.get("idLookup")),
        case_sensitive=bool(entry.get("caseSensitive")),
        reference_to=tuple(entry.get("referenceTo") or ()),
        picklist=tuple(v["value"] for v in entry.get("picklistValues") or () if v.get("active", True)),
        restricted_picklist=bool(entry.get("restrictedPicklist")),
        kind=_KINDS.get(entry["type"], "unknown"),
        # An id is unique without the describe saying so.
        unique=bool(entry.get("unique")) or entry["type"] == "id",
        tells_apart=tells_apart,
        calculated=bool(entry.get("calculated")),
        auto_number=bool(entry.get("autoNumber")),
        filterable=bool(entry.get("filterable", True)),
        separator=";" if entry["type"] == "multipicklist" else "",
    )
