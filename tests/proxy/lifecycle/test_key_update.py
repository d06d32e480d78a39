"""A client of TLS 1.3 that changes its key: no library lets a test ask for that, so the records are made here."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.proxy.lifecycle.conftest import Authority
from tests.proxy.lifecycle.test_tls_records import RecordClient
from tests.support.proxy import ProxyProcess, StartProxy

from tidegate_proxy.protocol import encode

HANDSHAKE, DATA = 22, 23
KEY_UPDATE_REQUESTED = b"\x18\0\0\1\1"


def expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label of RFC 8446, section 7.1, without a context, up to the hash's length."""
    info = size.to_bytes(2, "big") + bytes([6 + len(label)]) + b"tls13 " + label + b"\0"
    return hmac.digest(secret, info + b"\1", hashlib.sha384)[:size]


class KeyChangingClient(RecordClient):
    """Encrypts what it sends with the secret that OpenSSL has logged, and reads through OpenSSL."""

    def __init__(self, proxy: ProxyProcess, folder: Path) -> None:
        self.log = folder / "secrets"
        super().__init__(proxy, keys=self.log)
        self.handshake()
        self.flush()
        assert self.tls.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)
        lines = [line.split() for line in self.log.read_text().splitlines()]
        self.secret = next(bytes.fromhex(words[2]) for words in lines if words[0] == "CLIENT_TRAFFIC_SECRET_0")
        self.sent = 0

    def seal(self, kind: int, content: bytes) -> bytes:
        """The next record (RFC 8446, sections 5.2 and 5.3)."""
        header = b"\x17\3\3" + (len(content) + 17).to_bytes(2, "big")
        iv = int.from_bytes(expand(self.secret, b"iv", 12), "big") ^ self.sent
        self.sent += 1
        key = AESGCM(expand(self.secret, b"key", 32))
        return header + key.encrypt(iv.to_bytes(12, "big"), content + bytes([kind]), header)

    def update(self) -> bytes:
        """A KeyUpdate that wants one in return; later records have the new key."""
        record = self.seal(HANDSHAKE, KEY_UPDATE_REQUESTED)
        self.secret, self.sent = expand(self.secret, b"traffic upd", 48), 0
        return record

    def record(self, data: bytes) -> bytes:
        return self.seal(DATA, data)


def test_a_client_may_change_its_key_at_any_time_and_gets_the_proxys_new_one(
    start_proxy: StartProxy, authority: Authority, tmp_path: Path
) -> None:
    proxy = start_proxy(client_tls_cert=str(authority.certificate), client_tls_key=str(authority.key))
    with KeyChangingClient(proxy, tmp_path) as client:
        client.socket.sendall(client.update())
        client.log_in()
        # Alone, in front of a query and behind one, two at a time, and in halves.
        query = encode.query("SELECT 1")
        client.socket.sendall(client.update())
        client.socket.sendall(client.update() + client.record(query))
        assert "D" in client.kinds_until()
        client.socket.sendall(client.record(query) + client.update() + client.update())
        assert "D" in client.kinds_until()
        record = client.update()
        client.socket.sendall(record[:10])
        with proxy.connect(sslmode="require") as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
        client.socket.sendall(record[10:] + client.record(query))
        assert "D" in client.kinds_until()
        # While the proxy waits for the server.
        client.send(encode.query("SELECT pg_sleep(0.2)"))
        client.socket.sendall(client.update())
        assert "D" in client.kinds_until()
