"""What a person can ask of a run, typed once: the launchpad shows it, and every sync reads it."""

# No postponed annotations here: Dagster reads that of the config mapping.

from typing import Any

import dagster as dg
from pydantic import Field

from seqsync_dagster.engine.options import RunOptions

#: Resource that carries the options to the assets.
RESOURCE = "seqsync"


class RunConfig(dg.Config):
    """Options of one run, the same for every sync in it."""

    full_resync: bool = Field(default=False, description="Send every row, whatever the ledger says was acknowledged.")
    only_keys: list[str] = Field(
        default=[],
        description="Send only the rows with these keys; parts of a composite key are joined with ':'. "
        "Nothing is removed then.",
    )
    limit: int | None = Field(
        default=None, ge=1, description="Send at most this many rows per sync. Nothing is removed then."
    )
    approve_plan: str | None = Field(
        default=None, description="Id of a plan that a guard stopped: exactly that plan passes its guards."
    )
    plan_id: str | None = Field(
        default=None,
        description="Id of a plan that the job `<sequence>_plan` made: exactly that is sent, with the values of that "
        "moment. Goes with no other option.",
    )
    rebuild_ledger: bool = Field(
        default=False,
        description="Start with an empty ledger although the sync has run before; rows are matched with the "
        "destination's records again.",
    )
    requeue: dict[str, list[str]] = Field(
        default={},
        description="Per sync, keys of rows to release and send in this run: refused, quarantined, gone or "
        "skipped ones.",
    )
    skip_once: dict[str, list[str]] = Field(
        default={}, description="Per sync, keys of rows that are not sent until their values change."
    )
    skip_always: dict[str, list[str]] = Field(
        default={}, description="Per sync, keys of rows that are not sent until a run requeues them."
    )


class RunOptionsResource(RunConfig, dg.ConfigurableResource[Any]):
    """The options as a resource: asked for once per run and not once per sync."""

    def read(self) -> RunOptions:
        """The options in the engine's own terms."""
        return RunOptions(
            full_resync=self.full_resync,
            only_keys=tuple(self.only_keys),
            limit=self.limit,
            approve_plan=self.approve_plan or None,
            plan_id=self.plan_id or None,
            rebuild_ledger=self.rebuild_ledger,
            requeue=self.requeue,
            skip_once=self.skip_once,
            skip_always=self.skip_always,
        )


#: One object for all sequences: definitions are merged, and two different resources of one name would clash.
OPTIONS = RunOptionsResource()


@dg.config_mapping
def at_the_top(config: RunConfig) -> dict[str, Any]:
    """Run config of a sequence's job: the options themselves, without the path to the resource."""
    given = {name: value for name, value in config.model_dump().items() if value is not None}
    return {"resources": {RESOURCE: {"config": given}}}
