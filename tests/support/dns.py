"""A DNS server on loopback whose names move on command."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

import pytest

_A, _IN = 1, 1
_NO_ERROR, _NAME_ERROR = 0, 3


class DNSServer:
    """Answers questions for IPv4 addresses. Use it as a context manager.

    - `names`: lower-case names and their addresses, with spaces between them, which come in another order each time;
      may be changed at any time.
    - `ttl`: seconds for which answers may be kept.
    - `answering`: False to swallow every question.
    """

    def __init__(self, names: Mapping[str, str], ttl: int = 60) -> None:
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
        self._thread.join(60)
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
        addresses = self.names.get(".".join(labels).lower(), "").split()
        turn = self.asked // 2 % len(addresses) if addresses else 0
        answers = [
            # 0xC00C: the name of the question.
            struct.pack("!HHHIH", 0xC00C, _A, _IN, self.ttl, 4) + ipaddress.IPv4Address(address).packed
            for address in addresses[turn:] + addresses[:turn]
            if kind == _A
        ]
        flags = 0x8180 | (_NO_ERROR if addresses else _NAME_ERROR)
        counts = struct.pack("!HHHHH", flags, 1, len(answers), 0, 0)
        return question[:2] + counts + question[12 : pos + 5] + b"".join(answers)


@pytest.fixture
def dns() -> Iterator[DNSServer]:
    """A DNS server of the test's own, which knows no name yet."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(DNSServer({}))
