"""Models that answer a misspelt name with the nearest right one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


def nearest(name: str, candidates: Iterable[str]) -> str:
    """`` Did you mean 'x'?``, or nothing when no candidate is near. Upper and lower case count as near."""
    by_lower = {str(c).lower(): str(c) for c in candidates}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f" Did you mean {by_lower[found[0]]!r}?" if found else ""


@cache
def _known(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(f.alias or name for name, f in model.model_fields.items()) | frozenset(model.model_fields)


class Strict(BaseModel):
    """A YAML mapping: frozen, and an unknown name is an error that proposes the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _unknown_names(cls, data: Any) -> Any:
        if isinstance(data, dict):
            known = _known(cls)
            for name in data:
                if name is True and "on" in str(known):
                    name = "on"
                if name not in known:
                    shown = sorted(f.alias or name for name, f in cls.model_fields.items())
                    raise ValueError(
                        f"unknown name {str(name)!r}.{nearest(str(name), shown)} Known here: {', '.join(shown)}."
                    )
        return data
