"""The row hash: one 63-bit number per row, by whatever the engine computes fastest."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class row_hash(FunctionElement[int]):  # noqa: N801  (named like the SQL function it is)
    """Hash of all its columns together; nulls and column borders count."""

    type = sa.BigInteger()
    inherit_cache = True
    name = "row_hash"


@compiles(row_hash, "duckdb")
def _duckdb(element: row_hash, compiler: SQLCompiler, **kw: Any) -> str:
    # hash() gives an unsigned 64-bit number; one bit is given up so that it fits a BIGINT everywhere.
    return f"CAST(hash({compiler.process(element.clauses, **kw)}) >> 1 AS BIGINT)"


@compiles(row_hash, "postgresql")
def _postgresql(element: row_hash, compiler: SQLCompiler, **kw: Any) -> str:
    # The extended hash functions place rows of hash partitions on disk, so they cannot change between versions.
    return f"hash_record_extended(ROW({compiler.process(element.clauses, **kw)}), 0)"
