"""Signed messages, over HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from seqsync_dagster.notify import webhook

from .listener import Listener, listening, nobody

README = Path(__file__).resolve().parents[2] / "README.md"
EVENT = {"id": "abc", "type": "step.started", "text": "Ünï"}


@pytest.fixture
def there() -> Iterator[Listener]:
    with listening() as made:
        yield made


def test_the_code_of_the_readme_tells_true_from_forged(there: Listener) -> None:
    [code] = [b for b in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "def genuine" in b]
    names: dict[str, object] = {}
    exec(code, names)
    genuine = names["genuine"]
    assert callable(genuine)
    assert webhook.post(f"{there.url}/hook", "our key", EVENT) is None
    [got] = there.got
    assert got.json == EVENT
    assert genuine("our key", got.headers, got.body)
    assert not genuine("their key", got.headers, got.body)
    assert not genuine("our key", got.headers, got.body + b" ")
    earlier = str(int(got.headers["Seqsync-Timestamp"]) - 3600)
    assert not genuine("our key", {**got.headers, "Seqsync-Timestamp": earlier}, got.body)
    replayed = {
        "Seqsync-Timestamp": earlier,
        "Seqsync-Signature": webhook.signature("our key", earlier, got.body),
    }
    assert not genuine("our key", replayed, got.body), "an old one, sent again"


def test_a_server_that_stumbles_is_asked_once_more_and_the_message_stays_the_same(there: Listener) -> None:
    there.status = 503
    assert webhook.post(there.url, "key", EVENT) == "it answered 503."
    assert [got.headers["Seqsync-Id"] for got in there.got] == ["abc", "abc"]


@pytest.mark.parametrize("status", [302, 400, 404])
def test_a_no_is_taken_for_a_no(there: Listener, status: int) -> None:
    there.status = status
    assert webhook.post(there.url, "key", EVENT) == f"it answered {status}."
    assert len(there.got) == 1


def test_one_who_never_answers_is_left(there: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "READ_S", 0.05)
    there.answers.clear()
    assert webhook.post(there.url, "key", EVENT) == "it does not answer within 0.05 s."


def test_addresses_that_lead_nowhere() -> None:
    port = nobody()
    assert webhook.post(f"http://127.0.0.1:{port}/token", "key", EVENT) == (
        "nobody listens there, or the connection broke off."
    )
    assert webhook.post("https://", "key", EVENT) == "the address cannot be used."
    assert webhook.post("file:///etc/passwd", "key", EVENT) == "a webhook's url is http:// or https://."
