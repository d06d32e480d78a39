"""SCRAM-SHA-256: both sides against RFC 7677, against arithmetic written out here, and against each other."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_proxy.errors import AuthenticationError, ClientProtocolError, ProxyError, ServerProtocolError
from tidegate_proxy.protocol.scram import (
    SCRAM_SHA_256,
    SCRAM_SHA_256_PLUS,
    ScramServerExchange,
    ScramVerifier,
    md5_password,
)
from tidegate_proxy.protocol.scram_client import ScramClientExchange

# The example in RFC 7677, section 3
PASSWORD = "pencil"
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
VERIFIER = (
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ=="
    "$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

PENCIL = ScramVerifier.from_password(PASSWORD, salt=SALT)
BINDING = bytes(range(32))


def prove(password: bytes, bare: str, server_first: str, header: bytes = b"n,,") -> tuple[bytes, bytes]:
    """A client's final message and the server's answer to it, by the formulas of RFC 5802, section 3."""
    attributes = dict(part.split("=", 1) for part in server_first.split(","))
    salted = hashlib.pbkdf2_hmac("sha256", password, base64.b64decode(attributes["s"]), int(attributes["i"]))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    without_proof = f"c={base64.b64encode(header).decode()},r={attributes['r']}"
    auth_message = f"{bare},{server_first},{without_proof}".encode()
    signature = hmac.digest(hashlib.sha256(client_key).digest(), auth_message, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    answer = base64.b64encode(hmac.digest(server_key, auth_message, "sha256"))
    return f"{without_proof},p={base64.b64encode(proof).decode()}".encode(), b"v=" + answer


def exchange(
    client_password: str,
    verifier: ScramVerifier | None,
    *,
    client_binding: bytes | None = None,
    server_binding: bytes | None = None,
) -> str:
    """Both sides against each other; returns the mechanism they agreed on."""
    server = ScramServerExchange("ann", verifier, server_binding)
    client = ScramClientExchange(client_password, server.mechanisms, client_binding)
    mechanism, first = client.first()
    client.verify(server.final(client.response(server.first(mechanism, first))))
    return mechanism


# -- verifiers -----------------------------------------------------------------------------------------------


def test_a_verifier_has_the_form_that_postgresql_stores() -> None:
    assert str(PENCIL) == VERIFIER
    assert ScramVerifier.parse(VERIFIER) == PENCIL


def test_a_verifier_does_not_show_its_keys() -> None:
    assert repr(PENCIL) == "ScramVerifier(iterations=4096)"


def test_two_verifiers_of_one_password_have_different_salts() -> None:
    assert ScramVerifier.from_password("x").salt != ScramVerifier.from_password("x").salt


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("SCRAM-SHA-256", "SCRAM-SHA-1", "form"),
        ("$4096", "$", "form"),
        ("$4096", "$40\N{ARABIC-INDIC DIGIT NINE}6", "form"),
        ("=:", "=\n:", "base64"),
        ("W22Z", "W2*Z", "base64"),
        ("W22ZaJ0SNY7soEsUEjb6gQ==", "W22ZaJ0SNY7soA==", "salt of at least 12 bytes"),
        ("WG5d", "", "32 bytes"),
        ("$4096", "$4095", "iterations"),
        ("$4096", "$1000001", "iterations"),
        (VERIFIER, "md5" + "0" * 32, "form"),
        (VERIFIER, "", "form"),
    ],
)
def test_a_faulty_verifier_is_refused_without_being_shown(old: str, new: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        ScramVerifier.parse(VERIFIER.replace(old, new, 1))
    assert "wfPL" not in str(caught.value)


@pytest.mark.parametrize(("iterations", "salt"), [(4095, None), (1_000_001, None), (4096, bytes(11))])
def test_a_verifier_is_not_made_out_of_bounds(iterations: int, salt: bytes | None) -> None:
    with pytest.raises(ValueError, match="must have"):
        ScramVerifier.from_password("x", iterations, salt)


# -- fixed vectors -------------------------------------------------------------------------------------------


def test_the_server_answers_as_in_the_example_of_rfc_7677(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate_proxy.protocol.scram._server_nonce", lambda: SERVER_NONCE)
    server = ScramServerExchange("user", PENCIL)
    assert server.first(SCRAM_SHA_256, CLIENT_FIRST) == SERVER_FIRST
    assert server.final(CLIENT_FINAL) == SERVER_FINAL


def test_our_arithmetic_is_that_of_rfc_7677() -> None:
    assert prove(b"pencil", "n=user,r=rOprNGfwEbeRWgbNEkqO", SERVER_FIRST.decode()) == (
        CLIENT_FINAL,
        SERVER_FINAL,
    )


def test_the_client_proves_itself_and_checks_the_server_by_that_arithmetic() -> None:
    client = ScramClientExchange(PASSWORD, [SCRAM_SHA_256], None)
    mechanism, first = client.first()
    bare = first.decode().removeprefix("n,,")
    server_first = f"{bare[bare.index('r=') :]}{SERVER_NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    expected, answer = prove(b"pencil", bare, server_first)
    assert (mechanism, client.response(server_first.encode())) == (SCRAM_SHA_256, expected)
    client.verify(answer)


@pytest.mark.parametrize("name", ["", "user", "other", "a=2Cb", "=", "\N{SOFT HYPHEN}", "\x07"])
def test_the_name_in_the_exchange_is_ignored_and_may_be_empty_as_libpq_sends_it(name: str) -> None:
    server = ScramServerExchange("ann", PENCIL)
    bare = f"n={name},r=abc"
    server_first = server.first(SCRAM_SHA_256, f"n,,{bare}".encode()).decode()
    final, answer = prove(b"pencil", bare, server_first)
    assert server.final(final) == answer


def test_md5_is_hashed_twice() -> None:
    # The protocol's documentation: concat('md5', md5(concat(md5(concat(password, user)), salt)))
    inner = hashlib.md5(b"secretann").hexdigest()
    assert md5_password("ann", "secret", b"\1\2\3\4") == (
        b"md5" + hashlib.md5(inner.encode() + b"\1\2\3\4").hexdigest().encode()
    )


# -- both sides ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20))
def test_any_password_logs_in_and_another_one_does_not(password: str) -> None:
    verifier = ScramVerifier.from_password(password)
    assert exchange(password, verifier) == SCRAM_SHA_256
    with pytest.raises(AuthenticationError):
        exchange(password + "x", verifier)


def test_a_wrong_password_and_an_unknown_user_get_the_same_answer() -> None:
    answers = []
    for verifier in (PENCIL, None):
        with pytest.raises(AuthenticationError) as caught:
            exchange("wrong", verifier)
        answers.append((caught.value.sqlstate, str(caught.value)))
    assert set(answers) == {("28P01", 'password authentication failed for user "ann"')}


def test_an_unknown_user_is_asked_with_the_same_salt_every_time_and_with_its_own() -> None:
    def asked(user: str) -> str:
        first = ScramServerExchange(user, None).first(SCRAM_SHA_256, b"n,,n=,r=abc").decode()
        return first.partition(",")[2]

    assert asked("ann") == asked("ann")
    assert asked("ann") != asked("bob")
    assert asked("ann").endswith(",i=4096")
    salt = base64.b64decode(asked("ann").removeprefix("s=").partition(",")[0])
    assert len(salt) == len(ScramVerifier.from_password("x").salt)


def test_processes_that_share_a_secret_ask_an_unknown_user_with_the_same_salt() -> None:
    salts = {
        secret: ScramServerExchange("ann", None, mock_secret=secret)
        .first(SCRAM_SHA_256, b"n,,n=,r=abc")
        .partition(b",s=")[2]
        for secret in (b"one", b"two")
    }
    again = ScramServerExchange("ann", None, mock_secret=b"one").first(SCRAM_SHA_256, b"n,,n=,r=x")
    assert again.partition(b",s=")[2] == salts[b"one"] != salts[b"two"]


def test_every_exchange_has_a_nonce_of_its_own() -> None:
    nonces = {ScramServerExchange("ann", PENCIL).first(SCRAM_SHA_256, b"n,,n=,r=a") for _ in range(10)}
    assert len(nonces) == 10


# -- channel binding -----------------------------------------------------------------------------------------


def test_both_sides_inside_tls_bind_to_the_channel() -> None:
    assert exchange(PASSWORD, PENCIL, client_binding=BINDING, server_binding=BINDING) == SCRAM_SHA_256_PLUS


def test_a_client_that_can_not_bind_logs_in_without() -> None:
    assert exchange(PASSWORD, PENCIL, server_binding=BINDING) == SCRAM_SHA_256


def test_a_client_that_could_bind_logs_in_to_a_server_that_does_not_offer_it() -> None:
    assert exchange(PASSWORD, PENCIL, client_binding=BINDING) == SCRAM_SHA_256


def test_a_login_relayed_over_another_tls_connection_fails() -> None:
    with pytest.raises(AuthenticationError, match="channel binding check failed"):
        exchange(PASSWORD, PENCIL, client_binding=bytes(32), server_binding=BINDING)


def test_a_client_that_was_told_there_is_no_channel_binding_is_warned() -> None:
    server = ScramServerExchange("ann", PENCIL, BINDING)
    client = ScramClientExchange(PASSWORD, [SCRAM_SHA_256], BINDING)
    with pytest.raises(AuthenticationError, match="channel binding negotiation error"):
        server.first(*client.first())


def test_a_client_may_think_there_is_no_channel_binding_where_there_is_none() -> None:
    server = ScramServerExchange("ann", PENCIL)
    server_first = server.first(SCRAM_SHA_256, b"y,,n=,r=abc").decode()
    final, answer = prove(b"pencil", "n=,r=abc", server_first, header=b"y,,")
    assert server.final(final) == answer


@pytest.mark.parametrize(
    ("mechanism", "first", "sqlstate"),
    [
        (SCRAM_SHA_256_PLUS, b"n,,n=,r=abc", "08P01"),
        (SCRAM_SHA_256_PLUS, b"y,,n=,r=abc", "08P01"),
        (SCRAM_SHA_256, b"p=tls-server-end-point,,n=,r=abc", "08P01"),
        (SCRAM_SHA_256_PLUS, b"p=tls-unique,,n=,r=abc", "08P01"),
        (SCRAM_SHA_256_PLUS, b"p=tls-exporter,,n=,r=abc", "08P01"),
        (SCRAM_SHA_256_PLUS, b"p=,,n=,r=abc", "08P01"),
        (SCRAM_SHA_256, b"y,,n=,r=abc", "28000"),
    ],
)
def test_mechanism_and_binding_flag_must_fit(mechanism: str, first: bytes, sqlstate: str) -> None:
    with pytest.raises(ProxyError) as caught:
        ScramServerExchange("ann", PENCIL, BINDING).first(mechanism, first)
    assert caught.value.sqlstate == sqlstate


# -- clients that misbehave ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["", "SCRAM-SHA-1", "scram-sha-256", "PLAIN", SCRAM_SHA_256_PLUS])
def test_a_mechanism_that_was_not_offered_is_refused(mechanism: str) -> None:
    with pytest.raises(ClientProtocolError, match="invalid SASL authentication mechanism"):
        ScramServerExchange("ann", PENCIL).first(mechanism, b"n,,n=,r=abc")


@pytest.mark.parametrize(
    ("first", "sqlstate"),
    [
        (b"", "08P01"),
        (b"n", "08P01"),
        (b"n,,", "08P01"),
        (b"n,,n=", "08P01"),
        (b"n,,n=,", "08P01"),
        (b"n,,n=,r=", "08P01"),
        (b"n,,r=abc", "08P01"),
        (b"n,,n=,r=a b", "08P01"),
        (b"n,,n=,r=\x7f", "08P01"),
        (b"n,,n=,r=abc\0", "08P01"),
        (b"n,,n=,r=abc,", "08P01"),
        (b"n,,n=,r=abc,r=def", "08P01"),
        (b"n,,n=,r=abc,m=x", "08P01"),
        (b"n,,m=x,n=,r=abc", "08P01"),
        (b"x,,n=,r=abc", "08P01"),
        (b"n,a=bob,n=,r=abc", "0A000"),
        (b"n,,n=,r=\xff", "08P01"),
        (b"\xff,,n=,r=abc", "08P01"),
    ],
)
def test_a_malformed_first_message_is_refused(first: bytes, sqlstate: str) -> None:
    with pytest.raises(ClientProtocolError) as caught:
        ScramServerExchange("ann", PENCIL).first(SCRAM_SHA_256, first)
    assert caught.value.sqlstate == sqlstate


def test_an_optional_extension_is_ignored_and_still_covered_by_the_proof() -> None:
    server = ScramServerExchange("ann", PENCIL)
    bare = "n=,r=abc,x=later"
    final, answer = prove(b"pencil", bare, server.first(SCRAM_SHA_256, f"n,,{bare}".encode()).decode())
    assert server.final(final) == answer


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        (b"p=", b"", ClientProtocolError),
        (b",p=", b",p=!", ClientProtocolError),
        (b",p=", b",p=AAAA", ClientProtocolError),
        (b",r=abc", b",r=abd", ClientProtocolError),
        (b"c=biws", b"c=eSws", AuthenticationError),
        (b"c=biws", b"c=*", ClientProtocolError),
        (b"c=biws,", b"", ClientProtocolError),
        (b"c=biws", b"\xff", ClientProtocolError),
        (b",p=", b",x=y,p=", AuthenticationError),
    ],
)
def test_a_changed_final_message_is_refused(old: bytes, new: bytes, kind: type[ProxyError]) -> None:
    server = ScramServerExchange("ann", PENCIL)
    final, _ = prove(b"pencil", "n=,r=abc", server.first(SCRAM_SHA_256, b"n,,n=,r=abc").decode())
    assert old in final
    with pytest.raises(kind):
        server.final(final.replace(old, new, 1))


@settings(deadline=None)
@given(st.binary(max_size=60) | st.binary(max_size=30).map(lambda tail: b"n,,n=,r=a" + tail), st.binary())
def test_whatever_a_client_sends_it_gets_an_answer_or_our_own_error(first: bytes, final: bytes) -> None:
    with contextlib.suppress(ClientProtocolError, AuthenticationError):
        server = ScramServerExchange("ann", PENCIL)
        server.first(SCRAM_SHA_256, first)
        server.final(final)
        pytest.fail("logged in without the password")


# -- servers that misbehave ----------------------------------------------------------------------------------


def asked_with(iterations: str = "4096", *, nonce: str = "more", salt: str = "W22ZaJ0SNY7soEsUEjb6gQ==") -> None:
    client = ScramClientExchange(PASSWORD, [SCRAM_SHA_256], None)
    own = client.first()[1].decode().partition("r=")[2]
    client.response(f"r={own}{nonce},s={salt},i={iterations}".encode())


def test_the_servers_demands_are_met_within_bounds() -> None:
    asked_with("4096")


@pytest.mark.parametrize(
    "iterations",
    ["4095", "1", "0", "1000001", "4294967296", "9" * 400, "", "-1", "4e3", "04096", "4096,i=4096"],
)
def test_a_count_of_iterations_out_of_bounds_is_refused(iterations: str) -> None:
    with pytest.raises(ServerProtocolError):
        asked_with(iterations)


@pytest.mark.parametrize("change", [{"nonce": ""}, {"salt": ""}, {"salt": "*"}, {"salt": "AAAA"}])
def test_a_server_that_adds_no_nonce_or_no_salt_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(ServerProtocolError):
        asked_with(**change)


def test_a_server_that_does_not_know_the_password_is_found_out() -> None:
    client = ScramClientExchange(PASSWORD, [SCRAM_SHA_256], None)
    server = ScramServerExchange("ann", None)
    client.response(server.first(*client.first()))
    with pytest.raises(ServerProtocolError, match="did not prove"):
        client.verify(b"v=" + base64.b64encode(bytes(32)))


@pytest.mark.parametrize("mechanisms", [[], ["OAUTHBEARER"], [SCRAM_SHA_256_PLUS], ["SCRAM-SHA-512", "x" * 999]])
def test_a_server_without_a_mechanism_that_we_speak_is_refused_by_name(mechanisms: list[str]) -> None:
    with pytest.raises(AuthenticationError) as caught:
        ScramClientExchange(PASSWORD, mechanisms, None)
    assert ", ".join(mechanisms)[:100] in str(caught.value.detail)
    assert len(str(caught.value.detail)) < 300


@settings(deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_whatever_a_server_sends_it_is_our_own_error(first: bytes, final: bytes) -> None:
    client = ScramClientExchange(PASSWORD, [SCRAM_SHA_256], None)
    own = client.first()[1].partition(b"r=")[2]
    with pytest.raises(ServerProtocolError):
        client.response(first)
    client = ScramClientExchange(PASSWORD, [SCRAM_SHA_256], None)
    own = client.first()[1].partition(b"r=")[2]
    client.response(b"r=" + own + b"x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
    with pytest.raises(ServerProtocolError):
        client.verify(final)


def test_what_is_kept_of_a_login_is_not_the_password() -> None:
    password = "".join(["not ", "anybody ", "else's"])

    def log_in() -> bytes:
        client = ScramClientExchange(password, [SCRAM_SHA_256], None)
        nonce = client.first()[1].decode().partition("r=")[2]
        return client.response(f"r={nonce}more,s={base64.b64encode(SALT).decode()},i=4096".encode())

    before = sys.getrefcount(password)
    log_in()
    # It would stay in memory when it has long been rotated.
    assert sys.getrefcount(password) == before


def test_a_password_that_is_no_unicode_is_refused_and_no_part_of_it_is_told() -> None:
    client = ScramClientExchange("abc\ud83d", [SCRAM_SHA_256], None)
    nonce = client.first()[1].partition(b"r=")[2]
    with pytest.raises(AuthenticationError) as caught:
        client.response(b"r=" + nonce + b"x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
    assert "d83d" not in ascii(str(caught.value))
