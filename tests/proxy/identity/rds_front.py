"""RDS as far as IAM goes: asks for a token, verifies its signature as AWS does, then passes PostgreSQL's session on."""

from __future__ import annotations

import asyncio
import ssl
import struct
import time
from urllib.parse import parse_qs

from tests.proxy.lifecycle.tls_relay import TLSRelay

from tidegate_load.sts.signature import Key, Refused, verify
from tidegate_proxy.errors import ProxyError
from tidegate_proxy.protocol import encode


class RdsFront(TLSRelay):
    """In front of a PostgreSQL that trusts it.

    - `keys`: the access keys that IAM knows, by their id. `allowed`: who has `rds-db:connect`, as database users.
    - `tokens`: every token that came. `refusals`: why tokens were refused.
    """

    def __init__(self, target_port: int, context: ssl.SSLContext) -> None:
        super().__init__(target_port, context)
        self.keys: dict[str, Key] = {}
        self.allowed: set[str] = set()
        self.tokens: list[str] = []
        self.refusals: list[str] = []

    async def admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """See TLSRelay."""
        first = await reader.readexactly(4)
        first += await reader.readexactly(struct.unpack("!i", first)[0] - 4)
        if first[4:8] == encode.cancel_request(0, b"")[4:8]:
            return first
        words = first[8:].rstrip(b"\0").split(b"\0")
        user = dict(zip(words[::2], words[1::2], strict=True))[b"user"].decode()
        writer.write(b"R" + struct.pack("!ii", 8, 3))
        kind, length = struct.unpack("!ci", await reader.readexactly(5))
        assert kind == b"p"
        token = (await reader.readexactly(length - 4)).rstrip(b"\0").decode()
        self.tokens.append(token)
        refusal = self._judge(token, user)
        if refusal is None:
            return first
        self.refusals.append(refusal)
        # RDS's own words, for whatever was wrong.
        error = ProxyError(f'PAM authentication failed for user "{user}"', sqlstate="28000")
        writer.write(encode.error_response(error, fatal=True))
        await writer.drain()
        raise EOFError

    def _judge(self, token: str, user: str) -> str | None:
        host, _, query = token.partition("/?")
        if host != f"127.0.0.1:{self.port}":
            return "another endpoint"
        named = parse_qs(query)
        if named.get("Action") != ["connect"] or named.get("DBUser") != [user]:
            return "another user or action"
        if not named.get("X-Amz-Credential", [""])[0].endswith("/eu-west-1/rds-db/aws4_request"):
            return "another service or region"
        try:
            verify(query, {"host": host}, self.keys, time.time())
        except Refused as error:
            return error.code
        return None if user in self.allowed else "rds-db:connect is not allowed"
