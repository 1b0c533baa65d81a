"""Lookups that hold records of several objects."""

from __future__ import annotations

import requests

from seqsync_dagster_tests.emulator_process import Api, EmulatorProcess


def seeded(emulator: EmulatorProcess) -> dict[str, str]:
    """Records of several objects, with the same number in each."""
    (account,) = emulator.seed("Account", [{"Name": "a", "External_Id__c": "A"}])
    (workspace,) = emulator.seed("Workspace__c", [{"Name": "w", "External_Id__c": "W", "Account__c": account}])
    (contact,) = emulator.seed("Contact", [{"LastName": "c", "Email": "c@example.com"}])
    (lead,) = emulator.seed("Lead", [{"LastName": "l", "Company": "x", "Email": "l@example.com"}])
    return {"account": account, "workspace": workspace, "contact": contact, "lead": lead}


def tasks(emulator: EmulatorProcess) -> dict[str, tuple[str | None, str | None]]:
    return {k: (r["WhatId"], r["WhoId"]) for k, r in emulator.by_external_id("Task").items()}


def refusal(api: Api, **fields: str) -> tuple[str, list[str]]:
    (error,) = api.post("sobjects/Task", json=fields).json()
    return error["errorCode"], error["fields"]


def test_each_row_may_point_to_another_object(emulator: EmulatorProcess) -> None:
    api, ids = emulator.login(), seeded(emulator)
    for key, what, who in (("T1", "account", "contact"), ("T2", "workspace", "lead")):
        reply = api.post("sobjects/Task", json={"External_Id__c": key, "WhatId": ids[what], "WhoId": ids[who][:15]})
        assert reply.status_code == 201
    assert tasks(emulator) == {"T1": (ids["account"], ids["contact"]), "T2": (ids["workspace"], ids["lead"])}
    assert api.patch("sobjects/Task/External_Id__c/T1", json={"WhatId": ids["workspace"]}).status_code == 200
    assert tasks(emulator)["T1"] == (ids["workspace"], ids["contact"])
    page = requests.get(f"{emulator.url}/records/Task", timeout=10).text
    opened = requests.get(f"{emulator.url}/{ids['lead']}", timeout=10)
    assert f'href="/{ids["lead"]}"' in page and opened.url.endswith(f"/records/Lead?id={ids['lead']}")


def test_what_a_lookup_refuses(emulator: EmulatorProcess) -> None:
    api, ids = emulator.login(), seeded(emulator)
    api.delete(f"sobjects/Lead/{ids['lead']}")
    # The contact with the lead's number is there, and is not meant.
    assert refusal(api, WhoId=ids["lead"]) == ("INVALID_CROSS_REFERENCE_KEY", ["WhoId"])
    assert refusal(api, WhoId=ids["account"]) == ("MALFORMED_ID", ["WhoId"])
    assert refusal(api, WhoId=ids["lead"][:5] + "0000000zzz") == ("INVALID_CROSS_REFERENCE_KEY", ["WhoId"])
    assert emulator.records("Task") == []


def test_soql_tells_what_is_pointed_to(emulator: EmulatorProcess) -> None:
    api, ids = emulator.login(), seeded(emulator)
    whats = [ids["account"], ids["workspace"], None]
    emulator.seed("Task", [{"External_Id__c": f"T{n}", "WhatId": what} for n, what in enumerate(whats)])

    def found(where: str) -> list[str]:
        rows = api.query(f"SELECT External_Id__c FROM Task WHERE {where} ORDER BY External_Id__c")
        return [row["External_Id__c"] for row in rows]

    assert found(f"WhatId = '{ids['workspace']}'") == found("What.Type = 'Workspace__c'") == ["T1"]
    assert found(f"WhatId IN ('{ids['workspace']}', '{ids['account']}')") == ["T0", "T1"]
    assert found(f"What.Id = '{ids['account']}'") == found("What.Name = 'A'") == ["T0"]
    assert found(f"WhatId = '{ids['contact']}'") == []
    one, other, none = api.query("SELECT What.Id, What.Name, What.Type FROM Task ORDER BY External_Id__c")
    assert (one["What"]["Id"], one["What"]["Name"], one["What"]["Type"]) == (ids["account"], "a", "Account")
    assert (other["What"]["Id"], none["What"]) == (ids["workspace"], None)
    assert other["What"]["attributes"] == {
        "type": "Name", "url": f"/services/data/v64.0/sobjects/Workspace__c/{ids['workspace']}",
    }  # fmt: skip
    reply = api.get("query", params={"q": "SELECT What.External_Id__c FROM Task"})
    assert "No such column 'External_Id__c' on entity 'Name'" in reply.json()[0]["message"]


def test_what_happens_to_a_record_happens_to_those_that_point_at_it_and_to_no_others(emulator: EmulatorProcess) -> None:
    api, ids = emulator.login(), seeded(emulator)
    (winner,) = emulator.seed("Contact", [{"LastName": "winner"}])
    pairs = {"T1": ("account", "contact"), "T2": ("workspace", "lead")}
    emulator.seed(
        "Task", [{"External_Id__c": k, "WhatId": ids[what], "WhoId": ids[who]} for k, (what, who) in pairs.items()]
    )
    emulator.merge("Contact", winner, ids["contact"])
    assert tasks(emulator) == {"T1": (ids["account"], winner), "T2": (ids["workspace"], ids["lead"])}
    assert api.delete(f"sobjects/Workspace__c/{ids['workspace']}").status_code == 204
    assert tasks(emulator) == {"T1": (ids["account"], winner), "T2": (None, ids["lead"])}
    assert api.delete(f"sobjects/Account/{ids['account']}").status_code == 204
    assert tasks(emulator)["T1"] == (None, winner)
    children = {(c["childSObject"], c["field"]) for c in api.get("sobjects/Lead/describe").json()["childRelationships"]}
    assert children == {("Task", "WhoId")}


def test_a_queue_owns_what_queues_may_own(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    (queue,) = api.query("SELECT Id FROM Group WHERE Type = 'Queue'")
    assert api.post("sobjects/Task", json={"External_Id__c": "T1", "OwnerId": queue["Id"]}).status_code == 201
    assert emulator.records("Task")[0]["OwnerId"] == queue["Id"]
    (row,) = api.query("SELECT Owner.Name, Owner.Type FROM Task")
    assert (row["Owner"]["Name"], row["Owner"]["Type"]) == ("Support", "Group")
    reply = api.post("sobjects/Account", json={"Name": "a", "OwnerId": queue["Id"]})
    assert reply.json()[0]["errorCode"] == "MALFORMED_ID"


def test_a_parent_of_a_named_object_is_found_by_its_external_id(emulator: EmulatorProcess) -> None:
    api, ids = emulator.login(), seeded(emulator)
    job = api.run_job("External_Id__c,Workspace__c:What.External_Id__c\nT1,w\n", "insert", "Task")
    assert (job["state"], job["numberRecordsFailed"]) == ("JobComplete", 0)
    body = {"External_Id__c": "T2", "Who": {"attributes": {"type": "Lead"}, "Email": "l@example.com"}}
    assert api.post("sobjects/Task", json=body).status_code == 201
    assert tasks(emulator) == {"T1": (ids["workspace"], None), "T2": (None, ids["lead"])}
