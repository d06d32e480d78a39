"""Certificates of an authority of the tests' own, and PostgreSQL behind TLS."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from tests.proxy.lifecycle.tls_relay import TLSRelay


@dataclass(frozen=True)
class Authority:
    """Files: `ca`, and `certificate` with its `key` for localhost and 127.0.0.1."""

    ca: Path
    certificate: Path
    key: Path
    authority: trustme.CA

    def context(self, *names: str) -> ssl.SSLContext:
        """A TLS server's context with a certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*names).configure_cert(context)
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("authority")
    made = trustme.CA()
    issued = made.issue_cert("localhost", "127.0.0.1")
    files = Authority(folder / "ca.pem", folder / "server.pem", folder / "server.key", made)
    made.cert_pem.write_to_path(str(files.ca))
    issued.cert_chain_pems[0].write_to_path(str(files.certificate))
    issued.private_key_pem.write_to_path(str(files.key))
    return files


@pytest.fixture
def tls_relay() -> Iterator[Callable[[int, ssl.SSLContext], TLSRelay]]:
    """Makes TLS ends in front of a loopback port; all are closed after the test."""
    with ExitStack() as stack:

        def make(port: int, context: ssl.SSLContext) -> TLSRelay:
            return stack.enter_context(TLSRelay(port, context))

        yield make
