"""Who may ask a served policy: whoever has the key, or this machine alone."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from hashlib import sha256

KEY_VARIABLE = "VLMGYM_API_KEY"


def required_key(key_sha256: str | None, environment: Mapping[str, str], host: str | None) -> str | None:
    """The SHA-256 of the key that clients have to send: as given, else of VLMGYM_API_KEY; None where there is no key.

    host: where the service listens; None nowhere.
    Errors: ValueError where there is no key and others than this machine can ask.
    """
    if key_sha256 is not None:
        return key_sha256
    if key := environment.get(KEY_VARIABLE):
        return sha256(key.encode()).hexdigest()
    if host is not None and not is_loopback(host):
        raise ValueError(
            f"an API key is required to listen at {host}, where others can ask: set {KEY_VARIABLE}, or use 127.0.0.1"
        )
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
