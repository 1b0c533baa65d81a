"""Signing in, describing, the plain pages, and what a wrong call is told."""

from __future__ import annotations

import requests

from seqsync_dagster_tests.emulator_process import CLIENT_ID, CLIENT_SECRET, Api, EmulatorProcess


def error(reply: requests.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()[0]["errorCode"]


def test_token_by_body_or_basic(module_emulator: EmulatorProcess) -> None:
    url = f"{module_emulator.url}/services/oauth2/token"
    grant = {"grant_type": "client_credentials"}
    by_basic = requests.post(url, data=grant, auth=(CLIENT_ID, CLIENT_SECRET), timeout=30).json()
    assert by_basic["instance_url"] == module_emulator.url
    assert by_basic["token_type"] == "Bearer" and by_basic["access_token"] and by_basic["issued_at"].isdigit()
    wrong = requests.post(url, data={**grant, "client_id": "demo", "client_secret": "x"}, timeout=30)
    assert wrong.status_code == 400
    assert wrong.json() == {"error": "invalid_client", "error_description": "invalid client credentials"}


def test_calls_need_a_token(module_emulator: EmulatorProcess) -> None:
    versions = requests.get(f"{module_emulator.url}/services/data", timeout=30)
    assert versions.ok and versions.json()[-1]["version"] == "67.0"
    assert "sforce-limit-info" in versions.headers
    for path in ("/services/data/v64.0/limits/", "/services/oauth2/userinfo"):
        assert error(requests.get(module_emulator.url + path, timeout=30)) == (401, "INVALID_SESSION_ID")


def test_expired_tokens(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    assert api.get("limits").ok
    emulator.expire_tokens()
    assert error(api.get("limits")) == (401, "INVALID_SESSION_ID")
    assert emulator.login().get("limits").ok


def test_who_and_where(api: Api, module_emulator: EmulatorProcess) -> None:
    info = api.get("/services/oauth2/userinfo").json()
    assert info["organization_id"].startswith("00D") and info["user_id"].startswith("005")
    (org,) = api.query("SELECT Id, Name, IsSandbox, InstanceName FROM Organization")
    assert org["Id"] == info["organization_id"] and org["IsSandbox"] is True
    resources = api.get("").json()
    assert resources["identity"].endswith(f"/id/{info['organization_id']}/{info['user_id']}")


def test_limits_count_down(api: Api) -> None:
    before = api.get("limits").json()["DailyApiRequests"]
    after = api.get("limits/")
    assert after.json()["DailyApiRequests"]["Remaining"] == before["Remaining"] - 1
    used = before["Max"] - before["Remaining"] + 1
    assert after.headers["Sforce-Limit-Info"] == f"api-usage={used}/{before['Max']}"


def test_describe(api: Api) -> None:
    names = [o["name"] for o in api.get("sobjects/").json()["sobjects"]]
    assert {"Account", "Workspace__c", "Contact", "Workspace_Member__c", "User"} <= set(names)
    described = api.get("sobjects/workspace__c/describe/").json()
    assert described["keyPrefix"] == "a0W" and described["createable"] is True
    fields = {f["name"]: f for f in described["fields"]}
    assert fields["External_Id__c"]["externalId"] and fields["External_Id__c"]["unique"]
    assert fields["Account__c"]["referenceTo"] == ["Account"]
    assert fields["Account__c"]["relationshipName"] == "Account__r"
    assert not fields["Name"]["nillable"] and not fields["Name"]["defaultedOnCreate"]
    assert [v["value"] for v in fields["Plan__c"]["picklistValues"]] == ["Free", "Team", "Business", "Enterprise"]
    assert fields["CreatedDate"]["createable"] is False
    assert error(api.get("sobjects/Nothing__c/describe")) == (404, "NOT_FOUND")


def test_wrong_paths_methods_and_sizes(api: Api) -> None:
    assert error(api.get("nowhere")) == (404, "NOT_FOUND")
    assert error(api.get("/services/data/latest/limits")) == (404, "NOT_FOUND")
    assert error(api.put("limits", data=b"")) == (405, "METHOD_NOT_ALLOWED")
    assert error(api.get("query", params={"q": "SELECT Id FROM Account" + " " * 17_000})) == (414, "URI_TOO_LONG")


def test_api_limit(emulator: EmulatorProcess) -> None:
    emulator.stop()
    limited = EmulatorProcess(emulator.store, "--api-limit", "2")
    try:
        api = limited.login()
        assert [api.get("limits").status_code for _ in range(3)] == [200, 200, 403]
    finally:
        limited.stop()
        emulator.start()


def test_calls_are_counted_by_path(emulator: EmulatorProcess) -> None:
    api = emulator.login()
    emulator.reset_calls()
    job = api.run_job("External_Id__c,Name\nA1,One\n", "upsert", "Account")
    api.patch("composite/sobjects/Account/External_Id__c", json={"records": [{"Name": "x", "External_Id__c": "A1"}]})
    api.get(f"sobjects/Account/{job['id']}")
    report = emulator.calls()
    assert report["row_bearing"] == 2
    assert report["calls"]["PUT /services/data/vN/jobs/ingest/{id}/batches"] == 1
    assert report["calls"]["PATCH /services/data/vN/composite/sobjects/Account/External_Id__c"] == 1


def test_pages_for_people_escape_what_they_show(emulator: EmulatorProcess) -> None:
    (parent,) = emulator.seed("Account", [{"Name": "<script>alert(1)</script>", "Active__c": True}])
    emulator.seed("Account", [{"Name": f"Child {i}", "ParentId": parent} for i in range(120)])
    assert "/records/Account" in requests.get(emulator.url, timeout=30).text
    first = requests.get(f"{emulator.url}/records/Account", timeout=30).text
    assert "&lt;script&gt;" in first and "<script>" not in first and "page 1 of 2" in first
    assert f'<a href="/records/Account?id={parent}">' in first
    second = requests.get(f"{emulator.url}/records/Account?page=2", timeout=30).text
    assert "Child 119" in second and "Child 5<" not in second
    assert requests.get(f"{emulator.url}/records/Account?id={parent}", timeout=30).text.count("<tr>") == 2
