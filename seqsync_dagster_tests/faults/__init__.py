import pytest

# Its assertions are shown like a test's own.
pytest.register_assert_rewrite("seqsync_dagster_tests.faults.company")
