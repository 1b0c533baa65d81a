"""Settings that may live in the environment, read when a run needs them and never at load."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from seqsync_dagster.errors import ConfigurationError


class FromEnvironment(BaseModel):
    """A value that is read from an environment variable when a run starts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env: Annotated[str, Field(description="Name of the environment variable.", min_length=1)]
    default: Annotated[str | None, Field(description="Used when the variable is not set. Never put a secret here.")] = (
        None
    )


#: YAML: a plain text, or ``{env: NAME}``, or ``{env: NAME, default: text}``.
Setting = str | FromEnvironment


def read_setting(setting: Setting, what: str) -> str:
    """The setting's value now.

    `what` names the setting in the error, e.g. ``salesforce: client_secret``.
    Raises `ConfigurationError` when the variable is not set and has no default.
    """
    if isinstance(setting, str):
        return setting
    value = os.environ.get(setting.env) or setting.default
    if value is None:
        raise ConfigurationError(
            f"{what} is read from the environment variable {setting.env}, which is not set. "
            f"Set it where Dagster runs, e.g. export {setting.env}=..."
        )
    return value
