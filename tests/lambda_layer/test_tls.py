"""Which certificates count, and that the server's is really verified against them."""

from __future__ import annotations

import datetime
import importlib.util
import ssl
import sys
from pathlib import Path
from types import ModuleType

import psycopg
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from tests.lambda_layer.helpers import TlsFront, connected
from tests.support.certificates import self_issued
from tests.support.postgres import Database

import tidegate
from tidegate import tls
from tidegate.config import resolve

LAYER = Path(__file__).parents[2] / "lambda_layer"


def roots_for(host: str, **settings: object) -> str | None:
    return resolve({"host": host, "dbname": "shop", "user": "orders", **settings}, {}).sslrootcert


@pytest.mark.parametrize(
    ("host", "file"),
    [
        ("shop.c0ffee.eu-west-1.rds.amazonaws.com", "eu-west-1.pem"),
        ("shop.cluster-c0ffee.us-east-2.rds.amazonaws.com", "us-east-2.pem"),
        ("SHOP.cluster-ro-c0ffee.US-EAST-2.rds.amazonaws.com.", "us-east-2.pem"),
        ("proxy-like-name.c0ffee.eu-west-1.rds.amazonaws.com", "eu-west-1.pem"),
        ("shop.proxy-c0ffee.eu-west-1.rds.amazonaws.com", "amazon.pem"),
        ("reader.endpoint.proxy-c0ffee.eu-west-1.rds.amazonaws.com", "amazon.pem"),
    ],
)
def test_the_name_of_an_rds_host_chooses_the_authorities_that_issue_its_certificate(host: str, file: str) -> None:
    assert roots_for(host) == str(tls.ROOTS / file)


@pytest.mark.parametrize(
    "host", ["db.example", "shop.eu-west-1.rds.amazonaws.com.example", "10.0.0.1", "rds.amazonaws.com", "localhost"]
)
def test_any_other_host_has_a_certificate_of_a_public_authority(host: str) -> None:
    assert roots_for(host) in (*tls.SYSTEM_ROOTS, "system")


@pytest.mark.parametrize(
    "host", ["shop.c0ffee.xx-west-9.rds.amazonaws.com", "shop.c0ffee.rds.cn-north-1.amazonaws.com.cn"]
)
def test_a_region_without_shipped_certificates_is_said_before_connecting(host: str) -> None:
    with pytest.raises(tidegate.ConfigurationError, match="TIDEGATE_SSLROOTCERT=/var/task/"):
        roots_for(host)
    assert roots_for(host, sslmode="require") is None
    assert roots_for(host, sslrootcert="system") in (*tls.SYSTEM_ROOTS, "system")


def test_words_and_files_go_before_the_hosts_name(tmp_path: Path) -> None:
    host = "shop.proxy-c0ffee.eu-west-1.rds.amazonaws.com"
    assert roots_for(host, sslrootcert="rds") == str(tls.ROOTS / "eu-west-1.pem")
    tunnel = {"host": "tunnel.example", "sslrootcert": "rds", "sslmode": "verify-ca"}
    assert roots_for(**tunnel, region="eu-west-3") == str(tls.ROOTS / "eu-west-3.pem")
    with pytest.raises(tidegate.ConfigurationError, match="TIDEGATE_REGION=eu-west-1"):
        roots_for(**tunnel)
    assert roots_for(host, sslrootcert="system") in (*tls.SYSTEM_ROOTS, "system")
    file = tmp_path / "ca.pem"
    with pytest.raises(tidegate.ConfigurationError, match=r"ca\.pem cannot be read"):
        roots_for(host, sslrootcert=file)
    file.touch()
    assert roots_for(host, sslrootcert=file) == str(file)


# -- a real handshake ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def front(authority: trustme.CA, database: Database, name: str = "localhost") -> TlsFront:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return TlsFront(context, int(str(database.parameters["port"])))


