"""A client's first packet: read as PostgreSQL reads it, refused in PostgreSQL's words."""

from __future__ import annotations

import contextlib
import struct

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proxy.protocol.streams import SocketStream, run

from tidegate_load.postgres import EmbeddedPostgres
from tidegate_proxy.errors import ClientProtocolError
from tidegate_proxy.protocol import decode, wire
from tidegate_proxy.protocol.decode import CancelRequest, GSSENCRequest, SSLRequest, StartupMessage
from tidegate_proxy.protocol.options import parse_options

V3 = b"\0\3\0\0"


def startup(body: bytes) -> StartupMessage:
    message = decode.parse_startup(body)
    assert isinstance(message, StartupMessage)
    return message


def refusal(body: bytes) -> tuple[str, str]:
    with pytest.raises(ClientProtocolError) as caught:
        decode.parse_startup(body)
    return caught.value.sqlstate, caught.value.message


def test_a_session_is_asked_for() -> None:
    body = V3 + b"user\0ann\0database\0shop\0application_name\0cart\0options\0-c geqo=off\0\0"
    assert startup(body) == StartupMessage(
        major=3,
        minor=0,
        user="ann",
        database="shop",
        parameters={"application_name": "cart"},
        options={"geqo": "off"},
        unsupported_protocol_options=[],
        replication=False,
    )


@pytest.mark.parametrize("database", [b"", b"database\0\0"])
def test_the_database_is_named_like_the_user_by_default(database: bytes) -> None:
    assert startup(V3 + b"user\0ann\0" + database + b"\0").database == "ann"


def test_encryption_and_cancel_requests_are_told_apart() -> None:
    assert decode.parse_startup(bytes.fromhex("04d2162f")) == SSLRequest()
    assert decode.parse_startup(bytes.fromhex("04d21630")) == GSSENCRequest()
    assert decode.parse_startup(bytes.fromhex("04d2162e 00000102 01020304")) == CancelRequest(258, b"\1\2\3\4")


def test_the_cancel_key_of_protocol_3_2_is_up_to_256_bytes_long() -> None:
    cancel = bytes.fromhex("04d2162e 00000102")
    assert decode.parse_startup(cancel + bytes(256)) == CancelRequest(258, bytes(256))
    assert refusal(cancel + bytes(257)) == ("08P01", "invalid length of cancel request packet")
    assert refusal(cancel) == ("08P01", "invalid length of cancel request packet")


def test_a_cancel_key_is_a_secret_and_not_shown() -> None:
    assert "k3y!" not in repr(CancelRequest(1, b"k3y!"))


def test_a_newer_minor_version_and_unknown_protocol_options_are_kept_for_the_negotiation() -> None:
    message = startup(b"\0\3\0\2user\0ann\0_pq_.a\0x\0_pq_.b\0y\0_pq_.a\0z\0\0")
    assert (message.minor, message.unsupported_protocol_options) == (2, ["_pq_.a", "_pq_.b"])
    assert message.parameters == {}


def test_of_a_name_given_twice_the_last_wins_and_comes_last() -> None:
    message = startup(V3 + b"user\0x\0a.a\0001\0b.b\0002\0a.a\0003\0user\0ann\0\0")
    assert message.user == "ann"
    assert list(message.parameters.items()) == [("b.b", "2"), ("a.a", "3")]


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [("x" * 63, "x" * 63), ("x" * 64, "x" * 63), ("x" * 9000, "x" * 63), ("é" * 40, "é" * 31)],
)
def test_an_overlong_name_is_cut_at_a_whole_character(given_name: str, kept: str) -> None:
    message = startup(V3 + b"user\0" + given_name.encode() + b"\0\0")
    assert (message.user, message.database) == (kept, kept)


@pytest.mark.parametrize("value", ["on", "t", "true", "yes", "1", "YES", "database"])
def test_replication_is_recognised(value: str) -> None:
    assert startup(V3 + f"user\0ann\0replication\0{value}\0\0".encode()).replication


@pytest.mark.parametrize("value", ["off", "of", "f", "no", "0"])
def test_no_replication_is_recognised(value: str) -> None:
    assert not startup(V3 + f"user\0ann\0replication\0{value}\0\0".encode()).replication


def test_an_application_name_is_cleaned_as_postgresql_does_it() -> None:
    message = startup(V3 + b"user\0ann\0application_name\0caf\xe9\0\0")
    assert message.parameters == {"application_name": "caf\\xe9"}


@pytest.mark.parametrize("body", [b"user\0\xff\0\0", b"user\0ann\0\xff\0x\0\0", b"user\0ann\0a.b\0\xc3\0\0"])
def test_what_is_not_utf_8_is_refused(body: bytes) -> None:
    sqlstate, message = refusal(V3 + body)
    assert sqlstate == "22021"
    assert "UTF8" in message


@pytest.mark.parametrize("size", [0, 3, wire.MAX_STARTUP_PACKET + 1])
def test_a_packet_of_impossible_size_is_refused(size: int) -> None:
    assert refusal(bytes(size)) == ("08P01", "invalid length of startup packet")


def test_an_encryption_request_has_nothing_behind_it() -> None:
    assert refusal(bytes.fromhex("04d2162f 00")) == ("08P01", "invalid length of startup packet")


def test_thousands_of_parameters_are_refused() -> None:
    pairs = b"".join(b"a%d\0\0" % number for number in range(wire.MAX_STARTUP_PARAMETERS + 1))
    assert refusal(V3 + pairs + b"\0")[0] == "54000"
    with pytest.raises(ClientProtocolError, match="too many settings in options"):
        parse_options(" ".join(f"-ca{number}=" for number in range(wire.MAX_STARTUP_PARAMETERS + 1)))


