"""The OAuth 2.0 JWT bearer flow: what Salesforce checks of an assertion, and what it says when it does not like it.

help.salesforce.com, "OAuth 2.0 JWT Bearer Flow for Server-to-Server Integration".
"""

from __future__ import annotations

import time
from collections.abc import Collection

import jwt
from cryptography.x509 import load_pem_x509_certificate
from jwt.algorithms import RSAAlgorithm

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"

#: Seconds ahead that an assertion may expire at most.
_LONGEST_S = 180
_SHARED_HOSTS = ("https://login.salesforce.com", "https://test.salesforce.com")


def refusal(
    assertion: str, *, client_id: str, certificate: str | None, usernames: Collection[str], hosts: Collection[str]
) -> tuple[str, str] | None:
    """Error and description for an `assertion` that earns no token; None when it does.

    `certificate` is the app's, as PEM (or its public key), None when it has none;
    `usernames` are those who may use the app, `hosts` the URLs that the org goes by.
    """
    invalid = ("invalid_grant", "invalid assertion")
    try:
        claims = jwt.decode(assertion, options={"verify_signature": False})
    except jwt.PyJWTError:
        return invalid
    if claims.get("iss") != client_id:
        return ("invalid_client_id", "client identifier invalid")
    audience = claims.get("aud")
    if not isinstance(audience, str) or audience.rstrip("/") not in {*hosts, *_SHARED_HOSTS}:
        return ("invalid_grant", "audience is invalid")
    try:
        left = float(claims.get("exp") or 0) - time.time()
    except (TypeError, ValueError):
        return invalid
    if not 0 < left <= _LONGEST_S:
        return ("invalid_grant", "expired authorization code")
    if certificate is None or not _signed_by(assertion, certificate):
        return invalid
    if claims.get("sub") not in usernames:
        return ("invalid_grant", "user hasn't approved this consumer")
    return None


def check_certificate(text: str) -> str:
    """`text` when it is a certificate or an RSA public key in PEM, else `ValueError`."""
    try:
        _public_key(text)
    except jwt.PyJWTError as error:
        raise ValueError(str(error)) from None
    return text


def _public_key(text: str) -> str | bytes:
    if "BEGIN CERTIFICATE" not in text:
        RSAAlgorithm(RSAAlgorithm.SHA256).prepare_key(text)
        return text
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = load_pem_x509_certificate(text.encode()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _signed_by(assertion: str, certificate: str) -> bool:
    # Everything but the signature was looked at in the order that Salesforce does.
    try:
        jwt.decode(
            assertion,
            _public_key(certificate),
            algorithms=["RS256"],
            options={"verify_aud": False, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
        )
    except (jwt.PyJWTError, ValueError):
        return False
    return True
