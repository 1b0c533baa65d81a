"""What a call is for, as a person would say it."""

from __future__ import annotations

from seqsync_dagster.destinations.salesforce.transport import kind_of

_BULK = {
    "bulk create": "opening a Bulk job",
    "bulk upload": "uploading to a Bulk job",
    "bulk state": "closing a Bulk job",
    "bulk poll": "waiting for a Bulk job",
    "bulk results": "reading the results of a Bulk job",
}


def step_of(method: str, path: str) -> str:
    """The step that ``METHOD path`` below ``/services/data/vXX.X/`` belongs to, the call itself in brackets."""
    kind, _ = kind_of(method, f"/{path}")
    words = _BULK.get(kind, "a call")
    if kind == "collections":
        words = "deleting records" if method == "DELETE" else "sending rows"
    elif kind == "describe":
        words = "reading what objects and fields there are"
    elif path == "limits":
        words = "asking how many API calls are left"
    return f"{words} ({method} {path})"
