"""What a server sends, read."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_proxy.errors import ClientProtocolError, ServerProtocolError
from tidegate_proxy.protocol import decode


def test_fields_of_an_error_are_found_by_their_letter() -> None:
    body = b'SFATAL\0VFATAL\0C3D000\0Mdatabase "x" does not exist\0Fpostinit.c\0L1\0RInitPostgres\0\0'
    assert decode.parse_error_fields(body) == {
        "S": "FATAL",
        "V": "FATAL",
        "C": "3D000",
        "M": 'database "x" does not exist',
        "F": "postinit.c",
        "L": "1",
        "R": "InitPostgres",
    }


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"", {}),
        (b"\0", {}),
        (b"C3D000", {"C": "3D000"}),
        (b"C3D000\0Mhalf a mess", {"C": "3D000", "M": "half a mess"}),
        (b"M\xe9t\xe9\0\0", {"M": "\N{REPLACEMENT CHARACTER}t\N{REPLACEMENT CHARACTER}"}),
        (b"Ma\0\0Mb\0\0", {"M": "a"}),
    ],
)
def test_a_damaged_error_still_tells_what_it_can(body: bytes, fields: dict[str, str]) -> None:
    assert decode.parse_error_fields(body) == fields


def test_an_enormous_error_is_cut() -> None:
    fields = decode.parse_error_fields(b"".join(bytes((n,)) + b"x" * 100_000 + b"\0" for n in range(1, 256)))
    assert len(fields) == 32
    assert sum(map(len, fields.values())) <= 32 * 8192


def test_the_servers_own_error_keeps_its_sqlstate_message_detail_and_hint() -> None:
    error = decode.error_from_fields({"C": "53300", "M": "sorry", "D": "detail", "H": "hint"})
    assert (error.sqlstate, error.message, error.detail, error.hint) == ("53300", "sorry", "detail", "hint")


@pytest.mark.parametrize("sqlstate", ["", "1", "533000", "53 00", "533\n0"])
def test_what_is_no_sqlstate_becomes_a_failed_connection(sqlstate: str) -> None:
    error = decode.error_from_fields({"C": sqlstate})
    assert error.sqlstate == "08006"
    assert "without saying why" in error.message


@pytest.mark.parametrize("body", [b"", b"\0", b"name", b"name\0", b"name\0value", b"name\0value\0more", b"\0value\0"])
def test_a_malformed_parameter_status_is_refused(body: bytes) -> None:
    with pytest.raises(ServerProtocolError):
        decode.parse_parameter_status(body)


@pytest.mark.parametrize("size", [0, 3, 7, 261])
def test_malformed_backend_key_data_is_refused(size: int) -> None:
    with pytest.raises(ServerProtocolError):
        decode.parse_backend_key_data(bytes(size))


def test_a_string_without_its_end_is_refused_by_whose_fault_it_is() -> None:
    assert decode.read_cstring(b"ab\0c\0", 3, ClientProtocolError) == (b"c", 5)
    with pytest.raises(ClientProtocolError):
        decode.read_cstring(b"ab\0c", 3, ClientProtocolError)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_value_or_our_own_error(body: bytes) -> None:
    decode.error_from_fields(decode.parse_error_fields(body))
    for parse in (decode.parse_parameter_status, decode.parse_backend_key_data):
        with contextlib.suppress(ServerProtocolError):
            parse(body)
