"""What is kept of syncs that failed, on SQLite and on PostgreSQL."""

from __future__ import annotations

from seqsync_dagster.journal import Journal


def test_a_failure_is_known_since_its_first_time_until_it_is_mended(journal_url: str) -> None:
    with Journal(journal_url) as journal:
        failures = journal.failures_of("crm")
        first = failures.note("accounts", "fatal", "run 1", "no answer")
        again = failures.note("accounts", "fatal", "run 2", "no \x00 login")
        assert (again.since, again.holder) == (first.since, "run 1")
        assert again.reason == "no \ufffd login", "PostgreSQL keeps no NUL"
        failures.note("accounts", "rejected", "run 2", "too many", refused=3, judged=4, every=False)
        journal.failures_of("other").note("accounts", "fatal", "run 9", "not ours")
    # Another process, later.
    with Journal(journal_url) as journal:
        failures = journal.failures_of("crm")
        assert [(f.sync, f.kind, f.refused, f.judged) for f in failures.of(["contacts", "accounts"])] == [
            ("accounts", "fatal", 0, 0),
            ("accounts", "rejected", 3, 4),
        ]
        assert failures.forget("accounts", "fatal")
        assert not failures.forget("accounts", "fatal")
        assert [f.kind for f in failures.of(["accounts"])] == ["rejected"]
        assert failures.of([]) == []
        assert failures.note("accounts", "fatal", "run 3", "no answer").since > first.since
