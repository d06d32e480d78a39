"""Each message, byte by byte as PostgreSQL's documentation has it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_proxy import errors
from tidegate_proxy.protocol import decode, encode, wire
from tidegate_proxy.protocol.decode import CancelRequest, SSLRequest, StartupMessage


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (encode.ready_for_query(wire.IDLE), b"Z\0\0\0\x05I"),
        (encode.ready_for_query(wire.IN_TRANSACTION), b"Z\0\0\0\x05T"),
        (encode.ready_for_query(wire.IN_FAILED_TRANSACTION), b"Z\0\0\0\x05E"),
        (encode.parameter_status(b"TimeZone", b"UTC"), b"S\0\0\0\x11TimeZone\0UTC\0"),
        (encode.backend_key_data(258, b"\1\2\3\4"), b"K\0\0\0\x0c\0\0\1\2\1\2\3\4"),
        (encode.authentication_ok(), b"R\0\0\0\x08\0\0\0\0"),
        (encode.authentication_cleartext(), b"R\0\0\0\x08\0\0\0\3"),
        (encode.authentication_sasl(["SCRAM-SHA-256"]), b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"),
        (encode.authentication_sasl(["A", "B"]), b"R\0\0\0\x0d\0\0\0\x0aA\0B\0\0"),
        (encode.authentication_sasl_continue(b"r=x"), b"R\0\0\0\x0b\0\0\0\x0br=x"),
        (encode.authentication_sasl_final(b"v=x"), b"R\0\0\0\x0b\0\0\0\x0cv=x"),
        (encode.negotiate_protocol_version([]), b"v\0\0\0\x0c\0\3\0\0\0\0\0\0"),
        (encode.negotiate_protocol_version(["_pq_.a"]), b"v\0\0\0\x13\0\3\0\0\0\0\0\1_pq_.a\0"),
        (
            encode.startup_message({"user": "u", "database": "d"}),
            b"\0\0\0\x1b\0\3\0\0user\0u\0database\0d\0\0",
        ),
        (encode.ssl_request(), b"\0\0\0\x08\x04\xd2\x16\x2f"),
        (encode.cancel_request(258, b"\1\2\3\4"), b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\1\2\1\2\3\4"),
        (encode.password_message(b"pw"), b"p\0\0\0\x07pw\0"),
        (encode.sasl_initial_response("M", b"n,,"), b"p\0\0\0\x0dM\0\0\0\0\3n,,"),
        (encode.sasl_response(b"c=x"), b"p\0\0\0\x07c=x"),
        (encode.query("é"), b"Q\0\0\0\x07\xc3\xa9\0"),
        (encode.query(b"\xe9"), b"Q\0\0\0\x06\xe9\0"),
        (encode.parse(b"s", b"select $1", b"\0\1\0\0\0\x17"), b"P\0\0\0\x16s\0select $1\0\0\1\0\0\0\x17"),
        (encode.close_statement(b"s"), b"C\0\0\0\x07Ss\0"),
        (encode.sync(), b"S\0\0\0\4"),
        (encode.flush(), b"H\0\0\0\4"),
        (encode.terminate(), b"X\0\0\0\4"),
        (encode.copy_fail("no"), b"f\0\0\0\7no\0"),
    ],
)
def test_a_message_has_exactly_these_bytes(built: bytes, expected: bytes) -> None:
    assert built == expected


def test_an_error_carries_severity_twice_sqlstate_message_detail_and_hint() -> None:
    error = errors.ClientProtocolError("m", sqlstate="22021", detail="d", hint="h")
    assert encode.error_response(error, fatal=True) == b"E\0\0\0\x23SFATAL\0VFATAL\0C22021\0Mm\0Dd\0Hh\0\0"


def test_an_error_without_detail_and_hint_leaves_the_fields_out_and_the_connection_open() -> None:
    error = errors.ClientProtocolError("m")
    assert encode.error_response(error, fatal=False) == b"E\0\0\0\x1dSERROR\0VERROR\0C08P01\0Mm\0\0"


@settings(deadline=None)
@given(st.text(), st.text(), st.text())
def test_an_error_gets_out_whatever_its_texts_quote(text: str, detail: str, hint: str) -> None:
    error = errors.TargetRefusedError(text, detail=detail, hint=hint)
    fields = decode.parse_error_fields(encode.error_response(error, fatal=True)[5:])
    assert fields["C"] == "08006"
    assert fields["M"] == error.message.replace("\0", "").encode(errors="replace").decode()[: len(fields["M"])]


@pytest.mark.parametrize(
    "build",
    [
        lambda: encode.query("select 1\0; drop table t"),
        lambda: encode.startup_message({"user": "a\0database\0b"}),
        lambda: encode.startup_message({"a\0b": ""}),
        lambda: encode.startup_message({"": "x"}),
        lambda: encode.parameter_status(b"a\0b", b""),
        lambda: encode.password_message(b"a\0b"),
        lambda: encode.close_statement(b"a\0b"),
        lambda: encode.copy_fail("a\0b"),
    ],
)
def test_a_string_can_not_smuggle_in_another(build: object) -> None:
    assert callable(build)
    with pytest.raises(ValueError, match=r"zero byte|needs a name"):
        build()


NAMES = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=12)
TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
RESERVED = {"user", "database", "options", "replication", "application_name"}


@settings(deadline=None)
@given(NAMES, NAMES, st.dictionaries(NAMES.filter(lambda n: n not in RESERVED and n[:5] != "_pq_."), TEXTS))
def test_a_startup_message_reads_back(user: str, database: str, parameters: dict[str, str]) -> None:
    packet = encode.startup_message({"user": user, "database": database, **parameters})
    assert int.from_bytes(packet[:4]) == len(packet)
    assert decode.parse_startup(packet[4:]) == StartupMessage(
        3, 0, user, database, parameters, options={}, unsupported_protocol_options=[], replication=False
    )


@settings(deadline=None)
@given(st.integers(-(2**31), 2**31 - 1), st.binary(min_size=1, max_size=256))
def test_a_cancel_request_reads_back(pid: int, key: bytes) -> None:
    assert decode.parse_startup(encode.cancel_request(pid, key)[4:]) == CancelRequest(pid, key)


def test_an_ssl_request_reads_back() -> None:
    assert decode.parse_startup(encode.ssl_request()[4:]) == SSLRequest()


@settings(deadline=None)
@given(st.binary(min_size=1).filter(lambda b: 0 not in b), st.binary().filter(lambda b: 0 not in b))
def test_a_parameter_status_reads_back(name: bytes, value: bytes) -> None:
    assert decode.parse_parameter_status(encode.parameter_status(name, value)[5:]) == (name, value)


@settings(deadline=None)
@given(st.integers(-(2**31), 2**31 - 1), st.binary(min_size=4, max_size=256))
def test_backend_key_data_reads_back(pid: int, key: bytes) -> None:
    assert decode.parse_backend_key_data(encode.backend_key_data(pid, key)[5:]) == (pid, key)
