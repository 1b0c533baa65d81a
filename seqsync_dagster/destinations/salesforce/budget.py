"""What a connection may spend of the org's API calls: a share of its own, and a reserve it leaves to others.

Salesforce counts API requests over a moving 24 hours for the whole org, and says with every
reply how many were made: ``Sforce-Limit-Info: api-usage=18/5000`` (REST API developer guide,
"Limit Info Header"; ``/limits`` says the same as ``DailyApiRequests``). Logins by OAuth are not counted.
"""

from __future__ import annotations

import math
import re
import threading
from contextlib import suppress

from seqsync_dagster.destinations.protocol import CallCount, CallLedger
from seqsync_dagster.destinations.salesforce.settings import ApiBudget, Share
from seqsync_dagster.errors import BudgetSpent, JournalUnavailable

#: Calls that a Bulk job is begun with: create, upload, close, three result files, and polls of
#: some minutes. What it needs beyond them it makes all the same: results have to be read.
BULK_JOB_CALLS = 20

# The app's own usage stands in the same header: per-app-api-usage=17/250(appName=x).
_USAGE = re.compile(r"(?<![\w-])api-usage=(\d+)/(\d+)")


class Budget:
    """Asked before rows go, and told of every call. Without settings it lets everything pass."""

    def __init__(self, settings: ApiBudget | None, calls: CallCount) -> None:
        self._daily = None if settings is None else settings.daily_calls
        self._reserve = None if settings is None else settings.reserve
        self._calls = calls
        self._alone = _Alone()
        self._lock = threading.Lock()
        self._taken = 0
        self._org: tuple[int, int] | None = None

    @property
    def must_ask(self) -> bool:
        """Whether the org's usage matters and no reply has told it."""
        return self._reserve is not None and self._org is None

    def heard(self, limit_info: str | None) -> None:
        """Take in a reply's ``Sforce-Limit-Info`` header."""
        if limit_info and (usage := _USAGE.search(limit_info)):
            self._org = int(usage[1]), int(usage[2])

    def told(self, used: int, most: int) -> None:
        """Take in what ``/limits`` says: calls made in 24 hours, and how many the org may make."""
        self._org = used, most

    def made(self) -> None:
        """Count one call that is about to be made, whether there is budget for it or not."""
        if self._daily is None:
            return
        with self._lock:
            if self._taken:
                self._taken -= 1
                return
        self._ledger.add(1)

    def afford(self, calls: int, called: str) -> None:
        """Take `calls` out of the budget. Raises `BudgetSpent`, and takes none, when there are not as many.

        `called` opens the message.
        """
        if self._reserve is not None and self._org is not None:
            used, most = self._org
            reserve = _calls_of(self._reserve, most)
            if most - used - calls < reserve:
                raise BudgetSpent(
                    f"{called}: {used:,} of the org's {most:,} API calls of 24 hours are used, by whomever, and "
                    f"api_budget leaves a reserve of {reserve:,} of them; the next send takes {calls}."
                )
        if self._daily is None:
            return
        with self._lock:
            need = max(0, calls - self._taken)
            before = self._ledger.take(need, self._daily) if need else 0
            if before + need > self._daily:
                raise BudgetSpent(
                    f"{called}: the syncs of this connection made or took {before:,} API calls in the last 24 hours, "
                    f"api_budget allows daily_calls: {self._daily:,}, and the next send takes {calls}. "
                    "Calls come back as the 24 hours move on; a higher daily_calls sends sooner."
                )
            self._taken += need

    def give_back(self) -> None:
        """Return what was taken and not used."""
        with self._lock:
            left, self._taken = self._taken, 0
        if left:
            # Then the count stays a little too high for a day, which is no reason to fail at the end.
            with suppress(JournalUnavailable):
                self._ledger.add(-left)

    @property
    def _ledger(self) -> CallLedger:
        return self._calls.ledger or self._alone


class _Alone:
    """Counts for a connection that no journal counts for."""

    def __init__(self) -> None:
        self._made = 0

    def add(self, calls: int) -> None:
        self._made += calls

    def take(self, calls: int, most: int) -> int:
        before = self._made
        if before + calls <= most:
            self._made += calls
        return before


def _calls_of(reserve: int | Share, most: int) -> int:
    return math.ceil(most * reserve.percent / 100) if isinstance(reserve, Share) else reserve
