"""A TCP relay that counts, and that loses, stalls, swallows and resets connections on command."""

from __future__ import annotations

import contextlib
import ctypes
import queue
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum, auto
from types import TracebackType
from typing import Self

import pytest

CHUNK = 65536
BUFFER_LIMIT = 262144
"""Bytes held for a side that does not read; beyond that the other side is not read either."""

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
"""Of asm-generic/socket.h; Python has no names for them."""

COMMAND_TIMEOUT = 60.0
"""Seconds in which the relay's thread must carry out a command."""


def lose_packets(sock: socket.socket) -> None:
    """From now on, whatever is sent to this socket is lost: the kernel does not even acknowledge it."""
    # A packet filter with one instruction: keep 0 bytes (BPF_RET, linux/filter.h).
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))


class _Mode(Enum):
    FORWARD = auto()
    STALL = auto()
    BLACK_HOLE = auto()


class _End(Enum):
    RESET = auto()
    SWALLOW = auto()
    HALF_OPEN = auto()


@dataclass
class _Trap:
    pattern: bytes
    after_answer: bool
    end: _End = _End.RESET
    from_server: bool = False


@dataclass(eq=False)
class _Side:
    """One socket of a pair, and what waits to be sent to it."""

    sock: socket.socket
    is_client: bool
    pending: bytearray = field(default_factory=bytearray)
    ended: bool = False
    end_sent: bool = False


@dataclass(eq=False)
class _Pair:
    client: _Side
    server: _Side
    tail: bytes = b""
    tail_from_server: bytes = b""
    sprung: _Trap | None = None
    lossy: bool = False
    swallowing: bool = False
    client_spoke_last: bool = False

    def other(self, side: _Side) -> _Side:
        return self.server if side is self.client else self.client


