"""Certificates, and a shorthand that loads settings from text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from tidegate_proxy.settings import Settings, load_settings

Load = Callable[..., Settings]

SERVER = '[databases.app]\nhost = "db.example.com"\n'
"""The least that a file must say."""


@dataclass(frozen=True)
class Certificates:
    """Files in one folder, so that a configuration file beside them names them by their base names."""

    folder: Path
    authority: trustme.CA


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificates(authority: trustme.CA, tmp_path: Path) -> Certificates:
    """ca.pem; server.pem with server.key; other.key; both.pem; expired.pem and future.pem with their keys."""
    server, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
    expired = authority.issue_cert("localhost", not_after=datetime(2020, 1, 2, tzinfo=UTC))
    future = authority.issue_cert("localhost", not_before=datetime(2098, 1, 2, tzinfo=UTC))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name, certificate in {"server": server, "expired": expired, "future": future}.items():
        certificate.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
        certificate.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
    other.private_key_pem.write_to_path(str(tmp_path / "other.key"))
    server.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    return Certificates(tmp_path, authority)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load(text, variables)` loads `text` as tidegate.toml in the test's folder."""

    def load_text(text: str, variables: Mapping[str, str] | None = None) -> Settings:
        file = tmp_path / "tidegate.toml"
        file.write_text(text)
        return load_settings(file, variables or {})

    return load_text
