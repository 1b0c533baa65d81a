"""What a sync may ask of Salesforce besides its rows: `options` of a sync, as headers of calls and settings of jobs.

REST API developer guide, "Duplicate Rule Header" (API version 52.0 and later) and "Assignment Rule Header"; Bulk API
2.0 developer guide, "Create a Job" (`assignmentRuleId`, for Lead and Case). Bulk API 2.0 has no header for duplicate
rules, and knows a rule by its id only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from seqsync_dagster.sequence.options import OptionRemark
from seqsync_dagster.sequence.strict import Strict, nearest

#: The first API version whose REST calls take the duplicate rule header.
_DUPLICATES_SINCE = 52
#: Objects that have assignment rules, and those of them that have rules with an id.
_ASSIGNED = ("account", "case", "lead")
_BY_ID = ("case", "lead")
_WORDS = ("active", "none")
_RULE_PREFIX = "01Q"


def _assignment(value: str) -> str:
    if value in _WORDS or (value.startswith(_RULE_PREFIX) and len(value) in (15, 18) and value.isalnum()):
        return value
    raise ValueError(
        f"assignment_rule is {value!r}; it can be active, none, or the id of a rule, 01Q and 12 or 15 characters more."
        f"{nearest(value, _WORDS)}"
    )


class SyncOptions(Strict):
    """`options` of a sync that writes to Salesforce."""

    allow_duplicates: Annotated[
        bool,
        Field(
            strict=True,
            description="Save rows that a duplicate rule raises an alert about. A rule that blocks refuses them all "
            "the same. Bulk API 2.0 cannot be told: what it refuses so goes again by Collections, 200 rows a call.",
        ),
    ] = False
    assignment_rule: Annotated[
        str | None,
        AfterValidator(_assignment),
        Field(
            description="Who gets leads, cases (and accounts, by territory): `active` (the org's active rule; such a "
            "sync never uses Bulk API 2.0, which cannot be told), `none`, or the id of a rule for leads or cases. "
            "Without it Salesforce does as it does: the active rule by Collections, none by Bulk API 2.0."
        ),
    ] = None

    @property
    def rule(self) -> str | None:
        """The id of the assignment rule, when there is one by id."""
        return None if self.assignment_rule in (None, *_WORDS) else self.assignment_rule

    @property
    def collections_only(self) -> bool:
        """Whether what is asked for cannot be had of Bulk API 2.0."""
        return self.assignment_rule == "active"

    def headers(self) -> dict[str, str]:
        """Of a REST call that creates or updates."""
        found = {}
        if self.allow_duplicates:
            found["Sforce-Duplicate-Rule-Header"] = "allowSave=true"
        if self.assignment_rule is not None:
            spoken = {"active": "TRUE", "none": "FALSE"}
            found["Sforce-Auto-Assign"] = spoken.get(self.assignment_rule, self.assignment_rule)
        return found


def read_options(options: Mapping[str, Any]) -> SyncOptions:
    """The options that `remarks` has no problem with."""
    return SyncOptions.model_validate(dict(options))


def remarks(object: str, options: Mapping[str, Any], api_version: str) -> Iterator[OptionRemark]:
    """See `Destination.remarks`."""
    known = list(SyncOptions.model_fields)
    unknown = [name for name in options if name not in known]
    for name in unknown:
        hint = nearest(str(name), known)
        yield OptionRemark(str(name), f"Salesforce has no option {name!r}.{hint} Options: {', '.join(known)}.")
    try:
        asked = read_options({name: value for name, value in options.items() if name in known})
    except ValidationError as error:
        for found in error.errors(include_url=False):
            name, text = str(found["loc"][0]), found["msg"].removeprefix("Value error, ")
            yield OptionRemark(name, text if name in text else f"{name}: {text}.")
        return
    if asked.allow_duplicates and int(api_version.partition(".")[0]) < _DUPLICATES_SINCE:
        yield OptionRemark(
            "allow_duplicates",
            f"allow_duplicates needs api_version {_DUPLICATES_SINCE}.0 or later; the connection says {api_version}.",
        )
    able = _BY_ID if asked.rule is not None else _ASSIGNED
    if asked.assignment_rule is not None and object.lower() not in able:
        what = "assignment rules with an id" if asked.rule is not None else "assignment rules"
        yield OptionRemark(
            "assignment_rule",
            f"assignment_rule: {object} has no {what}; there are some for {' and '.join(a.title() for a in able)}.",
        )
    if asked.assignment_rule is None and object.lower() in _BY_ID:
        yield OptionRemark(
            "assignment_rule",
            f"without assignment_rule the org's active rule says who gets a {object} that Collections write, "
            "and none does where the rows are so many that Bulk API 2.0 writes them",
            problem=False,
        )
