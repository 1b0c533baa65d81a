"""What a destination says about the `options` of a sync, which nobody else understands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OptionRemark:
    """One thing that is wrong with an option, or worth knowing."""

    name: str
    """The option it is about, whether it is given or not."""
    text: str
    problem: bool = True
    """Nothing can be sent like this."""
