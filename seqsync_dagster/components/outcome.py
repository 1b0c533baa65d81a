"""A run's outcome, as tags on it: the worst of its syncs, and its rows that need somebody's eye."""

from __future__ import annotations

from typing import Literal

import dagster as dg

Outcome = Literal["success", "partial", "failed"]
_WORSE: tuple[Outcome, ...] = ("success", "partial", "failed")

OUTCOME = "seqsync/outcome"
#: The sync that keeps those below it waiting.
STOPPED = "seqsync/stopped"
#: Tag of every run of a sequence's job: the sequence's name.
SEQUENCE = "seqsync/sequence"


def tag_run(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, outcome: Outcome, **counts: int) -> None:
    """Add one sync's outcome and counts to those of the run."""
    run = context.instance.get_run_by_id(context.run.run_id)
    tags = dict(run.tags) if run else {}
    known = [o for o in _WORSE if o == tags.get(OUTCOME)]
    new: dict[str, str] = {OUTCOME: max([outcome, *known], key=_WORSE.index)}
    for name, count in counts.items():
        if count:
            new[f"seqsync/{name}"] = str(count + int(tags.get(f"seqsync/{name}", 0)))
    context.instance.add_run_tags(context.run.run_id, new)
