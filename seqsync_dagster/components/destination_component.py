"""What every connection to a destination has in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg

from seqsync_dagster.sequence.options import OptionRemark

if TYPE_CHECKING:
    from seqsync_dagster.destinations.protocol import Destination


class Connection(dg.Component):
    """A component that connects to a destination when a run asks it to."""

    kind: ClassVar[str]
    """Shown with the assets that write there."""

    @abstractmethod
    def connect(self) -> Destination:
        """A destination ready to be used. Reads credentials from the environment now."""

    def connect_to_look(self) -> Destination:
        """The same for a person who waits: it gives up soon when nobody answers."""
        return self.connect()

    def remarks(self, object: str, options: Mapping[str, Any]) -> Sequence[OptionRemark]:
        """What is wrong, or worth knowing, about the `options` of a sync that writes to this object."""
        return [OptionRemark(name, f"{name}: this destination has no options.") for name in options]

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Nothing of its own: sequences use it."""
        return dg.Definitions()
