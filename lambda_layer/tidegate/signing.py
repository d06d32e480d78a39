"""AWS Signature Version 4 for presigned GET requests, with the standard library alone."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from urllib.parse import quote

from .credentials import Credentials

_EMPTY_BODY = hashlib.sha256(b"").hexdigest()


def presign(
    *,
    host: str,
    parameters: Mapping[str, str],
    headers: Mapping[str, str],
    service: str,
    region: str,
    credentials: Credentials,
    expires: int,
    now: float,
) -> str:
    """The URL of a GET request for `/` on `host`, signed.

    Parameters
    - `host`: HOST or HOST:PORT; the port must not be HTTPS's own, 443.
    - `parameters`: of the query, before the signature's own.
    - `headers`: what else is signed, by lower-case name; whoever sends the request must send them, too.
    - `service`, `region`: what the signature is good for.
    - `expires`: seconds that it is good for.
    - `now`: seconds since the epoch.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    signed = {"host": host.lower(), **headers}
    names = ";".join(sorted(signed))
    query = {
        **parameters,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{credentials.access_key}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(expires),
        "X-Amz-SignedHeaders": names,
    }
    if credentials.token:
        query["X-Amz-Security-Token"] = credentials.token
    encoded = [(_encode(name), _encode(value)) for name, value in query.items()]
    request = "\n".join(
        [
            "GET",
            "/",
            "&".join(f"{name}={value}" for name, value in sorted(encoded)),
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            _EMPTY_BODY,
        ]
    )
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (*scope.split("/"), f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"):
        key = hmac.digest(key, part.encode(), "sha256")
    encoded.append(("X-Amz-Signature", key.hex()))
    return f"https://{host}/?" + "&".join(f"{name}={value}" for name, value in encoded)


def _encode(text: str) -> str:
    return quote(text, safe="-._~")
