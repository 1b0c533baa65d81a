"""What can go wrong, said so that a reader knows what to do.

    SeqsyncError
     +- ConfigurationError      a file or setting is wrong; nothing was sent
     |   +- Unfulfillable       what somebody asked a run for cannot be done; nothing was sent
     +- WarehouseError          the model or the ledger cannot be read or written
     |   +- WarehouseLocked     another process holds the DuckDB file
     |   +- ModelMissing        the model's relation, or one of its columns, is not there
     +- StateError              ledger or journal contradict what is known elsewhere
     |   +- LedgerLost          the ledger is new but the sync has a past
     |   +- OtherDestination    the connection points at another org than the ledger
     |   +- LeaseHeld           another run is at work on this sync
     |   +- LeaseLost           this run was declared dead and another took over
     |   +- PlanOutdated        a plan that was read is not there, or does not fit any more; nothing was sent
     |   +- JournalUnavailable  the journal does not answer, or stays locked
     +- GuardTripped            the plan breaks a guard; nothing was sent
     +- SequenceStopped         a sync above has failed and is not mended; nothing was sent
     +- GateClosed              a dbt test of the model failed; nothing was sent
     +- TriggerError            what a trigger looks at cannot be seen; nothing was started
     |   +- DbtCloudUnreachable   no answer of dbt Cloud, or an error of its own: the next look may succeed
     |   +- DbtCloudRefused       dbt Cloud answered no: the token, the job, the account
     +- DestinationError        the destination refused or did not answer
         +- DestinationUnreachable   transient: worth another run as it is
         +- DestinationRefused       credentials, permissions, unknown object
         +- DestinationStillBusy     a job accepted earlier has not ended yet
         +- ResultsUnclear           what became of some rows cannot be told; they go again
         +- BudgetSpent              the connection's own share of API calls is used up

Every message says what is wrong, where, and what to do; none carries a secret.
"""

from __future__ import annotations


class SeqsyncError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigurationError(SeqsyncError):
    """A setting, a mapping or a file is wrong. Nothing was sent."""


class WarehouseError(SeqsyncError):
    """The warehouse could not be read, or the ledger not written."""


class WarehouseLocked(WarehouseError):
    """Another process holds the DuckDB file open."""


class ModelMissing(WarehouseError):
    """The model's relation, or a mapped column of it, does not exist."""


class StateError(SeqsyncError):
    """Ledger or journal contradict what is known elsewhere."""


class LedgerLost(StateError):
    """The ledger is new while the sync is known to have run before."""


class OtherDestination(StateError):
    """The connection now points at another org than the one in the ledger."""


class LeaseHeld(StateError):
    """Another run is at work on this sync; `holder` names it."""

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


class LeaseLost(StateError):
    """This run's lease was taken over; it must not write any more."""


class Unfulfillable(ConfigurationError):
    """What somebody asked a run for cannot be done: the run is wrong, and not how its sync stands. Nothing was sent."""


class PlanOutdated(StateError):
    """A plan that somebody read cannot be sent as it was read. Nothing was sent."""


class JournalUnavailable(StateError):
    """The journal could not be reached, or stayed locked; what was being written may not be there."""


class GuardTripped(SeqsyncError):
    """A plan breaks a guard. Nothing was sent; `plan_id` names the plan."""

    def __init__(self, message: str, plan_id: str) -> None:
        super().__init__(message)
        self.plan_id = plan_id


class SequenceStopped(SeqsyncError):
    """Syncs above, in `stopped`, have failed and are not mended. Nothing was sent."""

    def __init__(self, message: str, stopped: tuple[str, ...]) -> None:
        super().__init__(message)
        self.stopped = stopped


class GateClosed(SeqsyncError):
    """The latest evaluation of a dbt test on the model failed. Nothing was sent."""


class TriggerError(SeqsyncError):
    """What a trigger looks at cannot be seen. Nothing was started."""


class DbtCloudUnreachable(TriggerError):
    """dbt Cloud did not answer, or not as its API does: the next look may succeed as it is."""


class DbtCloudRefused(TriggerError):
    """dbt Cloud answered no for good: the token, the job or the account is wrong."""


class DestinationError(SeqsyncError):
    """The destination refused a call, or did not answer it."""


class DestinationUnreachable(DestinationError):
    """No answer, or a transient one, after every retry: another run may succeed as it is."""


class DestinationRefused(DestinationError):
    """The destination answered no for good: credentials, permissions, unknown object."""


class DestinationStillBusy(DestinationError):
    """Work that the destination accepted has not ended within the wait; the next run takes it up."""


class ResultsUnclear(DestinationError):
    """The destination's results do not say what became of every row that was sent. Asked about once more, the rest
    counts as rows of which nobody knows."""


class BudgetSpent(DestinationError):
    """The connection may make no further API calls for now. Raised between two sends only.

    What was sent has had its answer; `rows_waiting` rows of the plan stay due for the next run.
    """

    def __init__(self, message: str, rows_waiting: int = 0) -> None:
        super().__init__(message)
        self.rows_waiting = rows_waiting
