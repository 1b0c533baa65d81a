"""What tests switch on and read back: faults, rules of the org, its limits and speed, and the calls that were made."""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from seqsync_dagster.emulator.schema import find_object

CALL_FAULTS = ("503", "503_after", "401", "expire", "limit", "reset_before", "reset_after", "silent", "cut", "page")
ROW_FAULTS = ("lock", "contention")
JOB_FAULTS = ("fail_job", "slow_job")
RULES = ("duplicate_rule", "validation_rule", "assignment_rule")
_VERSION = re.compile(r"/v\d+\.\d+(?=/|$)")
_ID = re.compile(r"/(?=[^/]*\d)[A-Za-z0-9]{3}[A-Za-z0-9]{12,15}(-\d+)?(?=/|$)")
_ALWAYS = 10**9


@dataclass(slots=True)
class Fault:
    """`kind` strikes `times` times, where the path (for rows and jobs: `path object`) contains `path_contains`.

    A `method` limits it to calls of that method, and the first `skip` calls that it could strike are spared.

    Calls: 503 before or after the work is done, 401 once, `expire` (every token is void from then on), `limit`
    (the daily requests are spent), a connection cut before or after the work, `cut` in the middle of the reply, or
    never answered after the work (`silent`), and a `page` of HTML with status 200 instead of the work, as proxies
    that want a login serve it. Rows: `lock`, and `contention`, which
    locks rows whose parent also has rows in another batch of `rows` rows. Jobs: `fail_job` after `rows` rows,
    `slow_job` at `rows` rows per second. With a `share` below 1 a generator seeded with `seed` decides each time.
    """

    kind: str
    path_contains: str = ""
    times: int = 1
    method: str = ""
    skip: int = 0
    share: float = 1.0
    seed: int = 0
    rows: int = 0
    message: str = ""
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)


@dataclass(frozen=True, slots=True)
class OrgRule:
    """A rule of the org's administrator ("Duplicate Rules", "Validation Rules", "Assignment Rules" of the help).

    A duplicate rule: another living record has the same `fields`; where the rule does not `block`, a caller may insist
    with `Sforce-Duplicate-Rule-Header: allowSave=true`. A validation rule: the first of `fields`, as it would be
    saved, matches `matches`; `message` is the administrator's own. An assignment rule, by its `id`: records that are
    written with it belong to the user of the name `owner`; REST uses the `active` one unless told otherwise.
    """

    kind: str
    object: str
    fields: tuple[str, ...] = ()
    matches: str = ""
    message: str = "Use one of these records?"
    block: bool = False
    id: str = ""
    owner: str = ""
    active: bool = True


@dataclass(frozen=True, slots=True)
class Settings:
    """How fast the org is and how much of it there is; POST /emulator/settings changes it.

    Results and jobs go 7 days after a job's end, uploads have 150 MB once they are base64, 15,000 batches of 10,000
    rows go in a day ("Bulk API and Bulk API 2.0 Limits and Allocations").
    """

    api_limit: int
    bulk_delay_s: float = 0.0
    bulk_rows_per_s: int | None = None
    bulk_batches_limit: int = 15_000
    results_age_s: float = 7 * 86_400
    upload_limit: int = 150_000_000
    rows_call_s: float = 0.0
    """What a Collections call takes besides the emulator's own time: triggers and flows of a real org."""


