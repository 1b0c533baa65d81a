"""What is under way: leases, runs, in-flight sends, outcomes not yet settled."""

from seqsync_dagster.errors import JournalUnavailable
from seqsync_dagster.journal.lease import Lease, Scope
from seqsync_dagster.journal.store import Journal, OpenRun, OpenSend

__all__ = ["Journal", "JournalUnavailable", "Lease", "OpenRun", "OpenSend", "Scope"]
