"""The HTTP client of STS, beside a server that says whatever it was told to, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest
from tests.proxy.identity.iam.conftest import PROXY_ID

from tidegate_load.postgres import free_port
from tidegate_proxy.net.http_client import MAX_HEAD, AnswerTooLongError, HttpClient, HttpError

Result = TypeVar("Result")

REQUEST = f"GET / HTTP/1.1\r\nHost: sts.example\r\nX: {PROXY_ID}\r\n\r\n".encode()
LONGEST = 1000
DEADLINE = 60.0


def answer(body: bytes = b"hello", *, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


class Script:
    """A server that gives its connections one list of answers each, in order.

    An answer of None closes the connection instead, once the request is there.
    Parameters: `stays`, whether a connection is left open after its last answer, until the client closes it.
    `requests`, by connection; `closed`, some connection has ended.
    """

    def __init__(
        self, connections: list[list[bytes | None]], *, address: str = "127.0.0.1", stays: bool = True
    ) -> None:
        self.requests: list[list[bytes]] = []
        self.closed = threading.Event()
        self._connections = connections
        self._stays = stays
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, 0), family=family)
        self._thread = threading.Thread(target=self._serve)
        host = f"[{address}]" if ":" in address else address
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"

    def _serve(self) -> None:
        for answers in self._connections:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(ConnectionError):
                self._answer(connection, answers)
            self.closed.set()

    def _answer(self, connection: socket.socket, answers: list[bytes | None]) -> None:
        seen: list[bytes] = []
        self.requests.append(seen)
        for each in answers:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                data = connection.recv(65_536)
                if not data:
                    return
                request += data
            seen.append(request)
            if each is None:
                return
            connection.sendall(each)
        while self._stays and connection.recv(65_536):
            pass  # until the client closes it

    def __enter__(self) -> Script:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()


def using(url: str, work: Callable[[HttpClient], Awaitable[Result]], *, keep: float = DEADLINE) -> Result:
    async def run() -> Result:
        client = HttpClient(url, tls=ssl.create_default_context(), longest=LONGEST, keep=keep)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


def ask(url: str, times: int = 1) -> list[tuple[int, bytes]]:
    async def work(client: HttpClient) -> list[tuple[int, bytes]]:
        return [await client.request(REQUEST, DEADLINE) for _ in range(times)]

    return using(url, work)


@pytest.fixture
def script() -> Iterator[Callable[..., Script]]:
    with contextlib.ExitStack() as stack:
        yield lambda *connections, **options: stack.enter_context(Script(list(connections), **options))


def test_a_connection_serves_one_request_after_another(script: Callable[..., Script]) -> None:
    server = script([answer(b"one"), answer(b"", status="404 Not Found"), answer(b"three")])
    assert ask(server.url, 3) == [(200, b"one"), (404, b""), (200, b"three")]
    assert server.requests == [[REQUEST] * 3]


def test_an_ipv6_address_will_do(script: Callable[..., Script]) -> None:
    assert ask(script([answer()], address="::1").url) == [(200, b"hello")]


def test_a_name_is_looked_up_and_every_address_of_it_is_tried(script: Callable[..., Script]) -> None:
    # Often localhost is ::1 first, where nobody listens.
    server = script([answer()])
    assert ask(server.url.replace("127.0.0.1", "localhost")) == [(200, b"hello")]


def test_an_answer_may_come_in_any_pieces() -> None:
    class Slow(Script):
        def _answer(self, connection: socket.socket, answers: list[bytes | None]) -> None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.recv(65_536)
            for byte in answers[0] or b"":
                connection.sendall(bytes([byte]))
            connection.recv(1)

    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
    for whole in (answer(), chunked):
        with Slow([[whole]]) as server:
            assert ask(server.url) == [(200, b"hello")]


def test_interim_answers_are_not_the_answer(script: Callable[..., Script]) -> None:
    server = script(
        [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + answer(), answer(b"2")]
    )
    assert ask(server.url, 2) == [(200, b"hello"), (200, b"2")]


@pytest.mark.parametrize(
    "last", [answer(more="Connection: close\r\n"), b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"]
)
def test_a_connection_that_the_server_will_close_is_not_used_again(script: Callable[..., Script], last: bytes) -> None:
    server = script([last], [answer(b"again")])
    assert ask(server.url, 2) == [(200, b"hello"), (200, b"again")]


def test_a_kept_connection_that_was_closed_meanwhile_costs_nobody_an_error(script: Callable[..., Script]) -> None:
    # The second request is on its way when the server closes.
    server = script([answer(b"one"), None], [answer(b"two")])
    assert ask(server.url, 2) == [(200, b"one"), (200, b"two")]
    assert server.requests == [[REQUEST] * 2, [REQUEST]]


def test_a_new_connection_that_is_closed_is_an_error_at_once(script: Callable[..., Script]) -> None:
    server = script([answer(b"one"), None], [None], [answer()])
    with pytest.raises(HttpError, match="without an answer"):
        ask(server.url, 2)
    assert len(server.requests) == 2


def test_what_was_answered_in_part_is_not_asked_again(script: Callable[..., Script]) -> None:
    server = script([answer(b"one"), answer(b"two")[:-1]], [answer(b"two")], stays=False)
    with pytest.raises(HttpError, match="before the answer's end"):
        ask(server.url, 2)
    assert len(server.requests) == 1


@pytest.mark.parametrize("part", [answer()[:-1], b"HTTP/1.1 200 OK\r\n\r\nhello", b"HTTP/1.1 200"])
def test_an_answer_that_may_have_ended_too_early_is_none(script: Callable[..., Script], part: bytes) -> None:
    server = script([part], stays=False)
    with pytest.raises(HttpError, match="before the answer's end"):
        ask(server.url)


@pytest.mark.parametrize(
    "wrong",
    {
        "no HTTP": b"SSH-2.0-OpenSSH_9.9\r\n",
        "no status": b"HTTP/1.1 banana\r\n\r\n",
        "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "a length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "two answers": answer() + answer(b"for somebody else"),
        "more than the answer": answer() + b"hello",
    }.items(),
    ids=lambda each: each[0],
)
def test_what_is_not_one_answer_in_http_is_none(script: Callable[..., Script], wrong: tuple[str, bytes]) -> None:
    server = script([wrong[1]])
    with pytest.raises(HttpError) as caught:
        ask(server.url)
    assert PROXY_ID not in str(caught.value)
    assert server.closed.wait(DEADLINE)


def test_what_comes_unasked_is_not_the_next_ones_answer() -> None:
    reached, sent = threading.Event(), threading.Event()

    class Eager(Script):
        def _answer(self, connection: socket.socket, answers: list[bytes | None]) -> None:
            connection.recv(65_536)
            connection.sendall(answers[0] or b"")
            if len(answers) > 1:
                assert reached.wait(DEADLINE)
                connection.sendall(answers[1] or b"")
                sent.set()
            while connection.recv(65_536):
                pass

    async def work(client: HttpClient) -> None:
        assert await client.request(REQUEST, DEADLINE) == (200, b"one")
        reached.set()
        assert await asyncio.to_thread(sent.wait, DEADLINE)
        assert await asyncio.to_thread(server.closed.wait, DEADLINE)
        assert await client.request(REQUEST, DEADLINE) == (200, b"two")

    with Eager([[answer(b"one"), answer(b"evil")], [answer(b"two")]]) as server:
        using(server.url, work)


@pytest.mark.parametrize("head", ["Content-Length: 1001", "Transfer-Encoding: chunked"])
def test_a_body_that_is_too_long_is_not_read_to_its_end(script: Callable[..., Script], head: str) -> None:
    body = b"x" * (LONGEST + 1) if head.startswith("Content") else b"3e9\r\n" + b"x" * (LONGEST + 1)
    server = script([f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + body])
    with pytest.raises(AnswerTooLongError, match="more than 1000 bytes"):
        ask(server.url)
    assert server.closed.wait(DEADLINE)
    assert ask(script([answer(b"x" * LONGEST)]).url) == [(200, b"x" * LONGEST)]


@pytest.mark.parametrize("endless", [b"X: y\r\n", b"X", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_head_without_end_is_not_read_to_it(script: Callable[..., Script], endless: bytes) -> None:
    begin = b"" if endless.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n"
    server = script([begin + endless * ((LONGEST + MAX_HEAD) // len(endless) + 10)])
    with pytest.raises(HttpError, match="has no end"):
        ask(server.url)


def test_a_request_that_takes_too_long_leaves_no_connection_behind(script: Callable[..., Script]) -> None:
    server = script([b""], [answer(b"two")])

    async def work(client: HttpClient) -> None:
        with pytest.raises(TimeoutError):
            await client.request(REQUEST, 0.2)
        assert await asyncio.to_thread(server.closed.wait, DEADLINE)
        # A late answer to the first would have been taken for the second's.
        assert await client.request(REQUEST, DEADLINE) == (200, b"two")

    using(server.url, work)


def test_connecting_is_a_part_of_the_time() -> None:
    # The kernel accepts one connection for nobody, and lets the others wait.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as others:
        for _ in range(2):
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(full.getsockname())

        async def work(client: HttpClient) -> None:
            with pytest.raises(TimeoutError):
                await client.request(REQUEST, 0.3)

        using(f"http://127.0.0.1:{full.getsockname()[1]}", work)


def test_connections_that_nobody_uses_are_closed(script: Callable[..., Script]) -> None:
    server = script([answer()])

    async def work(client: HttpClient) -> None:
        await client.request(REQUEST, DEADLINE)
        assert await asyncio.to_thread(server.closed.wait, DEADLINE)

    using(server.url, work, keep=0.1)


def test_whoever_gives_up_takes_the_connection_along(script: Callable[..., Script]) -> None:
    server = script([b""], [answer(b"two")])

    async def work(client: HttpClient) -> None:
        given_up = asyncio.ensure_future(client.request(REQUEST, DEADLINE))
        while not server.requests or not server.requests[0]:  # noqa: ASYNC110 (another thread's)
            await asyncio.sleep(0.01)
        given_up.cancel()
        assert await asyncio.to_thread(server.closed.wait, DEADLINE)
        assert await client.request(REQUEST, DEADLINE) == (200, b"two")

    using(server.url, work)


def test_nobody_there_and_no_such_name_are_errors_that_say_so() -> None:
    with pytest.raises(ConnectionRefusedError):
        ask(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(OSError, match="does not resolve"):
        ask("http://no.such.host.invalid:80")