class Controls:
    """The switches of one running emulator, shared by its threads."""

    def __init__(self, api_calls: int, api_limit: int) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._first = Settings(api_limit)
        self.settings = self._first
        self.rules: tuple[OrgRule, ...] = ()
        self.api_calls = api_calls
        self.calls: Counter[str] = Counter()
        self.row_bearing = 0

    def add(self, asked: Mapping[str, Any]) -> None:
        """Switch a fault or a rule on; ValueError says what is wrong with it."""
        given = dict(asked)
        kind = given.pop("fault", None)
        try:
            if kind in RULES:
                rule = OrgRule(kind, **{**given, "fields": tuple(given.get("fields", ()))})
                obj = find_object(rule.object)
                if (
                    obj is None
                    or (kind != "assignment_rule" and not rule.fields)
                    or any(name not in obj.fields for name in rule.fields)
                ):
                    raise ValueError(f"no such fields: {rule.object} {rule.fields}")
                re.compile(rule.matches)
                with self._lock:
                    self.rules = (*self.rules, replace(rule, object=obj.name))
                return
            if kind not in (known := CALL_FAULTS + ROW_FAULTS + JOB_FAULTS):
                raise ValueError(f"no fault {kind!r}; there are {', '.join((*known, *RULES))}")
            if kind == "contention":
                given = {"times": _ALWAYS, "rows": 10_000, **given}
            fault = Fault(kind, **given)
            fault.times = int(fault.times)
        except (TypeError, re.error) as error:
            raise ValueError(str(error)) from None
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """No fault and no rule from now on."""
        with self._lock:
            self._faults.clear()
            self.rules = ()

    def strikes(self, kinds: tuple[str, ...], path: str, method: str = "") -> Fault | None:
        """The fault that hits this path now, if one does; it is used up by one."""
        if not self._faults:
            return None
        with self._lock:
            for fault in self._faults:
                if fault.kind not in kinds or fault.path_contains not in path or fault.method not in ("", method):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                elif fault.chance.random() < fault.share:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._faults.remove(fault)
                    return fault
        return None

    def lock_hits(self, path: str) -> bool:
        """Whether the next row of this path finds its record locked."""
        return self.strikes(("lock",), path) is not None

    def contention(self, path: str) -> Fault | None:
        """The contention there is on this path; looking does not use it up."""
        with self._lock:
            return next((f for f in self._faults if f.kind == "contention" and f.path_contains in path), None)

    def rules_of(self, name: str) -> Iterator[OrgRule]:
        """The rules of one object, validation first, as the order of execution has it."""
        mine = (r for r in self.rules if r.object == name and r.kind != "assignment_rule")
        return iter(sorted(mine, key=lambda r: r.kind, reverse=True))

    def assigning(self, name: str, asked: str) -> OrgRule | None:
        """The assignment rule for records of an object when `asked` is an id, or TRUE for the active one."""
        mine = (r for r in self.rules if r.object == name and r.kind == "assignment_rule")
        if asked.upper() in ("TRUE", "FALSE", ""):
            return next((r for r in mine if r.active and asked.upper() == "TRUE"), None)
        return next((r for r in mine if r.id[:15] == asked[:15]), None)

    def set(self, asked: Mapping[str, Any]) -> None:
        """Change settings by name; `api_calls` is how many of the day's requests are spent."""
        given = dict(asked)
        unknown = given.keys() - {f.name for f in fields(Settings)} - {"api_calls"}
        if unknown:
            raise ValueError(f"no setting {', '.join(sorted(unknown))}")
        self.api_calls = int(given.pop("api_calls", self.api_calls))
        self.settings = replace(self.settings, **given)

    def count(self, method: str, path: str) -> None:
        normalised = _ID.sub("/{id}", _VERSION.sub("/vN", path))
        writes = method in ("POST", "PATCH", "DELETE") and "/composite/" in path
        with self._lock:
            # Signing in is not charged to the daily allocation.
            self.api_calls += path.startswith("/services/data/")
            self.calls[f"{method} {normalised}"] += 1
            self.row_bearing += writes or (method == "PUT" and path.endswith("/batches"))

    def reset(self) -> None:
        with self._lock:
            self.calls.clear()
            self.row_bearing = 0

    def forget(self) -> None:
        """As at the first start."""
        self.clear()
        self.reset()
        self.settings, self.api_calls = self._first, 0

    def report(self) -> dict[str, Any]:
        with self._lock:
            return {"calls": dict(self.calls), "total": self.calls.total(), "row_bearing": self.row_bearing}
