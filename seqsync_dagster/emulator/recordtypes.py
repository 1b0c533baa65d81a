"""The record types of an object, as its describe lists them."""

from __future__ import annotations

from typing import Any

from seqsync_dagster.emulator.ids import checksum
from seqsync_dagster.emulator.schema import OBJECTS, SObject
from seqsync_dagster.emulator.store import Store

#: Every org's id of the record type that stands for none.
_MASTER = "012000000000000"


def record_type_infos(store: Store, obj: SObject, version: str) -> list[dict[str, Any]]:
    """As "RecordTypeInfo" of DescribeSObjectResult in the SOAP API Developer Guide: those of the object, then Master.

    The run-as user may use them all, and has Master as the default.
    """
    own = [
        _info(obj, version, record["Id"], record["Name"], record["DeveloperName"], record["IsActive"])
        for record in store.records(OBJECTS["RecordType"])
        if record["SobjectType"] == obj.name
    ]
    return [*own, _info(obj, version, _MASTER + checksum(_MASTER), "Master", "Master", True, master=True)]


def _info(
    obj: SObject, version: str, type_id: str, name: str, developer_name: str, active: bool, master: bool = False
) -> dict[str, Any]:
    layout = f"/services/data/{version}/sobjects/{obj.name}/describe/layouts/{type_id}"
    return {
        "active": active, "available": active, "defaultRecordTypeMapping": master, "developerName": developer_name,
        "master": master, "name": name, "recordTypeId": type_id, "urls": {"layout": layout},
    }  # fmt: skip