@pytest.mark.parametrize(
    ("text", "settings_"),
    [
        ("", {}),
        (" \t\n ", {}),
        ("--", {}),
        ("-c a.b=c", {"a.b": "c"}),
        ("-ca.b=c", {"a.b": "c"}),
        ("--a.b=c", {"a.b": "c"}),
        ("--statement-timeout=5s", {"statement_timeout": "5s"}),
        ("-c search_path=a,b  -cwork_mem=8MB", {"search_path": "a,b", "work_mem": "8MB"}),
        (r"-c a.b=with\ space -c c.d=back\\slash", {"a.b": "with space", "c.d": "back\\slash"}),
        ("-c a.b=x=y", {"a.b": "x=y"}),
        ("-c a.b=", {"a.b": ""}),
        ("-c a.b=1 -c c.d=2 -c a.b=3", {"c.d": "2", "a.b": "3"}),
        ("-c a.b=trailing\\", {"a.b": "trailing"}),
        (r"-c a.b=\-", {"a.b": "-"}),
    ],
)
def test_options_are_split_like_a_command_line(text: str, settings_: dict[str, str]) -> None:
    parsed = parse_options(text)
    assert list(parsed.items()) == list(settings_.items())


def test_a_flag_of_the_server_program_other_than_a_setting_is_refused_with_the_remedy() -> None:
    with pytest.raises(ClientProtocolError) as caught:
        parse_options("-e")
    assert caught.value.message == "invalid command-line argument for server process: -e"
    assert "-c name=value" in str(caught.value.hint)


def postgres_refusal(server: EmbeddedPostgres, body: bytes) -> tuple[str, str]:
    """SQLSTATE and message with which the real server answers this first packet."""
    stream = SocketStream.connect(server.host, server.port)
    try:
        stream.write(struct.pack("!i", len(body) + 4) + body)
        while True:
            kind, answer = run(stream.read_message(100_000))
            if kind == wire.ERROR_RESPONSE:
                fields = decode.parse_error_fields(answer)
                return fields["C"], fields["M"]
            assert kind != wire.READY_FOR_QUERY, "PostgreSQL accepts this"
    finally:
        stream.close()


REFUSED = [
    V3,
    V3 + b"\0",
    V3 + b"database\0x\0\0",
    V3 + b"user\0\0\0",
    V3 + b"user\0postgres\0",
    V3 + b"user\0postgres",
    V3 + b"user\0\0",
    V3 + b"user\0postgres\0\0\0",
    V3 + b"user\0postgres\0\0database\0template1\0\0",
    V3 + b"user\0postgres\0replication\0o\0\0",
    V3 + b"user\0postgres\0replication\0\0\0",
    *(
        V3 + b"user\0postgres\0options\0" + options + b"\0\0"
        for options in (
            b"-c",
            b"-c a",
            b"-c =x",
            b"--x",
            b"--=1",
            b"-",
            b"-Z",
            b"word",
            b"-c geqo=off word",
            b"-- -c geqo=off",
            b"-c  --geqo",
        )
    ),
]


def test_malformed_packets_are_refused_in_the_words_of_a_real_server() -> None:
    with EmbeddedPostgres("18", hba=["host all all 127.0.0.1/32 trust"]) as server:
        for body in REFUSED:
            assert refusal(body) == postgres_refusal(server, body), body
        # The server names the versions that it speaks, we name ours.
        sqlstate, message = postgres_refusal(server, b"\0\4\0\1user\0postgres\0\0")
        assert refusal(b"\0\4\0\1user\0postgres\0\0") == (sqlstate, message.replace("3.2", "3.0"))
        assert refusal(b"\0\2\0\0user\0postgres\0\0")[0] == "0A000"

        for options in (
            r"-c my.a=with\ space --my.b=x=y -cmy.c=\\",
            "--my-x.y=1 -- ",
            "-c\tmy.a=1\v-c my.a=2",
        ):
            parsed = parse_options(options)
            with psycopg.connect(**server.parameters(), options=options) as conn:
                for name, value in parsed.items():
                    assert conn.execute("SELECT current_setting(%s)", [name]).fetchone() == (value,)

        # Where the packet and its options disagree, the packet wins.
        with psycopg.connect(
            **server.parameters(), options="-c application_name=options", application_name="packet"
        ) as conn:
            assert conn.execute("SHOW application_name").fetchone() == ("packet",)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: V3 + b"user\0a\0" + tail))
def test_any_bytes_are_a_packet_or_our_own_error(body: bytes) -> None:
    with contextlib.suppress(ClientProtocolError):
        decode.parse_startup(body)


@settings(deadline=None)
@given(st.text(st.sampled_from("-c= \\\tab.\v"), max_size=40))
def test_any_options_are_settings_or_our_own_error(text: str) -> None:
    with contextlib.suppress(ClientProtocolError):
        assert "" not in parse_options(text)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(st.sampled_from("abc._"), min_size=1),
        st.text(st.characters(exclude_characters="\0")),
        max_size=5,
    )
)
def test_options_escaped_with_backslashes_read_back(wanted: dict[str, str]) -> None:
    text = " ".join(
        f"-c {name}=" + "".join("\\" + c if c in " \t\n\v\f\r\\" else c for c in value)
        for name, value in wanted.items()
    )
    assert parse_options(text) == wanted
