"""Building frames of outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from seqsync_dagster.destinations.protocol import OUTCOME_SCHEMA, ErrorClass, Outcomes
from seqsync_dagster.destinations.salesforce.errors import RowError

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class OutcomeRows:
    """Outcomes collected row by row, for the calls of 200 rows where a loop is cheap."""

    seq: list[int] = field(default_factory=list)
    dest_id: list[str | None] = field(default_factory=list)
    created: list[bool | None] = field(default_factory=list)
    code: list[str | None] = field(default_factory=list)
    message: list[str | None] = field(default_factory=list)
    error_class: list[ErrorClass | None] = field(default_factory=list)

    def acknowledge(self, seq: int, dest_id: str, created: bool | None) -> None:
        """The destination took the row."""
        self._add(seq, dest_id, created, None, None, None)

    def reject(
        self,
        seq: int,
        dest_id: str | None,
        error: RowError,
        error_class: ErrorClass,
        *,
        created: Literal[False] | None = None,
    ) -> None:
        """The destination refused the row. `created`: False of an insert whose record no earlier try can have made."""
        self._add(seq, dest_id, created, error.code, error.text, error_class)

    def event(self) -> Outcomes:
        """What was collected so far."""
        columns = [self.seq, self.dest_id, self.created, self.code, self.message, self.error_class]
        return outcomes(columns)

    def _add(
        self,
        seq: int,
        dest_id: str | None,
        created: bool | None,
        code: str | None,
        message: str | None,
        error_class: ErrorClass | None,
    ) -> None:
        self.seq.append(seq)
        self.dest_id.append(dest_id)
        self.created.append(created)
        self.code.append(code)
        self.message.append(message)
        self.error_class.append(error_class)


def outcomes(columns: Sequence[object]) -> Outcomes:
    """An event from the six columns of OUTCOME_SCHEMA, as lists or Arrow arrays."""
    arrays = [
        column.cast(part.type) if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column, part.type)
        for column, part in zip(columns, OUTCOME_SCHEMA, strict=True)
    ]
    return Outcomes(to_frame(pa.table(arrays, schema=OUTCOME_SCHEMA)))


def to_frame(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as a DataFrame that keeps Arrow's types."""
    import pandas as pd

    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame
