"""Small GET requests to services beside the function: no proxies, no redirects, bounded in time and size."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import NamedTuple
from urllib.parse import urlsplit

from .errors import PasswordUnavailable

MAX_BODY = 256 * 1024
"""Bytes; a secret holds at most 64 KB."""


class Target(NamedTuple):
    """Where a request goes. `path` includes the query."""

    scheme: str
    host: str
    port: int
    path: str


def parse(url: str) -> Target:
    """Take a URL apart. Raises: PasswordUnavailable, which shows the URL, if it cannot be used."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable():
        raise PasswordUnavailable(f"{url!r} is not the URL of an HTTP service")
    path = parts.path or "/"
    return Target(parts.scheme, parts.hostname, port, f"{path}?{parts.query}" if parts.query else path)


def get(target: Target, headers: Mapping[str, str], timeout: float) -> tuple[int, bytes]:
    """Send one GET request.

    Parameters: `timeout`, seconds for each step of it.
    Returns: the HTTP status and the body.
    Raises: OSError for whatever keeps an answer from coming.
    """
    kind = HTTPSConnection if target.scheme == "https" else HTTPConnection
    connection = kind(target.host, target.port, timeout=timeout)
    try:
        connection.request("GET", target.path, headers=dict(headers))
        response = connection.getresponse()
        body = response.read(MAX_BODY + 1)
        if len(body) > MAX_BODY:
            raise OSError(f"the answer is longer than {MAX_BODY} bytes")
        return response.status, body
    except HTTPException as error:
        # Only its kind: the text of some holds what the other side sent.
        raise OSError(f"the answer is not HTTP ({type(error).__name__})") from None
    finally:
        connection.close()
