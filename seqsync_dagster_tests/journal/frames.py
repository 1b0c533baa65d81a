"""Frames of outcomes, as a destination would yield them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import pyarrow as pa

from seqsync_dagster.destinations.protocol import OUTCOME_SCHEMA


def outcomes_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A frame with Arrow dtypes; columns that a row does not name are null."""
    full = [{name: row.get(name) for name in OUTCOME_SCHEMA.names} for row in rows]
    table = pa.Table.from_pylist(full, schema=OUTCOME_SCHEMA)
    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def acknowledged(seqs: Iterable[int], word: str = "001") -> pd.DataFrame:
    """Acknowledgements; `word` makes those of one batch recognisable."""
    return outcomes_frame({"seq": seq, "dest_id": word, "created": True} for seq in seqs)