class Relay:
    """Listens on a loopback port and forwards to `target_host:target_port`, on one background thread.

    Every command takes effect before its method returns. Use it as a context manager, or call `close()`.

    - `port`: where clients connect.
    - `bytes_to_server`, `bytes_to_client`: forwarded so far, over all connections.
    - `accepted`: connections accepted so far.
    - `round_trips`: how often a client spoke after its server had, over all connections.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target = (target_host, target_port)
        self.bytes_to_server = 0
        self.bytes_to_client = 0
        self.accepted = 0
        self.round_trips = 0
        self._mode = _Mode.FORWARD
        self._sizes: Callable[[], int] = lambda: CHUNK
        self._trap: _Trap | None = None
        self._pairs: list[_Pair] = []
        self._commands: queue.SimpleQueue[tuple[Callable[[], None], Future[None]]] = queue.SimpleQueue()
        self._closed = False
        self._dropping = False
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._waker, self._alarm = socket.socketpair()
        self._alarm.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=f"relay-{self.port}", daemon=True)
        self._thread.start()

    # -- commands ----------------------------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._pairs)

    def reset_all(self) -> None:
        """Every connection ends with a TCP reset, towards both sides. New ones are served."""
        self._do(lambda: self._end_all(reset=True))

    def close_all(self) -> None:
        """Every connection is closed in order (FIN), towards both sides. New ones are served."""
        self._do(lambda: self._end_all(reset=False))

    def stall(self) -> None:
        """Forward nothing, lose nothing: what is sent waits, and so do new connections, until `resume()`."""
        self._do(lambda: self._set_mode(_Mode.STALL))

    def black_hole(self) -> None:
        """Swallow everything: connections stay open, new ones are accepted, and no answer ever comes."""
        self._do(lambda: self._set_mode(_Mode.BLACK_HOLE))

    def drop_packets(self) -> None:
        """What clients send is lost on the way, SYN and keepalive probes too: the kernel acknowledges none of it. Until
        `resume()`."""
        self._do(self._drop_packets)

    def resume(self) -> None:
        """Forward again. Connections that lost bytes in the black hole are reset."""
        self._do(lambda: self._set_mode(_Mode.FORWARD))

    def split(self, sizes: Callable[[], int]) -> None:
        """Forward in pieces of at most so many bytes; `sizes` is called for each piece, on the relay's thread."""
        self._do(lambda: setattr(self, "_sizes", sizes))

    def reset_at(self, pattern: bytes, *, after_answer: bool) -> None:
        """Reset the next connection on which the client sends `pattern` (which TLS would hide), once.

        Parameters: `after_answer`, True: the server gets the bytes, and the reset comes in place of its answer;
        False: the server never sees them.
        """
        self._set_trap(_Trap(pattern, after_answer))

    def swallow_at(self, pattern: bytes, *, after_answer: bool) -> None:
        """As `reset_at`, but the connection is not ended: nothing passes on it any more, in either direction."""
        self._set_trap(_Trap(pattern, after_answer, _End.SWALLOW))

    def half_open_at(self, pattern: bytes, *, after_answer: bool) -> None:
        """As `reset_at`, but only the server learns of the end; the client's side stays open and silent."""
        self._set_trap(_Trap(pattern, after_answer, _End.HALF_OPEN))

    def reset_at_answer(self, pattern: bytes) -> None:
        """Reset the next connection on which the server sends `pattern`, once; the client gets what came before it."""
        self._set_trap(_Trap(pattern, after_answer=False, from_server=True))

    @property
    def trap_is_set(self) -> bool:
        """Whether the last trap still waits for its pattern."""
        return self._trap is not None

    def disarm(self) -> None:
        """Forget a trap that has not been sprung."""
        self._do(lambda: setattr(self, "_trap", None))

    def _set_trap(self, trap: _Trap) -> None:
        self._do(lambda: setattr(self, "_trap", trap))

    def send_to_clients(self, data: bytes) -> None:
        """Send bytes of the caller's own to every client, as if the server had sent them."""

        def send() -> None:
            for pair in self._pairs:
                pair.client.pending += data

        self._do(send)

    def close(self) -> None:
        """Close everything and end the thread. Safe to call twice."""
        if self._thread.is_alive():
            with contextlib.suppress(OSError):
                self._do(lambda: setattr(self, "_closed", True))
            self._thread.join(COMMAND_TIMEOUT)
        self._waker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, command: Callable[[], None]) -> None:
        done: Future[None] = Future()
        self._commands.put((command, done))
        self._waker.send(b"!")
        done.result(COMMAND_TIMEOUT)

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closed:
                self._watch_all()
                for key, events in self._selector.select():
                    if key.fileobj is self._alarm:
                        self._obey()
                        break  # what else was ready may be gone now; it is seen again in the next round
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.data[0] in self._pairs:
                        pair, side = key.data
                        self._serve(pair, side, events)
        finally:
            self._end_all(reset=False)
            self._selector.close()
            self._listener.close()
            self._alarm.close()

    def _obey(self) -> None:
        self._alarm.recv(CHUNK)
        while not self._commands.empty():
            command, done = self._commands.get()
            try:
                command()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _drop_packets(self) -> None:
        self._dropping = True
        for sock in [self._listener, *(pair.client.sock for pair in self._pairs)]:
            lose_packets(sock)

    def _set_mode(self, mode: _Mode) -> None:
        if self._dropping and mode is _Mode.FORWARD:
            self._dropping = False
            for sock in [self._listener, *(pair.client.sock for pair in self._pairs)]:
                sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        self._mode = mode
        if mode is _Mode.FORWARD:
            for pair in [pair for pair in self._pairs if pair.lossy]:
                self._end(pair, reset=True)
        elif mode is _Mode.BLACK_HOLE:
            for pair in self._pairs:
                pair.lossy = True

    def _watch_all(self) -> None:
        wanted: dict[socket.socket, tuple[int, object]] = {self._alarm: (selectors.EVENT_READ, None)}
        if self._mode is not _Mode.STALL:
            wanted[self._listener] = (selectors.EVENT_READ, None)
            for pair in self._pairs:
                for side in (pair.client, pair.server):
                    events = 0
                    if not side.ended and len(pair.other(side).pending) < BUFFER_LIMIT:
                        events |= selectors.EVENT_READ
                    if side.pending:
                        events |= selectors.EVENT_WRITE
                    if events:
                        wanted[side.sock] = (events, (pair, side))
        watched = {key.fileobj: key.events for key in self._selector.get_map().values()}
        for known in watched.keys() - wanted.keys():
            self._selector.unregister(known)
        for sock, (events, data) in wanted.items():
            if sock not in watched:
                self._selector.register(sock, events, data)
            elif watched[sock] != events:
                self._selector.modify(sock, events, data)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        self.accepted += 1
        try:
            server = socket.create_connection(self.target, timeout=60)
        except OSError:
            _close(client, reset=True)
            return
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pairs.append(_Pair(_Side(client, True), _Side(server, False), lossy=self._mode is _Mode.BLACK_HOLE))

    def _serve(self, pair: _Pair, side: _Side, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE and side.pending:
                del side.pending[: side.sock.send(side.pending)]
            if events & selectors.EVENT_READ:
                self._read(pair, side)
            if pair in self._pairs:
                self._pass_on_ends(pair)
        except BlockingIOError:
            pass
        except OSError:
            self._end(pair, reset=True)

    def _read(self, pair: _Pair, side: _Side) -> None:
        data = side.sock.recv(self._sizes())
        if not data:
            side.ended = True
            return
        if self._mode is _Mode.BLACK_HOLE or pair.swallowing:
            return
        if side.is_client:
            if not pair.client_spoke_last:
                self.round_trips += 1
                pair.client_spoke_last = True
            if self._spring(pair, data):
                return
            self.bytes_to_server += len(data)
        else:
            pair.client_spoke_last = False
            if pair.sprung is not None:
                self._carry_out(pair, pair.sprung)
                return
            if self._spring_from_server(pair, data):
                return
            self.bytes_to_client += len(data)
        target = pair.other(side)
        target.pending += data
        del target.pending[: target.sock.send(target.pending)]

    def _spring(self, pair: _Pair, data: bytes) -> bool:
        """Whether a trap ended the pair."""
        if self._trap is None or self._trap.from_server:
            return False
        window = pair.tail + data
        pair.tail = window[-len(self._trap.pattern) + 1 :] if len(self._trap.pattern) > 1 else b""
        if self._trap.pattern not in window:
            return False
        trap, self._trap = self._trap, None
        if trap.after_answer:
            pair.sprung = trap
            return False
        self._carry_out(pair, trap)
        return True

    def _spring_from_server(self, pair: _Pair, data: bytes) -> bool:
        if self._trap is None or not self._trap.from_server:
            return False
        window = pair.tail_from_server + data
        pair.tail_from_server = window[-len(self._trap.pattern) + 1 :]
        if self._trap.pattern not in window:
            return False
        trap, self._trap = self._trap, None
        before = data[: max(0, len(data) - (len(window) - window.index(trap.pattern)))]
        with contextlib.suppress(OSError):
            pair.client.sock.send(bytes(pair.client.pending) + before)
        self._carry_out(pair, trap)
        return True

    def _carry_out(self, pair: _Pair, trap: _Trap) -> None:
        if trap.end is _End.RESET:
            self._end(pair, reset=True)
            return
        pair.swallowing = True
        if trap.end is _End.HALF_OPEN:
            pair.server.ended = pair.server.end_sent = True
            # To the server it is as if the client had gone away.
            pair.server.sock.shutdown(socket.SHUT_RDWR)

    def _pass_on_ends(self, pair: _Pair) -> None:
        if self._mode is _Mode.BLACK_HOLE or pair.swallowing:
            if pair.client.ended:
                self._end(pair, reset=False)
            return
        for side in (pair.client, pair.server):
            other = pair.other(side)
            if side.ended and not other.pending and not other.end_sent:
                other.end_sent = True
                other.sock.shutdown(socket.SHUT_WR)
        if pair.client.end_sent and pair.server.end_sent:
            self._end(pair, reset=False)

    def _end_all(self, *, reset: bool) -> None:
        for pair in list(self._pairs):
            self._end(pair, reset=reset)

    def _end(self, pair: _Pair, *, reset: bool) -> None:
        self._pairs.remove(pair)
        for side in (pair.client, pair.server):
            with contextlib.suppress(KeyError):
                self._selector.unregister(side.sock)
            _close(side.sock, reset=reset)


def _close(sock: socket.socket, *, reset: bool) -> None:
    if reset:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.fixture
def relay_to() -> Iterator[Callable[[int], Relay]]:
    """Makes relays to a loopback port; all are closed after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda port: stack.enter_context(Relay("127.0.0.1", port))
