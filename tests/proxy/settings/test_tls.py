"""The contexts, by real handshakes in memory, and the hash for channel binding against another
implementation."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from scramp import ScramClient, ScramException, ScramMechanism
from tests.proxy.settings.conftest import SERVER, Certificates, Load

from tidegate_proxy.certificates.keeper import CertificateKeeper
from tidegate_proxy.credentials.aws import Aws
from tidegate_proxy.settings import ConfigurationError, DatabaseSettings, Settings
from tidegate_proxy.settings.certificates import RDS_ROOTS
from tidegate_proxy.tls import ServerContexts, authorities_of, server_side_context, tls_server_end_point


def handshake(
    client: ssl.SSLContext, server: ssl.SSLContext, server_hostname: str | None = "localhost"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends after a TLS handshake; raises what the client or the server raised."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=server_hostname),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    pending = list(ends)
    while pending:
        for end in list(pending):
            try:
                end.do_handshake()
                pending.remove(end)
            except ssl.SSLWantReadError:
                pass
    return ends


def client_side_context(settings: Settings) -> ssl.SSLContext | None:
    shown = CertificateKeeper(settings, Aws(None)).current
    return None if shown is None else shown.context


@pytest.fixture
def served(load: Load, certificates: Certificates) -> Settings:
    return load('client_tls_cert = "server.pem"\nclient_tls_key = "server.key"\n' + SERVER)


@pytest.fixture
def server_context(served: Settings) -> ssl.SSLContext:
    context = client_side_context(served)
    assert context is not None
    return context


def towards(tls: str, ca: Path | None = None) -> ssl.SSLContext:
    context = server_side_context(DatabaseSettings.model_validate({"host": "h", "tls": tls, "tls_ca": ca}))
    assert context is not None
    return context


def test_without_a_certificate_loopback_has_no_tls(load: Load) -> None:
    assert client_side_context(load(SERVER)) is None


def test_disabled_is_disabled_whatever_else_is_set(load: Load, certificates: Certificates) -> None:
    settings = load('client_tls = "disable"\nclient_tls_cert = "both.pem"\n' + SERVER)
    assert client_side_context(settings) is None
    assert server_side_context(DatabaseSettings(host="h", tls="disable")) is None


def test_a_verifying_client_gets_in_and_both_agree_on_the_protocol(
    server_context: ssl.SSLContext, certificates: Certificates
) -> None:
    for tls in ("require", "verify-ca", "verify-full"):
        ca = None if tls == "require" else certificates.folder / "ca.pem"
        ends = handshake(towards(tls, ca), server_context)
        assert [end.selected_alpn_protocol() for end in ends] == ["postgresql", "postgresql"]
        assert ends[0].version() == "TLSv1.3"


def test_a_combined_file_holds_certificate_and_key(load: Load, certificates: Certificates) -> None:
    context = client_side_context(load('client_tls_cert = "both.pem"\n' + SERVER))
    assert context is not None
    handshake(towards("verify-full", certificates.folder / "ca.pem"), context)


def test_a_client_that_knows_nothing_of_alpn_still_gets_in(server_context: ssl.SSLContext) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    client, _ = handshake(old, server_context)
    assert (client.version(), client.selected_alpn_protocol()) == ("TLSv1.2", None)


def test_a_returning_client_resumes_its_session(server_context: ssl.SSLContext) -> None:
    context = towards("require")
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # 1.3 sends tickets only with the first data
    first, _ = handshake(context, server_context)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    again = context.wrap_bio(to_client, to_server, server_hostname="localhost", session=first.session)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for end in (again, server, again, server):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert again.session_reused


def test_old_tls_versions_are_refused_on_both_sides(server_context: ssl.SSLContext) -> None:
    for context in (server_context, towards("require")):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_verify_full_refuses_another_host_name_and_verify_ca_does_not(
    server_context: ssl.SSLContext, certificates: Certificates
) -> None:
    ca = certificates.folder / "ca.pem"
    handshake(towards("verify-ca", ca), server_context, "elsewhere.example.com")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(towards("verify-full", ca), server_context, "elsewhere.example.com")


def test_a_certificate_of_unknown_origin_is_refused_unless_only_encryption_was_asked(
    server_context: ssl.SSLContext,
) -> None:
    handshake(towards("require"), server_context)
    for tls in ("verify-ca", "verify-full"):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(towards(tls), server_context)


def test_files_that_went_bad_after_the_start_are_named(served: Settings, certificates: Certificates) -> None:
    ca = certificates.folder / "ca.pem"
    database = DatabaseSettings(host="h", tls_ca=ca)
    ca.write_text("")
    with pytest.raises(ConfigurationError, match=r"^tls_ca .*/ca\.pem: cannot be used: "):
        server_side_context(database)
    (certificates.folder / "server.key").unlink()
    with pytest.raises(ConfigurationError, match=r"^client_tls_cert .*/server\.key cannot be read: No such file or"):
        client_side_context(served)


def test_a_server_of_rds_is_verified_against_rds_authorities_unless_others_are_named() -> None:
    def authorities(host: str, **keywords: object) -> Path | None:
        return authorities_of(DatabaseSettings.model_validate({"host": host} | keywords))

    assert authorities("shop.abc.eu-west-1.rds.amazonaws.com") == RDS_ROOTS
    assert authorities("SHOP.cluster-ro-abc.us-east-1.rds.amazonaws.com.") == RDS_ROOTS
    assert authorities("shop.proxy-abc.eu-west-1.rds.amazonaws.com") is None
    assert authorities("rds.amazonaws.com.example.org") is None
    assert authorities("db.example.com", tls_ca="rds") == RDS_ROOTS
    context = server_side_context(DatabaseSettings(host="shop.abc.eu-west-1.rds.amazonaws.com"))
    assert context is not None
    found: list[Any] = context.get_ca_certs()
    names = {value for ca in found for part in ca["subject"] for _, value in part}
    assert "Amazon RDS eu-west-1 Root CA RSA2048 G1" in names


def test_the_word_rds_in_a_file_is_no_path(load: Load) -> None:
    assert load(SERVER + 'tls_ca = "rds"\n').databases["app"].tls_ca == RDS_ROOTS


def test_the_proxys_authorities_of_rds_are_the_layers() -> None:
    files = sorted(Path("lambda_layer/tidegate/roots").glob("*-*-*.pem"))
    assert RDS_ROOTS.read_text() == "".join(path.read_text() for path in files)
    assert len(files) >= 20


def test_changed_authorities_count_for_the_next_connection_and_bad_ones_are_logged_once(
    server_context: ssl.SSLContext, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    ca = certificates.folder / "ca.pem"
    good = ca.read_bytes()
    trustme.CA().cert_pem.write_to_path(str(ca))
    contexts = ServerContexts()
    database = DatabaseSettings(host="localhost", tls_ca=ca)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(contexts.of(database), server_context)  # type: ignore[arg-type]
    ca.write_bytes(good + b"\n")
    handshake(contexts.of(database), server_context)  # type: ignore[arg-type]
    assert contexts.of(database) is contexts.of(database.model_copy(update={"port": 1}))
    ca.write_bytes(b"nothing")
    for _ in range(3):
        handshake(contexts.of(database), server_context)  # type: ignore[arg-type]
    assert [record.getMessage() for record in caplog.records] == [
        f"tls_ca {ca}: cannot be used: NO_CERTIFICATE_OR_CRL_FOUND; servers are verified against what it held before"
    ]


def test_the_names_of_the_clients_authorities_are_in_no_handshake(load: Load, certificates: Certificates) -> None:
    """They would make each one larger; clients do not need them."""
    context = client_side_context(
        load('client_tls = "require"\nclient_tls_cert = "both.pem"\nclient_tls_ca = "ca.pem"\n' + SERVER)
    )
    assert context is not None
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.maximum_version = ssl.TLSVersion.TLSv1_2  # whose handshakes can be read
    certificates.authority.issue_cert("app").configure_cert(client)
    to_server, to_client, seen = ssl.MemoryBIO(), ssl.MemoryBIO(), b""
    ends = (client.wrap_bio(to_client, to_server), context.wrap_bio(to_server, to_client, server_side=True))
    for turn in range(6):
        with contextlib.suppress(ssl.SSLWantReadError):
            ends[turn % 2].do_handshake()
        if turn == 1:
            seen = to_client.read()
            to_client.write(seen)
    assert ends[1].getpeercert(), "the client was asked for its certificate"
    ca = x509.load_pem_x509_certificate((certificates.folder / "ca.pem").read_bytes())
    certificate_itself = ssl.PEM_cert_to_DER_cert((certificates.folder / "server.pem").read_text())
    assert ca.subject.public_bytes() not in seen.replace(certificate_itself, b"")


def self_signed(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, algorithm: hashes.SHA384 | None
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    return builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, algorithm)


def test_channel_binding_data_is_the_hash_that_the_signature_uses(certificates: Certificates) -> None:
    sha256 = ssl.PEM_cert_to_DER_cert((certificates.folder / "server.pem").read_text())
    assert tls_server_end_point(sha256) == hashlib.sha256(sha256).digest()
    sha384 = self_signed(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384())
    der = sha384.public_bytes(serialization.Encoding.DER)
    assert tls_server_end_point(der) == hashlib.sha384(der).digest()


@pytest.mark.parametrize("tampered", [False, True])
def test_a_client_that_binds_to_the_tls_channel_agrees_with_our_data(
    server_context: ssl.SSLContext, certificates: Certificates, tampered: bool
) -> None:
    client_end, _ = handshake(towards("require"), server_context)
    der = ssl.PEM_cert_to_DER_cert((certificates.folder / "server.pem").read_text())
    data = tls_server_end_point(der)
    if tampered:
        data = bytes(reversed(data))
    mechanism = ScramMechanism("SCRAM-SHA-256-PLUS")
    known = mechanism.make_auth_info("password")
    server = mechanism.make_server(lambda _: known, channel_binding=("tls-server-end-point", data))
    client = ScramClient(["SCRAM-SHA-256-PLUS"], "u", "password", channel_binding=("tls-server-end-point", client_end))
    server.set_client_first(client.get_client_first())
    client.set_server_first(server.get_server_first())
    if tampered:
        with pytest.raises(ScramException, match="channel bindings"):
            server.set_client_final(client.get_client_final())
    else:
        server.set_client_final(client.get_client_final())
        client.set_server_final(server.get_server_final())


def test_channel_binding_is_refused_where_it_is_not_defined() -> None:
    ed = self_signed(ed25519.Ed25519PrivateKey.generate(), None)
    for bad in (ed.public_bytes(serialization.Encoding.DER), b"", b"no certificate"):
        with pytest.raises(ValueError):  # noqa: PT011 - the promise is the type alone
            tls_server_end_point(bad)
