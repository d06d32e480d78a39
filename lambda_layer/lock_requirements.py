"""Renew requirements.txt: the newest versions of what the layer is built from, with the hash of every wheel it needs.

python lambda_layer/lock_requirements.py
"""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from build_layer import ARCHITECTURES, HERE, PYTHONS, platforms

PACKAGES = ("psycopg", "psycopg-binary", "typing-extensions", "aws-lambda-powertools", "jmespath")

# The layer's tests build it for the interpreter that runs them.
TEST_PYTHONS = ("3.11",)

HEADER = "# Made by lock_requirements.py. What the layer is built from, and nothing else.\n"


def download(arch: str, python: str, pinned: list[str], folder: Path) -> None:
    """Have pip put the wheels for one combination into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += itertools.chain.from_iterable(("--platform", platform) for platform in platforms(arch))
    command += ["--python-version", python, "--implementation", "cp", "--dest", str(folder), *pinned]
    subprocess.run(command, check=True)


def main() -> None:
    versions: dict[str, str] = {}
    hashes: defaultdict[str, set[str]] = defaultdict(set)
    with tempfile.TemporaryDirectory() as name:
        for arch, python in itertools.product(ARCHITECTURES, (*PYTHONS, *TEST_PYTHONS)):
            folder = Path(name) / f"{arch}-{python}"
            pinned = [f"{package}=={versions[package]}" if versions else package for package in PACKAGES]
            download(arch, python, pinned, folder)
            for wheel in folder.iterdir():
                distribution, version = wheel.name.split("-")[:2]
                package = distribution.replace("_", "-").lower()
                versions[package] = version
                hashes[package].add(hashlib.sha256(wheel.read_bytes()).hexdigest())
    lines = [
        f"{package}=={versions[package]} \\\n"
        + " \\\n".join(f"    --hash=sha256:{digest}" for digest in sorted(hashes[package]))
        for package in PACKAGES
    ]
    (HERE / "requirements.txt").write_text(HEADER + "\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
