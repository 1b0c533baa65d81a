"""Frames to send, and what came of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pyarrow as pa

from seqsync_dagster.destinations.protocol import OUTCOME_SCHEMA, Answered, Event, InFlight, Outcomes, Progress, Request


def frame(columns: dict[str, list[Any]], seqs: Iterable[int] | None = None) -> pd.DataFrame:
    """A frame as the engine builds it: Arrow types, `seq` first."""
    rows = len(next(iter(columns.values())))
    table = pa.table({"seq": pa.array(seqs or range(rows), pa.int64()), **columns})
    whole: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return whole


def accounts(count: int, **more: list[Any]) -> pd.DataFrame:
    numbers = range(count)
    return frame({"External_Id__c": [f"A{n:06}" for n in numbers], "Name": [f"Name {n}" for n in numbers], **more})


def upsert(rows: int, object: str = "Account", **more: Any) -> Request:
    return Request(object, "upsert", "External_Id__c", rows, **more)


@dataclass
class Sent:
    """Everything a send yielded."""

    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    in_flight: list[InFlight] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    repeated: int = 0

    def take(self, event: Event) -> None:
        if isinstance(event, InFlight):
            self.in_flight.append(event)
        elif isinstance(event, Progress):
            self.progress.append(event)
        elif isinstance(event, Answered):
            self.answered.append(event.last_seq)
        else:
            assert isinstance(event, Outcomes)
            table = pa.Table.from_pandas(event.frame, preserve_index=False)
            assert table.schema.remove_metadata().equals(OUTCOME_SCHEMA)
            for row in table.to_pylist():
                self.repeated += row["seq"] in self.rows
                self.rows[row["seq"]] = row

    def acknowledged(self) -> set[int]:
        return {seq for seq, row in self.rows.items() if row["code"] is None}

    def rejected(self) -> dict[int, tuple[str, str]]:
        return {seq: (row["code"], row["error_class"]) for seq, row in self.rows.items() if row["code"]}


def drain(events: Iterator[Event], into: Sent | None = None) -> Sent:
    """Take all events; `into` keeps what came before an error."""
    sent = into or Sent()
    for event in events:
        sent.take(event)
    return sent
