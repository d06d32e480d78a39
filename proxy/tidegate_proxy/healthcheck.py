"""Asks the proxy on this machine whether it is alive: `python -m tidegate_proxy.healthcheck [PATH]`.

A container's health check, for images without a shell or curl. Exit status 0 if it is, 1 if not, 2 without HTTP. It
takes the port from TIDEGATE_HTTP_PORT, and imports as little as it can, for it runs every few seconds.
"""

from __future__ import annotations

import http.client
import os
import sys

PATH = "/healthz"
TIMEOUT = 4.0
"""Seconds, below the five that container health checks are given."""


def check(port: int, path: str) -> str:
    """What is wrong; nothing if the proxy answers 200. Parameters: `path`, /healthz or /readyz."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        return f"port {port} does not answer: {error}"
    finally:
        connection.close()
    return "" if answer.status == http.client.OK else f"{path} says {answer.status}"


def main() -> int:
    text = os.environ.get("TIDEGATE_HTTP_PORT", "")
    if not text.isdigit() or not 0 < int(text) < 65_536:
        sys.stderr.write(
            "TIDEGATE_HTTP_PORT must say where the proxy serves HTTP, for example TIDEGATE_HTTP_PORT=8080\n"
        )
        return 2
    path = sys.argv[1] if len(sys.argv) > 1 else PATH
    if wrong := check(int(text), path):
        sys.stderr.write(f"{wrong}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
