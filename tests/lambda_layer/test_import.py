"""The import budget: `import tidegate` is `import psycopg` and a few small modules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LAYER = Path(__file__).parents[2] / "lambda_layer"

# Standard library modules that the layer may import beyond those that psycopg brings. Each costs every cold start.
ALLOWED: set[str] = set()


def modules_after(statement: str) -> set[str]:
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(LAYER)}
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment, timeout=60
    )
    return set(json.loads(output.stdout))


def test_import_brings_psycopg_and_our_own_modules_and_nothing_else() -> None:
    added = modules_after("import tidegate") - modules_after("import psycopg")
    assert {name for name in added if name.split(".")[0] != "tidegate"} <= ALLOWED


def test_the_only_third_party_packages_are_psycopg_and_what_it_needs() -> None:
    packages = {name.split(".")[0] for name in modules_after("import tidegate") - modules_after("pass")}
    third_party = packages - set(sys.stdlib_module_names) - {"tidegate"}
    # Cython's runtime registers modules of its own, which no file stands behind.
    third_party = {name for name in third_party if not name.startswith(("_cython_", "cython_runtime", "_sysconfig"))}
    assert third_party <= {"psycopg", "psycopg_binary", "psycopg_c", "typing_extensions"}
    assert "psycopg" in third_party


def test_nothing_happens_at_import_not_even_with_a_bad_environment() -> None:
    code = "import threading, tidegate; assert threading.active_count() == 1"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(LAYER), "TIDEGATE_PORT": "nonsense"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


SIGN = """
from tidegate.config import resolve
from tidegate.passwords import password_source
config = resolve({"host": "db.example", "dbname": "shop", "user": "orders", "auth": "AUTH", "region": "eu-west-1"}, {})
import os
os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret", AWS_SESSION_TOKEN="token")
assert password_source(config).password()
"""


@pytest.mark.parametrize("auth", ["rds-iam", "tidegate-iam"])
def test_signing_a_token_takes_hmac_and_hashlib_and_no_http_client_let_alone_an_sdk(auth: str) -> None:
    program = SIGN.replace("AUTH", auth)
    added = modules_after(f"exec({program!r})") - modules_after("import tidegate")
    packages = {name for name in added if name.split(".")[0] != "tidegate"}
    assert packages <= {"hmac", "hashlib", "_hashlib", "_blake2", "_sha3", "base64", "urllib", "urllib.parse"}
