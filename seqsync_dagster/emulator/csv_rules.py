"""The grammar of a Bulk 2.0 CSV, which is stricter than that of most readers.

Bulk API 2.0 guide, "Prepare CSV Files", "Valid CSV Record Rows"; the words are those of real jobs.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from seqsync_dagster.emulator.schema import Column, PolymorphismError, SObject

_BAD_QUOTE = "InvalidBatch : Failed to parse CSV. Found unescaped quote. A value with quote should be within a quote"
_HEADER_CHARS = 32_000
_BOM = "\ufeff"


class JobFailedError(Exception):
    """The job as a whole ends here; the message is its errorMessage."""


def check_line_endings(path: Path, setting: str) -> None:
    """Every line ends as the job says, and no value has a line ending of the other kind in it."""
    with path.open("rb") as raw:
        if setting == "CRLF":
            wrong = any(line.endswith(b"\n") and not line.endswith(b"\r\n") for line in raw)
        else:
            wrong = any(b"\r" in block for block in iter(lambda: raw.read(1 << 20), b""))
    if wrong:
        raise JobFailedError(
            f"ClientInputError : LineEnding is invalid on user data. Current LineEnding setting is {setting}"
        )


def columns(obj: SObject, header: str, delimiter: str, needed: str | None) -> list[Column]:
    """What the cells of a header line set."""
    if header.startswith(_BOM + '"'):
        # The mark begins an unquoted value, and a quote follows.
        raise JobFailedError(_BAD_QUOTE)
    if len(header) > _HEADER_CHARS:
        raise JobFailedError("InvalidBatch : Failed to parse CSV. The header row is longer than 32,000 characters")
    (names,) = rows(iter([header]), delimiter)
    found: list[Column] = []
    for name in names:
        column = _column(obj, name)
        if column in found:
            raise JobFailedError(f"InvalidBatch : Duplicate field name : {name}")
        found.append(column)
    if needed and not any(c.via is None and c.field.name == needed for c in found):
        raise JobFailedError(f"InvalidBatch : Field name not found : {needed}")
    return found


def _column(obj: SObject, name: str) -> Column:
    try:
        column = obj.column(name)
    except PolymorphismError as polymorphism:
        relationship = str(polymorphism)
        if relationship:
            message = f"type is not needed for non polymorphic foreign key references: {relationship}"
        else:
            message = f"Unable to find relationship: {name.partition(':')[2].partition('.')[0]}"
        raise JobFailedError(f"InvalidBatch : {message}") from None
    if column is None:
        raise JobFailedError(f"InvalidBatch : Field name not found : {name}")
    return column


def rows(body: TextIO | Iterator[str], delimiter: str, width: int | None = None) -> Iterator[list[str]]:
    """The rows that are not empty, each of `width` cells; JobFailedError at the first that breaks the grammar."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in body:
            taken.append(line)
            yield line

    mark = re.escape(delimiter)
    cell = rf'(?:"(?:[^"]|"")*"|[^"{mark}\r\n]*)'
    grammar = re.compile(rf"{cell}(?:{mark}{cell})*\r?\n?")
    try:
        for cells in csv.reader(lines(), delimiter=delimiter, strict=True):
            # csv takes a quote inside an unquoted value; only rows with a quote in a value can have one.
            if '"' in "".join(cells) and not grammar.fullmatch("".join(taken)):
                raise JobFailedError(_BAD_QUOTE)
            taken.clear()
            if not cells:
                continue
            if width is not None and len(cells) != width:
                raise JobFailedError(
                    "InvalidBatch : Failed to parse CSV. A row has another number of columns than the header"
                )
            yield cells
    except csv.Error as error:
        large = "field larger" in str(error)
        raise JobFailedError(f"InvalidBatch : Failed to parse CSV. {error}" if large else _BAD_QUOTE) from None
    except UnicodeDecodeError as error:
        raise JobFailedError(f"InvalidBatch : Failed to parse CSV. {error}") from None