def test_a_certificate_of_the_named_authority_is_accepted(
    database: Database, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    settings = {"host": "localhost", "sslmode": None, "sslrootcert": str(tmp_path / "ca.pem")}
    with front(authority, database) as server, connected(database, port=server.port, **settings) as db:
        with db.connection() as conn:
            assert conn.info.dbname == database.name
        assert server.attempts == 1


@pytest.mark.parametrize("roots", ["rds", "system"])
def test_a_certificate_of_an_authority_that_is_not_trusted_is_refused(
    database: Database, authority: trustme.CA, roots: str
) -> None:
    settings = {"host": "localhost", "sslmode": None, "sslrootcert": roots, "region": "eu-west-1"}
    with front(authority, database) as server, connected(database, port=server.port, **settings) as db:
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"), db.connection():
            pass
        assert server.attempts > 0


def test_another_hosts_certificate_of_the_right_authority_is_refused(
    database: Database, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    settings = {"host": "localhost", "sslmode": None, "sslrootcert": str(tmp_path / "ca.pem")}
    with (
        front(authority, database, "other.example") as server,
        connected(database, port=server.port, **settings) as db,
        pytest.raises(psycopg.OperationalError, match="does not match host name"),
        db.connection(),
    ):
        pass


# -- the shipped certificates -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refresh() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refresh_roots", LAYER / "refresh_roots.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_shipped_certificate_is_an_authority_that_signed_itself_and_lasts(refresh: ModuleType) -> None:
    now = datetime.datetime.now(datetime.UTC)
    files = {path.name: refresh.parse(path.read_bytes()) for path in tls.ROOTS.glob("*.pem")}
    for each in (certificate for found in files.values() for certificate in found):
        refresh.verify(each, now)
    for name in files.keys() - {"amazon.pem"}:
        region = name.removesuffix(".pem")
        assert files[name], name
        assert all(f"Amazon RDS {region} Root CA" in refresh.common_name(each) for each in files[name])
    fingerprints = {each.fingerprint(hashes.SHA256()) for found in files.values() for each in found}
    assert len(fingerprints) == sum(map(len, files.values()))


def test_openssl_reads_the_shipped_files_as_they_are(refresh: ModuleType) -> None:
    for path in tls.ROOTS.glob("*.pem"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(path)
        assert len(context.get_ca_certs()) == len(refresh.parse(path.read_bytes()))


def test_what_is_shipped_comes_out_of_its_own_bundle_again(refresh: ModuleType, tmp_path: Path) -> None:
    all_regions = tmp_path / "all" / "rds.pem"
    all_regions.parent.mkdir()
    assert refresh.write(bundle(), tmp_path, all_regions) >= 20
    assert all_regions.read_bytes() == bundle() == refresh.PROXY_ROOTS.read_bytes()
    assert {path.name: path.read_text() for path in tmp_path.glob("*.pem")} == {
        path.name: path.read_text() for path in tls.ROOTS.glob("*.pem")
    }


def test_a_bundle_with_anything_else_in_it_changes_nothing(refresh: ModuleType, tmp_path: Path) -> None:
    leaf = trustme.CA().issue_cert("db.example").cert_chain_pems[0].bytes()
    for content, complaint in (
        (b"<html>", "PEM"),
        (leaf, "regions only"),
        ((tls.ROOTS / "us-east-1.pem").read_bytes(), "regions only"),
        (bundle() + forged_root(), "not a certificate authority"),
    ):
        with pytest.raises(refresh.BundleError, match=complaint):
            refresh.write(content, tmp_path, tmp_path / "all")
    assert list(tmp_path.iterdir()) == []
    assert "tidegate.refresh_roots" not in sys.modules


def bundle() -> bytes:
    """What AWS publishes for all regions together."""
    return b"".join(path.read_bytes() for path in sorted(tls.ROOTS.glob("*-*-*.pem")))


def forged_root() -> bytes:
    """Names itself like an authority of RDS, but is none."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        self_issued("Amazon RDS us-east-1 Root CA RSA2048 G9", key, days=4000)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)
