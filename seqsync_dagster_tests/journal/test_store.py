from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqsync_dagster.destinations.protocol import OUTCOME_SCHEMA
from seqsync_dagster.errors import StateError
from seqsync_dagster.journal import Journal, Lease, OpenSend, Scope, tables
from seqsync_dagster_tests.journal.actor import Actor
from seqsync_dagster_tests.journal.frames import acknowledged, outcomes_frame


@pytest.fixture
def lease(journal: Journal, scope: Scope) -> Iterator[Lease]:
    with journal.acquire(scope, "run of the test") as lease:
        yield lease


@pytest.fixture
def run_id(journal: Journal, lease: Lease) -> str:
    run_id = uuid.uuid4().hex
    journal.begin(lease, run_id)
    return run_id


def recorded(journal: Journal, run_id: str) -> list[dict[str, Any]]:
    return [row for table in journal.outcomes(run_id) for row in table.to_pylist()]


def count(journal: Journal, table: sa.Table, run_id: str) -> int:
    with journal._database.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table).where(table.c.run_id == run_id)) or 0


def test_a_runs_life(journal: Journal, lease: Lease, scope: Scope, run_id: str) -> None:
    journal.planned(lease, run_id, "plan 7")
    request = {"object": "Account", "operation": "upsert", "match": "External_Id__c", "rows": 20}
    journal.in_flight(lease, run_id, 1, 0, 9, request, {"job": None})
    journal.in_flight(lease, run_id, 2, 10, 19, request, {"job": None})
    journal.in_flight(lease, run_id, 1, 0, 9, request, {"job": "750é", "parts": [1, 2]})
    journal.finish_send(lease, run_id, 1)
    [run] = journal.open_runs(scope)
    assert (run.run_id, run.scope, run.plan_id, run.epoch) == (run_id, scope, "plan 7", lease.epoch)
    assert abs(run.started_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert run.sends == (
        OpenSend(1, 0, 9, request, {"job": "750é", "parts": [1, 2]}, True),
        OpenSend(2, 10, 19, request, {"job": None}, False),
    )
    journal.in_flight(lease, run_id, 1, 0, 9, request, {"job": "751"})
    assert not journal.open_runs(scope)[0].sends[0].finished


def test_open_runs_come_oldest_first_and_survive_their_lease(journal: Journal, scope: Scope) -> None:
    runs = [f"{10 - number} of {scope}" for number in range(3)]
    for run_id in runs:
        with journal.acquire(scope, run_id) as lease:
            journal.begin(lease, run_id)
    assert [(run.run_id, run.epoch) for run in journal.open_runs(scope)] == list(zip(runs, (1, 2, 3), strict=True))
    with journal.acquire(scope, "settling") as lease:
        journal.record(lease, runs[0], acknowledged([1]))
        journal.close_run(lease, runs[0])
    assert [run.run_id for run in journal.open_runs(scope)] == runs[1:]


def test_every_column_comes_back_as_it_was(journal: Journal, lease: Lease, run_id: str) -> None:
    rows: list[dict[str, Any]] = [
        {"seq": 2**40, "dest_id": "001", "created": False, "code": None, "message": None, "error_class": None},
        {
            "seq": 3,
            "dest_id": None,
            "created": None,
            "code": "DUP",
            "message": "déjà «vu»\n'; --",
            "error_class": "gone",
        },
        {"seq": 4, "dest_id": "", "created": True, "code": "", "message": "", "error_class": None},
    ]
    journal.record(lease, run_id, outcomes_frame(rows))
    tables_ = list(journal.outcomes(run_id))
    assert [table.schema for table in tables_] == [OUTCOME_SCHEMA]
    assert recorded(journal, run_id) == [rows[1], rows[2], rows[0]]


def test_plain_pandas_columns_do_as_well(journal: Journal, lease: Lease, run_id: str) -> None:
    frame = pd.DataFrame(
        {"message": [None, None], "code": [None, "X"], "error_class": [None, "fix_row"], "seq": [1, 2]}
        | {"created": [True, None], "dest_id": ["a", None], "more": [1, 2]},
        index=[7, 7],
    )
    journal.record(lease, run_id, frame)
    assert [(row["seq"], row["created"], row["code"]) for row in recorded(journal, run_id)] == [
        (1, True, None),
        (2, None, "X"),
    ]


def test_text_that_postgresql_cannot_hold_does_not_stop_a_run(journal: Journal, lease: Lease, run_id: str) -> None:
    journal.record(
        lease, run_id, outcomes_frame([{"seq": 1, "code": "X", "message": "a\x00b", "error_class": "unknown"}])
    )
    assert recorded(journal, run_id)[0]["message"] == "a\ufffdb"


def test_an_empty_frame_is_fine(journal: Journal, lease: Lease, run_id: str) -> None:
    journal.record(lease, run_id, acknowledged([]))
    assert recorded(journal, run_id) == []


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (acknowledged([1]).drop(columns=["code", "created"]), "lacks created, code"),
        (outcomes_frame([{"seq": None}]), "seq is null"),
        (acknowledged([1]).assign(created="perhaps"), "not a frame of outcomes"),
    ],
)
def test_what_is_not_outcomes_is_refused(
    journal: Journal, lease: Lease, run_id: str, frame: pd.DataFrame, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        journal.record(lease, run_id, frame)
    assert recorded(journal, run_id) == []


def test_outcomes_stream_in_order_and_from_where_one_stopped(journal: Journal, lease: Lease, run_id: str) -> None:
    journal.record(lease, run_id, acknowledged(range(24_999, 12_000, -1)))
    journal.record(lease, run_id, acknowledged(range(12_001)))
    pages = journal.outcomes(run_id)
    first = next(pages)
    assert first.num_rows == 10_000
    # Between two pages no transaction is open, so that writers and schema changes pass.
    pool = journal._database._readers.pool
    assert isinstance(pool, sa.QueuePool)
    assert pool.checkedout() == 0
    journal.record(lease, run_id, acknowledged([25_000]))
    rest = pa.concat_tables([first, *pages])
    assert rest["seq"].to_pylist() == list(range(25_001))
    [tail] = journal.outcomes(run_id, after_seq=24_998)
    assert tail["seq"].to_pylist() == [24_999, 25_000]


outcome_rows = st.fixed_dictionaries(
    {
        "seq": st.integers(0, 12),
        "dest_id": st.none() | st.sampled_from(["001", "002"]),
        "created": st.none() | st.booleans(),
        "code": st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=5),
        "message": st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=9),
        "error_class": st.none() | st.sampled_from(["fix_row", "unknown"]),
    }
)


