"""Salesforce's words for what is wrong, and what each asks for.

Codes are those of the SOAP API's StatusCode and the REST API's errorCode;
Bulk API 2.0 writes them into the sf__Error column as ``CODE:message:fields --``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from seqsync_dagster.destinations.protocol import ErrorClass, Operation

#: A value that the chosen API cannot carry; decided here, the org never saw the row.
UNSENDABLE = "SEQSYNC_UNSENDABLE_VALUE"
#: A call that could not be made, or was refused as a whole.
NOT_WRITTEN = "SEQSYNC_NOT_WRITTEN"
#: The reply to an insert was lost.
REPLY_LOST = "SEQSYNC_REPLY_LOST"

#: A duplicate rule of the org raised an alert, or blocks.
DUPLICATES_DETECTED = "DUPLICATES_DETECTED"

#: HTTP statuses that Salesforce documents as passing, and what gateways in front of it answer.
TRANSIENT_STATUSES = frozenset({408, 420, 429, 500, 502, 503, 504})
#: Of these, the ones that say by themselves that the request was not processed.
UNPROCESSED_STATUSES = frozenset({420, 429, 503})
#: Job-level names (errorMessage reads ``Name : text``) for which the same job may pass another time.
TRANSIENT_JOB_ERRORS = ("TooManyLockFailure", "ExceededQuota", "Timeout", "Unknown")

_CLASSES: dict[str, ErrorClass] = {
    "UNABLE_TO_LOCK_ROW": "retry_now",
    "TOO_MANY_LOCK_FAILURE": "retry_now",
    "SERVER_UNAVAILABLE": "retry_now",
    "UNKNOWN_EXCEPTION": "retry_now",
    "QUERY_TIMEOUT": "retry_now",
    "REQUEST_RUNNING_TOO_LONG": "retry_now",
    "INVALID_SESSION_ID": "retry_now",
    "REQUEST_LIMIT_EXCEEDED": "retry_later",
    "LIMIT_EXCEEDED": "retry_later",
    "STORAGE_LIMIT_EXCEEDED": "retry_later",
    "INVALID_FIELD_FOR_INSERT_UPDATE": "fix_mapping",
    "INVALID_TYPE": "fix_mapping",
    "INVALID_TYPE_ON_FIELD_IN_RECORD": "fix_mapping",
    "METHOD_NOT_ALLOWED": "fix_mapping",
}

#: Codes that an update earns when its record is not there; a bad lookup value earns them too.
MAYBE_GONE = frozenset({"ENTITY_IS_DELETED", "INVALID_CROSS_REFERENCE_KEY", "NOT_FOUND"})


#: What a code means where Salesforce's own words leave a reader to guess.
_IN_PLAIN_WORDS = {
    "INACTIVE_OWNER_OR_USER": "the user is inactive and can own nothing: activate the user, or name another one",
}


@dataclass(frozen=True)
class RowError:
    """One row's refusal in the org's own words."""

    code: str
    message: str
    fields: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The org's message, with the fields it is about where it does not name them itself, and what it means."""
        unnamed = [f for f in self.fields if f not in self.message]
        said = f"{self.message} [{', '.join(unnamed)}]" if unnamed else self.message
        plain = _IN_PLAIN_WORDS.get(self.code)
        return f"{said} ({plain})" if plain else said


def class_of(error: RowError, operation: Operation) -> ErrorClass:
    """What a row's refusal asks for; a code this table does not know is the row's own fault."""
    # A trigger or flow that met a lock reports CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY with the lock inside.
    if "UNABLE_TO_LOCK_ROW" in error.message:
        return "retry_now"
    if error.code in MAYBE_GONE:
        return "gone" if operation in ("update", "delete") else "fix_row"
    if error.code == "INVALID_FIELD":
        # Bulk uses the same code for values it cannot parse and for parents it cannot find.
        return "fix_mapping" if error.message.startswith("No such column") else "fix_row"
    return _CLASSES.get(error.code, "fix_row")


def parse_sf_error(text: str) -> RowError:
    """Read a Bulk API 2.0 sf__Error cell: ``CODE:message:field1, field2 --`` or ``CODE:message:--``.

    Messages contain colons, so the code ends at the first and the fields begin at the last.
    """
    code, colon, rest = text.strip().partition(":")
    if not colon or not code or " " in code:
        return RowError("UNKNOWN", text.strip())
    if not rest.endswith("--"):
        return RowError(code, rest)
    message, _, fields = rest.removesuffix("--").rpartition(":")
    names = tuple(name.strip() for name in fields.split(",") if name.strip())
    return RowError(code, message, names)


def row_error(errors: object) -> RowError:
    """The first entry of a Collections result's ``errors``, the others appended to its message."""
    entries = [entry for entry in errors if isinstance(entry, dict)] if isinstance(errors, list) else []
    if not entries:
        return RowError("UNKNOWN", "the org refused the row without a reason")
    first = entries[0]
    message = str(first.get("message") or "")
    for entry in entries[1:]:
        message += f"; {entry.get('statusCode')}: {entry.get('message')}"
    fields = first.get("fields")
    names = tuple(str(name) for name in fields) if isinstance(fields, list) else ()
    return RowError(str(first.get("statusCode") or first.get("errorCode") or "UNKNOWN"), message, names)


def reply_error(body: object) -> tuple[str, str] | None:
    """Code and message of a failed call's body, or None when the org did not write it.

    REST errors are a list of ``{errorCode, message}``, OAuth errors an object
    ``{error, error_description}``; anything else comes from a proxy on the way.
    """
    if isinstance(body, bytes):
        try:
            body = json.loads(body)
        except ValueError:
            return None
    if isinstance(body, list) and body and isinstance(body[0], dict) and "errorCode" in body[0]:
        return str(body[0]["errorCode"]), str(body[0].get("message") or "")
    if isinstance(body, dict) and "error" in body:
        return str(body["error"]), str(body.get("error_description") or "")
    return None
