"""A connection to a Salesforce org as a component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg
from pydantic import BaseModel

from seqsync_dagster.components import environments
from seqsync_dagster.components.destination_component import Connection
from seqsync_dagster.components.yaml_source import Location, YamlSource, as_written
from seqsync_dagster.destinations.salesforce import sync_options
from seqsync_dagster.destinations.salesforce.settings import SalesforceSettings
from seqsync_dagster.sequence.options import OptionRemark

if TYPE_CHECKING:
    from seqsync_dagster.destinations.protocol import Destination


def _is_tag(location: Location) -> bool:
    # pydantic puts the arm of a union into an error's location.
    return location[:2] == ("api_budget", "reserve") and len(location) == 3


@dataclass
class SalesforceConnection(Connection):
    """A Salesforce org that sequences write to, declared once.

    Sequences name it by its folder in `defs/`. There is exactly one way to log in: the OAuth client
    credentials flow (`client_id`, `client_secret`), the OAuth JWT bearer flow (`client_id`, `username`,
    `private_key` or `private_key_file`), SOAP (`username`, `password`, `security_token`; retired by
    Salesforce with Summer '27), or a `session_id`. Secrets are read from the environment when a run
    connects, never at load.

    .. code-block:: yaml

        # defs/salesforce/defs.yaml
        type: seqsync_dagster.SalesforceConnection
        attributes:
          url: {env: SALESFORCE_URL}                    # https://acme.my.salesforce.com
          client_id: {env: SALESFORCE_CLIENT_ID}
          client_secret: {env: SALESFORCE_CLIENT_SECRET}

    With `environments: {dev: {...}, prod: {...}}` beside them, each environment says what differs there;
    `SEQSYNC_ENVIRONMENT` names the one this is. Runs of any but `prod` are refused by a production org.
    """

    kind: ClassVar[str] = "salesforce"

    name: str
    settings: SalesforceSettings
    environment: str | None = None
    """That this is; None where nobody has said."""

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The attributes' schema, for editors."""
        return as_written(SalesforceSettings, environments.for_editors)

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> SalesforceConnection:
        """From YAML. Raises `ConfigurationError` with file and line of every mistake."""
        source = YamlSource.of(attributes, context, quote=False)
        settings, environment = environments.validate(source, SalesforceSettings, is_tag=_is_tag)
        return cls(name=context.path.name, settings=settings, environment=environment)

    def remarks(self, object: str, options: Mapping[str, Any]) -> Sequence[OptionRemark]:
        """What is wrong, or worth knowing, about a sync's options."""
        return list(sync_options.remarks(object, options, self.settings.api_version))

    def connect(self) -> Destination:
        """The org, logged in when first used."""
        from seqsync_dagster.destinations.salesforce.destination import SalesforceDestination

        environment = self.environment
        guarded = environment is not None and not environments.is_production(environment)
        return SalesforceDestination(self.settings, self.name, environment if guarded else None)

    def connect_to_look(self) -> Destination:
        """The org, asked once and for a few seconds only."""
        hurried = self.settings.model_copy(update={"timeout_s": 10.0, "retry_wait_s": 0.0})
        return replace(self, settings=hurried).connect()
