"""TLS sessions that are resumed."""

from __future__ import annotations

import socket
import ssl

from tests.support.proxy import ProxyProcess

from tidegate_proxy.protocol import encode


def resumed_startup(proxy: ProxyProcess, context: ssl.SSLContext) -> list[bool]:
    """Connect twice, up to where the proxy asks for the password. Returns: whether each resumed a session."""
    session: ssl.SSLSession | None = None
    resumed = []
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as raw:
            raw.sendall(encode.ssl_request())
            assert raw.recv(1) == b"S"
            with context.wrap_socket(raw, session=session) as tls:
                tls.sendall(encode.startup_message({"user": proxy.database.user, "database": proxy.database.name}))
                assert tls.recv(1) == b"R", "asked for the password"
                # By now the tickets of TLS 1.3 have come, too.
                session = tls.session
                resumed.append(bool(tls.session_reused))
    return resumed
