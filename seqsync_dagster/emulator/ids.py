"""Record ids as Salesforce writes them: 15 case-sensitive characters, and 18 with a checksum."""

from __future__ import annotations

import secrets
from functools import lru_cache

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DIGIT = {c: i for i, c in enumerate(_ALPHABET)}
_CHECKSUM = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
_GROUP = 62**5

ELSEWHERE = -1  # the number of a well-formed id that another org gave out


class MalformedIdError(ValueError):
    """Not an id at all: wrong length, alphabet or checksum."""


class WrongTypeError(ValueError):
    """An id, but of another object than the one asked for."""


def _check(group: str) -> str:
    return _CHECKSUM[sum(1 << i for i, c in enumerate(group) if "A" <= c <= "Z")]


def checksum(short: str) -> str:
    """The 3 characters that make a 15-character id one of 18."""
    return _check(short[:5]) + _check(short[5:10]) + _check(short[10:15])


@lru_cache(maxsize=62**2)
def _pair(number: int) -> str:
    return _ALPHABET[number // 62] + _ALPHABET[number % 62]


def _group(number: int) -> tuple[str, str]:
    number, low = divmod(number, 62**2)
    first, high = divmod(number, 62**2)
    text = _ALPHABET[first] + _pair(high) + _pair(low)
    return text, _check(text)


def random_org_id() -> str:
    """An 18-character organization id for a new store."""
    short = "00D" + "".join(secrets.choice(_ALPHABET) for _ in range(12))
    return short + checksum(short)


class IdSpace:
    """Ids of one org: `prefix + two characters of the org + the record's number in base 62`.

    The two characters make ids of different orgs differ; the number makes an index on the id needless.
    """

    def __init__(self, org_id: str) -> None:
        if len(org_id) not in (15, 18) or not org_id.startswith("00D") or not set(org_id) <= _DIGIT.keys():
            raise ValueError(f"not an organization id: {org_id!r} (15 or 18 characters, starting with 00D)")
        self.pod = org_id[3:5]
        self.org_number = self.decode(org_id[:15], "00D")
        self._heads: dict[tuple[str, int], tuple[str, str]] = {}

    def encode(self, prefix: str, number: int) -> str:
        """The 18-character id of a record."""
        high, low = divmod(number, _GROUP)
        head = self._heads.get((prefix, high))
        if head is None:
            first, (text, check) = prefix + self.pod, _group(high)
            head = self._heads[prefix, high] = (first + text, _check(first) + check)
        text, check = _group(low)
        return head[0] + text + head[1] + check

    def decode(self, text: str, prefix: str) -> int:
        """The number of the record an id names; ELSEWHERE if no record of this org can have it."""
        if len(text) not in (15, 18) or not text.isascii() or not text.isalnum():
            raise MalformedIdError(text)
        if len(text) == 18 and checksum(text) != text[15:]:
            raise MalformedIdError(text)
        if text[:3] != prefix:
            raise WrongTypeError(text)
        if text[3:5] != self.pod:
            return ELSEWHERE
        number = 0
        for c in text[5:15]:
            number = number * 62 + _DIGIT[c]
        return number
