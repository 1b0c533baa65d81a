"""How a sequence's steps are run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from seqsync_dagster.sequence.graph import levels

if TYPE_CHECKING:
    from seqsync_dagster.sequence.spec import SequenceSpec

# A sync whose rejected rows are over the limit has settled its outcomes and says which rows its children
# must hold: it is red, and they start nevertheless, on its output instead of on its success.
_LOOSE = {"step_dependency_config": {"require_upstream_step_success": False}}

LOOSE_IN_PROCESS = dg.in_process_executor.configured(_LOOSE)

#: So many syncs beside each other make processes worth their start, see README: from two on they hardly ever do.
WIDE = 4
#: Steps at a time: they mostly wait for the destination, and each may take the memory that the warehouse allows it.
MAX_CONCURRENT = 4


def runs_in_processes(sequence: SequenceSpec) -> bool:
    """Whether each step of the sequence's job has a process of its own."""
    if sequence.executor is not None:
        return sequence.executor == "multiprocess"
    return max(len(level) for level in levels(sequence)) >= WIDE


def executor_of(sequence: SequenceSpec) -> dg.ExecutorDefinition:
    """The executor of a sequence's job."""
    if not runs_in_processes(sequence):
        return LOOSE_IN_PROCESS
    return dg.multiprocess_executor.configured({"max_concurrent": sequence.max_concurrent or MAX_CONCURRENT, **_LOOSE})
