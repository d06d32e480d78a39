"""SCRAM verifiers as PostgreSQL stores them."""

from __future__ import annotations

import base64
import binascii
import re

from pydantic import SecretStr

# What the SCRAM library accepts; PostgreSQL's own defaults are 4096 iterations and 16 bytes of salt.
MIN_ITERATIONS, MAX_ITERATIONS = 4096, 10_000_000
MIN_SALT = 12
_FORM = re.compile(r"SCRAM-SHA-256\$([0-9]{1,8}):([^$:]+)\$([^$:]+):([^$:]+)")


def parse_verifier(verifier: SecretStr) -> tuple[bytes, bytes, bytes, int]:
    """Take a verifier apart.

    Parameters: `verifier`, `SCRAM-SHA-256$iterations:salt$stored:server`, the last three in base64.
    Returns: salt, stored key, server key, iterations: the order in which `scramp` wants them.
    Raises: ValueError that names the faulty part, never its value.
    """
    match = _FORM.fullmatch(verifier.get_secret_value())
    if match is None:
        raise ValueError("must have the form SCRAM-SHA-256$iterations:salt$stored:server, as in pg_authid.rolpassword")
    iterations = int(match[1])
    if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise ValueError(f"must have from {MIN_ITERATIONS} to {MAX_ITERATIONS} iterations")
    try:
        salt, stored_key, server_key = (base64.b64decode(part, validate=True) for part in match.groups()[1:])
    except (binascii.Error, ValueError):
        raise ValueError("must have salt and keys in base64") from None
    if len(salt) < MIN_SALT:
        raise ValueError(f"must have a salt of at least {MIN_SALT} bytes")
    if len(stored_key) != 32 or len(server_key) != 32:
        raise ValueError("must have two keys of 32 bytes each")
    return salt, stored_key, server_key, iterations


def check_verifier(verifier: SecretStr) -> SecretStr:
    """Pass a well-formed verifier on; raises ValueError like `parse_verifier`."""
    parse_verifier(verifier)
    return verifier
