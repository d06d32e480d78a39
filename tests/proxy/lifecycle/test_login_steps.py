"""A login is taken as its bytes come: in whatever pieces, and however far it gets."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import pytest
from tests.proxy.lifecycle.conftest import Authority
from tests.support.proxy import ProxyProcess, StartProxy
from tests.support.rawclient import MECHANISM, RawClient
from tests.support.relay import Relay

from tidegate_proxy.net.listen import tcp_listeners
from tidegate_proxy.net.transport import hand_down
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.scram_client import ScramClientExchange


@pytest.fixture
def tls_proxy(start_proxy: StartProxy, authority: Authority) -> ProxyProcess:
    return start_proxy(
        client_tls_cert=str(authority.certificate), client_tls_key=str(authority.key), client_login_timeout=20
    )


@pytest.mark.parametrize(
    "way", [{"sslmode": "disable"}, {}, {"sslnegotiation": "direct"}], ids=["plain", "TLS", "direct"]
)
@pytest.mark.parametrize(
    "sizes", [lambda: 1, partial(random.Random(1).randint, 1, 90)], ids=["one byte at a time", "random pieces"]
)
def test_a_login_may_come_in_any_pieces(tls_proxy: ProxyProcess, way: dict[str, str], sizes: Callable[[], int]) -> None:
    with Relay("127.0.0.1", tls_proxy.port) as relay:
        relay.split(sizes)
        with tls_proxy.connect(port=relay.port, **({"sslmode": "require"} | way)) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_client_may_send_ahead_what_it_knows(proxy: ProxyProcess) -> None:
    """The first SCRAM message with the StartupMessage, and the first query with the proof."""
    exchange = ScramClientExchange(proxy.parameters["password"], [MECHANISM], None)
    mechanism, first = exchange.first()
    identity = {"user": proxy.parameters["user"], "database": proxy.parameters["dbname"]}
    with RawClient(proxy.parameters, login=False) as client:
        client.send(encode.startup_message(identity) + encode.sasl_initial_response(mechanism, first))
        client.read()
        proof = exchange.response(client.read()[1][4:])
        client.send(encode.sasl_response(proof) + encode.query("SELECT 1") + encode.query("SELECT 2"))
        assert client.kinds_until() == "RR" + "S" * 17 + "KZ"
        assert [client.kinds_until(), client.kinds_until()] == ["TDCZ"] * 2


def test_whoever_stops_in_the_midst_of_a_login_is_told_when_the_time_is_up(
    start_proxy: StartProxy, authority: Authority
) -> None:
    proxy = start_proxy(
        client_tls_cert=str(authority.certificate), client_tls_key=str(authority.key), client_login_timeout=2
    )
    hello = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    startup = encode.startup_message({"user": proxy.parameters["user"], "database": proxy.parameters["dbname"]})
    initial = encode.sasl_initial_response(*ScramClientExchange("", [MECHANISM], None).first())
    told = [startup[:9], startup, startup + initial[:9], startup + initial]
    # Nobody could read the error before the handshake is done, and the last one may not know our protocol.
    in_handshake = [b"", hello.read()[:50]]
    beginnings = [*told, *in_handshake, b""]
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(proxy.parameters, login=False)) for _ in beginnings]
        for client in clients[len(told) : -1]:
            client.send(encode.ssl_request())
            assert client.read_exactly(1) == b"S"
        for client, beginning in zip(clients, beginnings, strict=True):
            client.send(beginning)
        for client in clients[: len(told)]:
            assert client.error_until("E")["M"] == "canceling authentication due to timeout"
        for client in clients:
            assert client.is_closed()
    with proxy.connect(sslmode="require") as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_accepted_connections_have_the_options_of_the_socket_that_listens() -> None:
    """They are set once, and the kernel hands them down."""
    (listener,) = tcp_listeners("127.0.0.1", 0)
    with listener:
        listener.setblocking(True)
        for seconds in (7.5, 900):
            hand_down(listener, seconds)
            with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == max(1, round(seconds / 3))
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == seconds * 1000
