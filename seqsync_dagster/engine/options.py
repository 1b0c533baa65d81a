"""What the person who starts a run may ask of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunOptions:
    """Options of one run; the same for every sync in it."""

    full_resync: bool = False
    """Every row is due, whatever the ledger says."""
    only_keys: tuple[str, ...] = ()
    """Only rows with these keys (text form; the parts of a composite key joined with ``:``). No removals."""
    limit: int | None = None
    """At most this many rows are sent per sync. No removals."""
    approve_plan: str | None = None
    """Id of a plan that a guard stopped: exactly that plan passes its guards."""
    plan_id: str | None = None
    """Id of a plan that was made to be read: exactly that is sent, with the options and values of that moment."""
    rebuild_ledger: bool = False
    """Start with an empty ledger although the sync has run before; rows are matched again."""
    requeue: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Sync -> keys (text form) of refused, quarantined, gone or skipped rows to be sent in this run."""
    skip_once: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Sync -> keys of rows that are not sent until their values change."""
    skip_always: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Sync -> keys of rows that are not sent until they are requeued."""

    def actions_on(self, sync: str) -> dict[str, tuple[str, ...]]:
        """What is asked for rows of one sync: action -> keys as they were written."""
        asked = {"requeue": self.requeue, "skip_once": self.skip_once, "skip_always": self.skip_always}
        return {action: tuple(keys[sync]) for action, keys in asked.items() if keys.get(sync)}

    @property
    def partial(self) -> bool:
        """Whether the plan does not see the whole model, so that it cannot tell what left it."""
        return bool(self.only_keys) or self.limit is not None
