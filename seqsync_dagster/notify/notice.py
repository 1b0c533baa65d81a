"""What an alert says: one notice, as a text for people and as JSON for machines."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from seqsync_dagster.sequence.durations import span

#: Of the JSON that machines get. Names are added under the same version; what changes or goes raises it.
VERSION = 1

#: Most distinct errors in one message, and the length at which a text of somebody else's is cut.
MAX_ERRORS = 5
MAX_TEXT = 1000

Kind = Literal["raised", "recovered"]

_TITLES = {
    "failed": "failed",
    "guarded": "stopped by a guard",
    "rejected": "rows are refused",
    "held_longer_than": "rows are held too long",
    "slower_than": "slow",
    "no_run_in": "no run",
    "drift": "records differ from what was sent",
    "full_resync": "full resync",
}


@dataclass(frozen=True)
class ErrorSeen:
    """One of the distinct errors that rows have met."""

    code: str
    message: str
    rows: int
    """Rows that met it, of those that were looked at."""
    key: str
    """One of them."""


@dataclass(frozen=True)
class Matter:
    """One condition that has changed."""

    condition: str
    since: datetime
    until: datetime | None = None
    """When it was over; None: it is not."""
    text: str = ""
    """What is so, with its numbers; empty when the notice's own text says it."""


@dataclass(frozen=True)
class Notice:
    """Something that has begun, or is over."""

    kind: Kind
    sequence: str
    sync: str
    """Empty when it is about the sequence as a whole."""
    matters: tuple[Matter, ...]
    at: datetime
    text: str = ""
    """What happened, for a person. Sensitive values are masked already."""
    counts: Mapping[str, int] = field(default_factory=dict)
    errors: tuple[ErrorSeen, ...] = ()
    waiting: tuple[str, ...] = ()
    """Who does not run until this is mended."""
    run_id: str | None = None
    run_url: str | None = None
    owners: tuple[str, ...] = ()
    runbook: str | None = None

    @property
    def label(self) -> str:
        """``sequence/sync``, or the sequence."""
        return f"{self.sequence}/{self.sync}" if self.sync else self.sequence


class Problem(Protocol):
    """A row that was not acknowledged. Sensitive values are masked already."""

    @property
    def key(self) -> str: ...
    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...


def distinct(problems: Iterable[Problem]) -> tuple[ErrorSeen, ...]:
    """The errors that these rows met, the most frequent first."""
    rows: Counter[tuple[str, str]] = Counter()
    keys: dict[tuple[str, str], str] = {}
    for problem in problems:
        what = (problem.code, problem.message)
        rows[what] += 1
        keys.setdefault(what, problem.key)
    return tuple(ErrorSeen(*what, number, keys[what]) for what, number in rows.most_common(MAX_ERRORS))


@dataclass(frozen=True)
class Letter:
    """What is handed to a channel."""

    title: str
    body: str
    event: Mapping[str, Any]
    """The same for machines; its ``id`` stays when it is sent again."""

    def to_json(self) -> str:
        """To keep it until it is delivered."""
        return json.dumps({"title": self.title, "body": self.body, "event": dict(self.event)})

    @classmethod
    def from_json(cls, text: str) -> Letter:
        """What `to_json` has made."""
        return cls(**json.loads(text))


def letter(notice: Notice) -> Letter:
    """The notice as it is sent."""
    return Letter(_title(notice), _body(notice), _alert_event(notice))


def event(kind: str, at: datetime, sequence: str, sync: str, run_id: str, url: str | None, **more: Any) -> Letter:
    """A step's ``started``, ``plan_ready`` or ``finished``."""
    return Letter("", "", _envelope(f"step.{kind}", at, sequence, sync, run_id, url) | more)


def _title(notice: Notice) -> str:
    names = [m.condition for m in notice.matters]
    if "guarded" in names:
        # A tripped guard is why it failed.
        names = [n for n in names if n != "failed"]
    what = ", ".join(_TITLES.get(n, n) for n in names)
    return f"{notice.label}: {what}" if notice.kind == "raised" else f"{notice.label}: recovered ({what})"


def _body(notice: Notice) -> str:
    paragraphs = [_cut(notice.text)] if notice.text else []
    paragraphs += [_cut(m.text) for m in notice.matters if m.text]
    lines = [_when(m) for m in notice.matters]
    if counts := [f"{n:,} {name.replace('_', ' ')}" for name, n in notice.counts.items() if n]:
        lines.append(f"Rows: {', '.join(counts)}")
    if notice.errors:
        lines += ["Errors:", *(f"- {_error(e)}" for e in notice.errors)]
    if notice.waiting:
        lines.append(f"Waiting: {', '.join(notice.waiting)}")
    if notice.run_id:
        lines.append(f"Run: {notice.run_url or notice.run_id}")
    if notice.owners:
        lines.append(f"Owners: {', '.join(notice.owners)}")
    if notice.runbook:
        lines.append(f"Runbook: {notice.runbook}")
    return "\n\n".join([*paragraphs, "\n".join(lines)])


def _when(matter: Matter) -> str:
    name = _TITLES.get(matter.condition, matter.condition)
    since = f"{name[0].upper()}{name[1:]} since {_moment(matter.since)}"
    return since if matter.until is None else f"{since}, over after {span(matter.until - matter.since)}"


def _error(error: ErrorSeen) -> str:
    rows = f"{error.rows} rows, e.g. {error.key}" if error.rows > 1 else f"row {error.key}"
    what = ": ".join(filter(None, [error.code, _cut(error.message, 300)]))
    return f"{what} ({rows})"


def _alert_event(notice: Notice) -> dict[str, Any]:
    common = _envelope(
        f"alert.{notice.kind}", notice.at, notice.sequence, notice.sync, notice.run_id or "", notice.run_url
    )
    return common | {
        "title": _title(notice),
        "text": " ".join(filter(None, [_cut(notice.text), *(_cut(m.text) for m in notice.matters)])),
        "conditions": [
            {"name": m.condition, "since": _iso(m.since), "until": _iso(m.until) if m.until else None}
            for m in notice.matters
        ],
        "counts": dict(notice.counts),
        "errors": [
            {"code": e.code, "message": _cut(e.message, 300), "rows": e.rows, "key": e.key} for e in notice.errors
        ],
        "waiting": list(notice.waiting),
        "owners": list(notice.owners),
        "runbook": notice.runbook,
    }


def _envelope(kind: str, at: datetime, sequence: str, sync: str, run_id: str, url: str | None) -> dict[str, Any]:
    return {
        "version": VERSION,
        "id": uuid.uuid4().hex,
        "type": kind,
        "at": _iso(at),
        "sequence": sequence,
        "sync": sync or None,
        "run": {"id": run_id, "url": url} if run_id else None,
    }


def _cut(text: str, length: int = MAX_TEXT) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
