"""How a sequence's steps are run."""

from __future__ import annotations

import dagster as dg

# One process per step costs seconds, and the syncs of a sequence mostly wait for each other anyway.
# A sync whose rejected rows are over the limit has settled its outcomes and says which rows its children
# must hold: it is red, and they start nevertheless, on its output instead of on its success.
LOOSE_IN_PROCESS = dg.in_process_executor.configured(
    {"step_dependency_config": {"require_upstream_step_success": False}}
)
