"""Where letters go, and that nobody reads an address on the way."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest

from seqsync_dagster.notify.channels import CannotTell, channels
from seqsync_dagster.notify.notice import Matter, Notice, letter
from seqsync_dagster.sequence.alerts import Alert

from .listener import listening, nobody

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
LETTER = letter(Notice("raised", "crm", "accounts", (Matter("failed", NOON),), NOON, "<b>*Why*</b>"))


def alert(**given: object) -> Alert:
    return Alert.model_validate({"when": "failed"} | given)


def test_what_several_say_of_one_channel_is_put_together() -> None:
    [ops, other] = channels(
        [
            alert(to={"env": "OPS"}, when=["failed", {"slower_than": "1h"}]),
            alert(to={"env": "OTHER"}),
            alert(to={"env": "OPS"}, when=[{"slower_than": "2h"}, "drift", "recovered"], runbook="Look."),
        ]
    )
    assert list(ops.conditions) == ["slower_than", "drift", "failed"]
    after = ops.conditions["slower_than"].after
    assert after is not None and after.total_seconds() == 3600, "the first word counts"
    assert (ops.label, ops.recovered, ops.runbook) == ("OPS", True, "Look.")
    assert (other.label, other.recovered) == ("OTHER", False)


def test_an_address_is_in_no_log_no_error_and_no_representation(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    [dead] = channels([alert(to=f"json://user:hunter2@127.0.0.1:{nobody()}/hunter2")])
    [wrong] = channels([alert(to="slack://hunter2")])
    for channel in (dead, wrong):
        with pytest.raises(CannotTell) as said:
            channel.send(LETTER)
        assert "hunter2" not in f"{said.value} {channel!r} {channel.label} {channel.digest}"
    assert [r for r in caplog.records if r.name == "apprise"] == []
    assert "hunter2" not in caplog.text + "".join(capfd.readouterr())


def test_a_message_is_plain_text_whatever_stands_in_it() -> None:
    with listening() as there:
        [channel] = channels([alert(to=there.apprise)])
        channel.send(LETTER)
        assert there.messages == ["<b>*Why*</b>\n\nFailed since 2026-05-01 12:00:00 UTC"]
        assert there.titles == ["crm/accounts: failed"]
