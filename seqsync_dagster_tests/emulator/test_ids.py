from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqsync_dagster.emulator.ids import ELSEWHERE, IdSpace, MalformedIdError, WrongTypeError, checksum

SPACE = IdSpace("00D5g000000QzXvEAK"[:15])


def test_checksum_is_the_published_one() -> None:
    assert "0018c00002DJIpJ" + checksum("0018c00002DJIpJ") == "0018c00002DJIpJAAX"


@given(st.integers(min_value=0, max_value=62**10 - 1))
def test_numbers_come_back_from_both_lengths(number: int) -> None:
    text = SPACE.encode("a0W", number)
    assert text[15:] == checksum(text[:15])
    assert SPACE.decode(text, "a0W") == SPACE.decode(text[:15], "a0W") == number


@pytest.mark.parametrize("text", ["", "001", "0015g0000000001AA", "0015g000000000!", "0015g0000000001ZZZ"])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(MalformedIdError):
        SPACE.decode(text, "001")


def test_ids_of_others() -> None:
    with pytest.raises(WrongTypeError):
        SPACE.decode(SPACE.encode("003", 1), "001")
    assert SPACE.decode(IdSpace("00DZZ0000000001").encode("001", 1), "001") == ELSEWHERE
