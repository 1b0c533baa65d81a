"""What a person sees when the alerts in the YAML are wrong, and that no address is shown to anybody."""

from __future__ import annotations

import dagster as dg
import pytest

from seqsync_dagster.components.sequence_component import SyncSequence

from .location import PAIR, location
from .test_errors import error_of, line_of

SECRET = "T0KEN-hunter2"


def sequence(alert: str) -> str:
    return PAIR.replace("  dbt: null", f"  dbt: null\n  alerts:\n    - {alert} # <--", 1)


def sync(alert: str) -> str:
    return PAIR.replace("      object: Contact\n", f"      object: Contact\n      alerts: [{alert}] # <--\n", 1)


OPS = "{env: OPS}"
HOOK = "{url: {env: HOOK}, secret: {env: KEY}}"
WRONG = {
    "unknown scheme": (
        sequence(f"{{to: 'slak://{SECRET}', when: failed}}"),
        "to: apprise knows no slak://. Did you mean 'slack'?",
    ),
    "what follows the scheme": (
        sync(f"{{to: 'slack://{SECRET}', when: failed}}"),
        "sync 'contacts': to: apprise knows slack://, but not what follows it",
    ),
    "no URL": (sequence(f"{{to: '{SECRET}', when: failed}}"), "to: this is no URL that apprise knows"),
    "webhook that is none": (
        sequence(f"{{webhook: {{url: 'slack://{SECRET}', secret: {{env: KEY}}}}, when: failed}}"),
        "webhook: a webhook's url is http:// or https://.",
    ),
    "neither": (sequence("{when: failed}"), "an alert goes to one channel: say either to or webhook; found neither."),
    "both": (
        sequence(f"{{to: {OPS}, webhook: {HOOK}, when: failed}}"),
        "an alert goes to one channel: say either to or webhook; found both.",
    ),
    "unknown condition": (
        sequence(f"{{to: {OPS}, when: [failed, recoverd]}}"),
        "no condition 'recoverd'. Did you mean 'recovered'? Known here: failed, guarded, rejected,",
    ),
    "unknown condition with a limit": (
        sync(f"{{to: {OPS}, when: {{slower: 30m}}}}"),
        "sync 'contacts': no condition 'slower'. Did you mean 'slower_than'?",
    ),
    "duration without a unit": (
        sequence(f"{{to: {OPS}, when: {{slower_than: 30}}}}"),
        "slower_than: 30 is no length of time. Write a number with its unit: 90s, 30m, 26h, 2d, or 1h30m.",
    ),
    "duration in words": (
        sequence(f"{{to: {OPS}, when: {{no_run_in: 26 hours}}}}"),
        "no_run_in: '26 hours' is no length of time.",
    ),
    "no duration": (sequence(f"{{to: {OPS}, when: held_longer_than}}"), "held_longer_than needs a length of time"),
    "duration of nothing": (
        sequence(f"{{to: {OPS}, when: {{held_longer_than: 0h}}}}"),
        "held_longer_than: '0h' is no time at all.",
    ),
    "wrong limit": (
        sequence(f"{{to: {OPS}, when: {{rejected: {{percnt: 1}}}}}}"),
        "rejected: unknown name 'percnt'. Did you mean 'percent'?",
    ),
    "a limit where none is": (sequence(f"{{to: {OPS}, when: {{failed: 3}}}}"), "failed stands by itself"),
    "twice": (sequence(f"{{to: {OPS}, when: [failed, failed]}}"), "when names 'failed' twice; one of them counts."),
    "nothing to tell": (sequence(f"{{to: {OPS}}}"), "when is empty, so nothing would ever be told."),
    "recovered from what": (
        sequence(f"{{to: {OPS}, when: recovered}}"),
        "when: recovered is told of what was told before; add what that is, e.g. failed.",
    ),
    "webhook without a secret": (
        sequence(f"{{webhook: {{url: 'https://example.com/{SECRET}'}}, when: failed}}"),
        "webhook has no secret, so nobody could tell its messages from forged ones. Add secret: {env: NAME}",
    ),
    "secret in the file": (
        sequence(f"{{webhook: {{url: {{env: HOOK}}, secret: {SECRET}}}, when: failed}}"),
        "secret is read from the environment: {env: NAME}. It must not stand in the file.",
    ),
    "secret in the file as a default": (
        sequence(f"{{webhook: {{url: {{env: HOOK}}, secret: {{env: KEY, default: {SECRET}}}}}, when: failed}}"),
        "secret is read from the environment: {env: NAME}. It must not stand in the file.",
    ),
    "webhook that is an address": (
        sequence(f"{{webhook: 'https://example.com/{SECRET}', when: failed}}"),
        "webhook is a mapping: {url: {env: NAME}, secret: {env: NAME}}.",
    ),
    "events to people": (sequence(f"{{to: {OPS}, events: [started]}}"), "they need webhook, not to."),
    "unknown event": (
        sequence(f"{{webhook: {HOOK}, events: [startet]}}"),
        "it can be started or plan_ready or finished. Did you mean 'started'?",
    ),
    "unknown name": (
        sequence(f"{{to: 'slack://{SECRET}', whn: failed}}"),
        "unknown name 'whn'. Did you mean 'when'? Known here: events, runbook, to, webhook, when.",
    ),
    "unknown name in an address": (
        sequence("{to: {evn: OPS}, when: failed}"),
        "unknown name 'evn'. Did you mean 'env'?",
    ),
    "an address alone": (sequence(f"'slack://{SECRET}'"), "an alert is a mapping: {to: {env: NAME}, when:"),
    "no list": (
        PAIR.replace("  dbt: null", f"  dbt: null\n  alerts: 'slack://{SECRET}' # <--", 1),
        "alerts is a list, e.g. [{to: {env: OPS_ALERT_URL}, when: [failed, recovered]}].",
    ),
    "another mistake in the line of an address": (
        PAIR.replace(
            "    - name: contacts\n",
            f"    - {{alerts: [{{to: 'json://{SECRET}', when: failed}}], objekt: Contact, name: contacts}} # <--\n"
            "    - name: others\n",
        ),
        "sync 'contacts': unknown name 'objekt'. Did you mean 'object'?",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_message_and_line_and_never_the_address(case: str) -> None:
    text, message = WRONG[case]
    with location(crm=text) as made:
        found = error_of(made)
    assert f"/defs/crm/defs.yaml:{line_of(text)}: " in found, found
    assert message in found
    assert SECRET not in found


def test_an_address_in_the_file_is_shown_nowhere() -> None:
    text = sequence(f"{{to: 'json://{SECRET}', when: failed}}")
    shared = f"  defaults: {{alerts: [{{to: 'json://{SECRET}/shared', when: drift}}]}}\n  dbt: null"
    with location(crm=text.replace("  dbt: null", shared, 1)) as made:
        component = made.component("crm")
        defs = made.load()
    assert isinstance(component, SyncSequence)
    spec = component.spec
    assert SECRET not in repr(component) + repr(spec) + spec.model_dump_json() + str(spec.model_dump())
    assert SECRET not in repr(defs.resolve_asset_graph().get(dg.AssetKey(["crm", "accounts"])))
    assert "crm_watch" in {sensor.name for sensor in defs.sensors or ()}


def test_a_file_that_is_no_yaml_does_not_show_an_address_either() -> None:
    with location(crm=sequence(f"{{to: 'json://{SECRET}', when: [failed}}")) as made:
        found = error_of(made)
    assert "this is not YAML" in found
    assert SECRET not in found


def test_a_sequence_without_alerts_has_no_sensor_for_them() -> None:
    with location(crm=PAIR) as made:
        assert [sensor.name for sensor in made.load().sensors or ()] == []