@given(batches=st.lists(st.lists(outcome_rows, max_size=8), max_size=5))
@settings(
    max_examples=40,
    deadline=None,
    # Each example begins a run of its own under the one lease.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_last_word_on_a_row_wins_and_who_created_it_stays_known(
    journal: Journal, lease: Lease, batches: list[list[dict[str, Any]]]
) -> None:
    run_id = uuid.uuid4().hex
    journal.begin(lease, run_id)
    model: dict[int, dict[str, Any]] = {}
    for batch in batches:
        journal.record(lease, run_id, outcomes_frame(batch))
        for row in {row["seq"]: row for row in batch}.values():
            created = row["created"]
            if created is None and row["seq"] in model:
                created = model[row["seq"]]["created"]
            model[row["seq"]] = {**row, "created": created}
    assert recorded(journal, run_id) == [model[seq] for seq in sorted(model)]
    journal.close_run(lease, run_id)


def test_what_was_returned_survives_a_kill(journal: Journal, journal_url: str, scope: Scope) -> None:
    run_id = uuid.uuid4().hex
    with Actor(journal_url, scope.sequence, scope.sync) as actor:
        assert actor.answer() == "ready"
        actor.ask("acquire", holder="run killed")
        actor.ask("begin", run_id=run_id)
        actor.tell("record for ever", run_id=run_id)
        returned = [actor.answer() for _ in range(7)]
        actor.kill()
        actor.process.wait()
    with journal.acquire(scope, "run next"):
        assert [run.run_id for run in journal.open_runs(scope)] == [run_id]
        rows = recorded(journal, run_id)
    # Batches after the last answer that was read may be there, each of them whole.
    assert len(rows) >= len(returned) * 50
    assert len(rows) % 50 == 0
    assert [(row["seq"], row["dest_id"]) for row in rows] == [(n, f"batch {n // 50}") for n in range(len(rows))]


def test_closing_a_run_forgets_all_but_that_it_was(journal: Journal, lease: Lease, scope: Scope, run_id: str) -> None:
    other = uuid.uuid4().hex
    journal.begin(lease, other)
    for each in (run_id, other):
        journal.in_flight(lease, each, 1, 0, 2, {}, {})
        journal.record(lease, each, acknowledged(range(3)))
    journal.close_run(lease, run_id)
    assert [run.run_id for run in journal.open_runs(scope)] == [other]
    assert [count(journal, table, run_id) for table in (tables.send, tables.outcome, tables.run)] == [0, 0, 1]
    assert [count(journal, table, other) for table in (tables.send, tables.outcome, tables.run)] == [1, 3, 1]
    assert list(journal.outcomes(run_id)) == []
    with pytest.raises(StateError, match="is closed"):
        journal.record(lease, run_id, acknowledged([1]))
    with pytest.raises(StateError, match="needs an id of its own"):
        journal.begin(lease, run_id)


def test_contradictions_are_named(journal: Journal, lease: Lease, run_id: str) -> None:
    with pytest.raises(StateError, match="knows no run nobody"):
        journal.planned(lease, "nobody", "plan")
    with pytest.raises(StateError, match="has no send 3"):
        journal.finish_send(lease, run_id, 3)
    with (
        journal.acquire(Scope("crm", f"other than {lease.scope.sync}"), "run") as elsewhere,
        pytest.raises(StateError, match=f"belongs to {lease.scope}; the lease is on"),
    ):
        journal.close_run(elsewhere, run_id)
