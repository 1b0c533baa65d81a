"""How the emulated org says no: to a whole call, or to one row of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class ApiError(Exception):
    """A refused call: an HTTP status and the JSON array Salesforce puts under it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body: list[Any] = [{"message": message, "errorCode": code}]


def not_found(message: str = "The requested resource does not exist") -> ApiError:
    return ApiError(404, "NOT_FOUND", message)


@dataclass(frozen=True, slots=True)
class RowError:
    """A refused row; `detail` is what REST says beyond code and message."""

    code: str
    message: str
    fields: tuple[str, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict, compare=False)

    def for_collections(self) -> dict[str, Any]:
        return {**self.detail, "statusCode": self.code, "message": self.message, "fields": list(self.fields)}

    def for_bulk(self) -> str:
        named = ", ".join(self.fields) + " " if self.fields else ""
        return f"{self.code}:{self.message}:{named}--"

    def for_rest(self) -> ApiError:
        """As the reply to a call for one record (REST API guide, "Status Codes and Error Responses")."""
        gone = self.code in ("ENTITY_IS_DELETED", "NOT_FOUND")
        refused = ApiError(404 if gone else 400, self.code, self.message)
        refused.body = [{**self.detail, "message": self.message, "errorCode": self.code, "fields": list(self.fields)}]
        return refused
