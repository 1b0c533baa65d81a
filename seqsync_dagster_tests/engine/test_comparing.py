"""How the model is compared with the ledger decides about speed, never about the result."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from seqsync_dagster.warehouse import duckdb, postgres
from seqsync_dagster_tests.engine.world import World


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """What is sent to the warehouse."""
    seen: list[str] = []

    def listen(_: object, __: object, statement: str, *more: object) -> None:
        seen.append(" ".join(statement.split()))

    sa.event.listen(sa.Engine, "before_cursor_execute", listen)
    yield seen
    sa.event.remove(sa.Engine, "before_cursor_execute", listen)


def _checksums(statements: list[str]) -> int:
    return sum("AS rows" in s and "sum(" in s for s in statements)


def _sample_everything(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (duckdb, postgres):
        monkeypatch.setattr(module, "SAMPLED_FROM", 1)
    if not world.on_duckdb:
        world.sql("ANALYZE")


def _accounts(world: World, count: int) -> None:
    world.insert("crm.accounts", [(f"A{i}", f"name {i}", None, None) for i in range(count)])


def test_a_sample_that_shows_changes_saves_the_checksum_and_what_is_settled_still_stands_for_the_model(
    world: World, monkeypatch: pytest.MonkeyPatch, statements: list[str]
) -> None:
    _accounts(world, 40)
    world.run("accounts")
    _sample_everything(world, monkeypatch)
    world.sql("UPDATE crm.accounts SET name = 'other' WHERE account_id IN ('A1', 'A2', 'A3', 'A4')")
    world.sql("DELETE FROM crm.accounts WHERE account_id = 'A9'")
    statements.clear()
    counts = world.run("accounts").counts
    assert (counts.updated, counts.unchanged, counts.removals_kept) == (4, 35, 1)
    assert any("TABLESAMPLE" in s for s in statements)
    assert _checksums(statements) == 0
    statements.clear()
    assert world.run("accounts").counts.unchanged == 39
    assert "nothing to do" in world.lines[-1]
    assert _checksums(statements) == 1


def test_rows_that_wait_do_not_make_every_sample_show_changes(
    world: World, monkeypatch: pytest.MonkeyPatch, statements: list[str]
) -> None:
    _accounts(world, 5)
    world.insert("crm.accounts", [(f"B{i}", None, None, None) for i in range(20)])
    assert world.run("accounts").counts.rejected == 20
    _sample_everything(world, monkeypatch)
    statements.clear()
    counts = world.run("accounts").counts
    assert (counts.unchanged, counts.waiting) == (5, 20)
    assert (_checksums(statements), "nothing to do" in world.lines[-1]) == (1, True)


def test_exact_twins_are_found_without_a_checksum_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _accounts(world, 10)
    world.run("accounts")
    _sample_everything(world, monkeypatch)
    world.sql("UPDATE crm.accounts SET name = 'other' WHERE account_id IN ('A1', 'A2', 'A3', 'A4')")
    world.insert("crm.accounts", [("A7", "name 7", None, None)])
    counts = world.run("accounts").counts
    assert (counts.updated, counts.invalid_duplicate, counts.unchanged) == (4, 2, 5)
    assert world.run("accounts").counts.invalid_duplicate == 2


def test_a_view_is_not_sampled(world: World, monkeypatch: pytest.MonkeyPatch, statements: list[str]) -> None:
    _accounts(world, 10)
    world.sql("ALTER TABLE crm.accounts RENAME TO all_accounts")
    world.sql("CREATE VIEW crm.accounts AS SELECT * FROM crm.all_accounts")
    world.run("accounts")
    _sample_everything(world, monkeypatch)
    assert world.run("accounts").counts.unchanged == 10
    assert not any("TABLESAMPLE" in s for s in statements)
