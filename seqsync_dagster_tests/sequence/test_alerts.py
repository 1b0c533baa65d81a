"""Alerts as they stand in YAML."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from seqsync_dagster.sequence.alerts import Alert, Alerts
from seqsync_dagster.sequence.limits import Limit
from seqsync_dagster.sequence.spec import SequenceSpec

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_alerts_of_the_readme_are_alerts() -> None:
    block = next(b for b in re.findall(r"```yaml\n(.*?)```", README.read_text(), re.S) if b.startswith("alerts:"))
    people, machines = TypeAdapter(Alerts).validate_python(yaml.safe_load(block)["alerts"])
    assert list(people.conditions) == [
        "failed",
        "guarded",
        "rejected",
        "held_longer_than",
        "slower_than",
        "no_run_in",
        "drift",
        "full_resync",
    ]
    assert people.recovered and not machines.recovered
    assert people.conditions["rejected"].limit == Limit(percent=1, min_rows=10)
    assert people.conditions["slower_than"].after == timedelta(minutes=30)
    assert machines.events == ("started", "plan_ready", "finished")


def test_a_sync_has_its_own_in_addition_and_may_share_them() -> None:
    def sync(name: str, **more: Any) -> dict[str, Any]:
        fields = {"Name": "name"}
        return {"name": name, "table": "s.t", "key": "id", "object": name, "match": "X__c", "fields": fields, **more}

    def to(name: str) -> dict[str, Any]:
        return {"to": {"env": name}, "when": "failed"}

    made = SequenceSpec.model_validate(
        {
            "name": "crm",
            "destination": "salesforce",
            "alerts": [to("OPS")],
            "defaults": {"alerts": [to("SHARED")], "owners": "jo@example.com"},
            "syncs": [sync("accounts"), sync("contacts", alerts=[to("OWN")])],
        }
    )

    def whom(alerts: tuple[Alert, ...]) -> list[str]:
        return [re.findall(r"env='(\w+)'", repr(alert.to))[0] for alert in alerts]

    assert whom(made.alerts_of("accounts")) == ["OPS", "SHARED"]
    assert whom(made.alerts_of("contacts")) == ["OPS", "OWN"]
    assert whom(made.alerts_of("finish")) == ["OPS"]
    assert not re.search("OPS|SHARED|OWN", made.model_dump_json()), "digests and plans do not hang on them"
    assert made.sync("accounts").owners == ("jo@example.com",)
