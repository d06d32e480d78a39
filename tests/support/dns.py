"""A DNS server on loopback whose names move on command."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import pytest

_A, _IN = 1, 1
_NO_ERROR, _NAME_ERROR = 0, 3


class DNSServer:
    """Answers questions for IPv4 addresses. Use it as a context manager.

    - `names`: lower-case names and their addresses; may be changed at any time.
    - `ttl`: seconds for which answers may be kept.
    - `answering`: False to swallow every question.
    """

    def __init__(self, names: dict[str, str], ttl: int = 60) -> None:
        self.names = dict(names)
        self.ttl = ttl
        self.answering = True
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, name="dns", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join(10)
        self._socket.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(4096)
            if not question:
                return
            self.asked += 1
            if self.answering:
                self._socket.sendto(self._answer(question), client)

    def _answer(self, question: bytes) -> bytes:
        # RFC 1035, section 4: a header of 12 bytes, then the name as labels, its type and class.
        labels, pos = [], 12
        while question[pos]:
            labels.append(question[pos + 1 : pos + 1 + question[pos]].decode())
            pos += question[pos] + 1
        (kind,) = struct.unpack_from("!H", question, pos + 1)
        address = self.names.get(".".join(labels).lower())
        answers = b""
        if address is not None and kind == _A:
            packed = ipaddress.IPv4Address(address).packed
            # 0xC00C: the name of the question.
            answers = struct.pack("!HHHIH", 0xC00C, _A, _IN, self.ttl, len(packed)) + packed
        flags = 0x8180 | (_NO_ERROR if address is not None else _NAME_ERROR)
        return (
            question[:2] + struct.pack("!HHHHH", flags, 1, int(bool(answers)), 0, 0) + question[12 : pos + 5] + answers
        )


@pytest.fixture
def dns() -> Iterator[DNSServer]:
    """A DNS server of the test's own, which knows no name yet."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(DNSServer({}))
