"""The code location: everything in `defs/`."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from seqsync_dagster.components.executors import LOOSE_IN_PROCESS
from seqsync_dagster.components.yaml_source import mistake_behind


@dg.definitions
def defs() -> dg.Definitions:
    """What `defs/` declares, run the way sequences need it."""
    try:
        loaded = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    except Exception as error:
        # Dagster's account of where it was comes before the mistake in the file, which is all that matters.
        if mistake := mistake_behind(error):
            raise mistake from None
        raise
    # The executor serves syncs that are materialised by themselves, outside their sequence's job.
    return dg.Definitions.merge(loaded, dg.Definitions(executor=LOOSE_IN_PROCESS))
