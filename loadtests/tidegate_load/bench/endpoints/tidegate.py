"""Tidegate's proxy, its core compiled or interpreted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from tidegate_load.bench.endpoints.base import PoolerEndpoint, Setup
from tidegate_load.bench.identity import PRINCIPAL, PROXY_ID, REGION
from tidegate_load.bench.stage import DATABASE, HOST, USER, Stage
from tidegate_load.clean_environment import clean_environment

CORE = "TIDEGATE_PROXY_CORE"
"""Environment variable that chooses between the compiled and the interpreted core."""

_COMMAND = [sys.executable, "-m", "tidegate_proxy"]
_REUSE_AFTER = 5


class Tidegate(PoolerEndpoint):
    """The proxy, in one process or as several workers.

    Parameters: `core`, "compiled" or "interpreted".
    """

    as_nobody = False
    knows_iam = True
    shares_port = True

    def __init__(self, core: str) -> None:
        self._core = core
        self.key = f"tidegate-{core}"
        self.title = f"Tidegate {core}"

    @cached_property
    def _said(self) -> str | None:
        """What --version says when this core is asked for; None when it is refused."""
        done = subprocess.run(
            [*_COMMAND, "--version"],
            env=clean_environment() | {CORE: self._core},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.stdout.strip() if done.returncode == 0 else None

    @property
    def _names_its_core(self) -> bool:
        return self._said is not None and ("compiled" in self._said or "interpreted" in self._said)

    def version(self) -> str | None:
        said = self._said
        if said is None or (self._core not in said and (self._names_its_core or self._core == "compiled")):
            return None
        return said

    def absence(self) -> str:
        return "not built" if self._core == "compiled" else "the proxy refuses to run interpreted"

    def environment(self) -> Mapping[str, str]:
        return {CORE: self._core} if self._names_its_core else {}

    def command(self, stage: Stage, setup: Setup, folder: Path, port: int) -> list[str | Path]:
        file = folder / "proxy.toml"
        file.touch(mode=0o600)  # it holds a password
        file.write_text(_configuration(stage, setup, port))
        return [*_COMMAND, "serve", file]


def _configuration(stage: Stage, setup: Setup, port: int) -> str:
    # A JSON string is a valid TOML basic string.
    tls = f'"require"\nclient_tls_cert = {json.dumps(str(stage.certificate))}' if setup.tls else '"disable"'
    return f"""\
listen_host = "{HOST}"
listen_port = {port}
client_tls = {tls}
workers = {setup.processes}
default_pool_size = {setup.pool_size // setup.processes}
reserve_pool_size = 0
log_level = "warning"
max_client_conn = {setup.clients + 100}
reuse_unnamed_statements_after = {_REUSE_AFTER if setup.reuse else 0}

[databases.{DATABASE}]
host = "{stage.server.host}"
port = {stage.server.port}
tls = "disable"

[users.{USER}]
password = {json.dumps(stage.password)}
{_iam(stage, setup) if setup.iam else ""}"""


def _iam(stage: Stage, setup: Setup) -> str:
    return f"""
[iam]
region = "{REGION}"
proxy_id = "{PROXY_ID}"
sts_endpoint = "{stage.identities(setup.clients).url}"

[[iam.rules]]
principal = "{PRINCIPAL}"
users = ["{USER}"]
"""
