"""How the emulated org says no: to a whole call, or to one row of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class ApiError(Exception):
    """A refused call: an HTTP status and the JSON array Salesforce puts under it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body: list[dict[str, Any]] = [{"message": message, "errorCode": code}]


def not_found(message: str = "The requested resource does not exist") -> ApiError:
    return ApiError(404, "NOT_FOUND", message)


@dataclass(frozen=True, slots=True)
class RowError:
    """A refused row."""

    code: str
    message: str
    fields: tuple[str, ...] = ()

    def for_collections(self) -> dict[str, Any]:
        return {"statusCode": self.code, "message": self.message, "fields": list(self.fields)}

    def for_bulk(self) -> str:
        named = ", ".join(self.fields) + " " if self.fields else ""
        return f"{self.code}:{self.message}:{named}--"
