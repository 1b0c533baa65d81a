"""Signed messages for machines.

Every message is an HTTP POST of JSON with these headers::

    Seqsync-Id          the message's; it stays the same when the message is sent again
    Seqsync-Timestamp   when it was sent, in seconds since 1970
    Seqsync-Signature   v1=HEX: HMAC-SHA256, with the secret as its key, of TIMESTAMP.BODY

Who listens answers with any 2xx, computes the signature over the timestamp, a dot and the bytes of the body as they
came, compares it in constant time, and refuses what is older than a few minutes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

CONNECT_S, READ_S = 2.0, 2.0
"""How long one try waits for a connection, and for the answer. There are two tries."""

_PAUSE_S = 0.2


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """The value of the header ``Seqsync-Signature``."""
    made = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"v1={made.hexdigest()}"


def post(url: str, secret: str, event: Mapping[str, Any]) -> str | None:
    """Send one message, once more when it is worth it. Why it could not be delivered, without a word of the address;
    None when it was."""
    if not url.lower().startswith(("http://", "https://")):
        return "a webhook's url is http:// or https://."
    body = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    reason, again = _try(url, secret, str(event["id"]), body)
    if reason is not None and again:
        time.sleep(_PAUSE_S)
        reason, _ = _try(url, secret, str(event["id"]), body)
    return reason


def _try(url: str, secret: str, name: str, body: bytes) -> tuple[str | None, bool]:
    """Why it was not delivered, and whether another try may."""
    # Imported here: a code location that is loaded sends nothing.
    import requests

    timestamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "seqsync",
        "Seqsync-Id": name,
        "Seqsync-Timestamp": timestamp,
        "Seqsync-Signature": signature(secret, timestamp, body),
    }
    try:
        # A redirect may lead to somebody who was not meant; the body is not read, for it may never end.
        with requests.post(
            url, data=body, headers=headers, timeout=(CONNECT_S, READ_S), allow_redirects=False, stream=True
        ) as reply:
            status = reply.status_code
    except requests.exceptions.SSLError:
        return "its certificate is not accepted.", False
    except requests.exceptions.Timeout:
        return f"it does not answer within {READ_S:g} s.", True
    except requests.exceptions.ConnectionError:
        return "nobody listens there, or the connection broke off.", True
    except (requests.exceptions.RequestException, ValueError):
        return "the address cannot be used.", False
    if 200 <= status < 300:
        return None, False
    return f"it answered {status}.", status >= 500 or status == 429
