"""What a run works with, and the work itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from seqsync_dagster.destinations.protocol import Account, Destination
from seqsync_dagster.engine.options import RunOptions
from seqsync_dagster.engine.telling import Tell, to_nobody
from seqsync_dagster.errors import OtherDestination
from seqsync_dagster.journal.lease import Lease
from seqsync_dagster.journal.store import Journal
from seqsync_dagster.ledger.registry import Registered
from seqsync_dagster.ledger.tables import StateTables
from seqsync_dagster.sequence.spec import SequenceSpec
from seqsync_dagster.sequence.sync import SyncSpec
from seqsync_dagster.warehouse.open import Warehouse


@dataclass(frozen=True)
class Site:
    """Everything that runs of a sequence share."""

    sequence: SequenceSpec
    warehouse: Warehouse
    journal: Journal
    destination: Destination
    tell: Tell = to_nobody
    """Hears what the runs do, while they do it."""

    def __post_init__(self) -> None:
        # A limit of a connection's own holds for all its syncs, in whatever process they run.
        self.destination.calls.ledger = self.journal.calls_of(self.sequence.destination)


@dataclass(frozen=True)
class Work:
    """One run of one sync."""

    site: Site
    sync: SyncSpec
    options: RunOptions
    run_id: str
    holder: str
    lease: Lease
    log: Callable[[str], None]
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    raised_epoch: int = 0

    @property
    def epoch(self) -> int:
        """What this run writes into the ledger to keep earlier ones out."""
        return max(self.lease.epoch, self.raised_epoch)

    def above(self, known: Registered | None) -> Work:
        """This run with an epoch above the ledger's, which only the holder of the lease may take.

        The lease's own epoch is lower when the journal is younger than the ledger: moved, or lost.
        """
        return self if known is None else replace(self, raised_epoch=max(self.epoch, known.epoch + 1))

    def tables(self, schema: str) -> StateTables:
        """The sync's state tables."""
        return StateTables.of(self.site.sequence, self.sync, schema)


def checked_account(work: Work, known: Registered | None) -> Account:
    """Who the destination is, after comparing it with the ledger.

    Raises `OtherDestination` when the ledger was kept for another org.
    """
    account = work.site.destination.account()
    if known is not None and known.org_id is not None and known.org_id != account.id:
        raise OtherDestination(
            f"sync {work.sync.name}: its ledger was kept for {known.org_name} ({known.org_id}), but the connection "
            f"{work.site.sequence.destination!r} now leads to {account.name} ({account.id}). Nothing was sent. "
            "Point the connection back, or give the new org a state of its own (state: schema or directory)."
        )
    return account
