"""Renew requirements.txt and requirements-build.txt: what the proxy's image is made of, each wheel by its hash.

    python proxy/lock_image.py

The versions are those that pip finds for the image's Python on both architectures. Hashes of wheels for the other
Pythons are there too, because the tests carry out the image's steps with the Python that runs them.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ARCHITECTURES = ("aarch64", "x86_64")
PYTHONS = ("3.13", "3.11", "3.12", "3.14")  # the image's first: its versions count
# Debian 13, the image's, has glibc 2.41.
PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
BUILD = ("setuptools", "Cython", "hypothesis", "pytest")
"""What the first stage needs: to build the wheel, and to test it."""

HEADER = "# Made by lock_image.py: {what}.\n"


def of_the_proxy() -> list[str]:
    """The requirements of the extra `proxy`, as pyproject.toml has them."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    found: list[str] = project["optional-dependencies"]["proxy"]
    return found


def resolve(requirements: list[str], python: str, architecture: str, *, dependencies: bool) -> list[Any]:
    """What pip would install, as its report has it. Parameters: `dependencies`, whether to look for them too."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
        command += itertools.chain.from_iterable(("--platform", f"{name}_{architecture}") for name in PLATFORMS)
        command += ["--target", folder, "--report", str(report), *requirements]
        command += [] if dependencies else ["--no-deps"]
        subprocess.run(command, check=True)
        found: list[Any] = json.loads(report.read_text())["install"]
        return found


def lock(requirements: list[str]) -> str:
    """The lines of a requirements file: each package once, with the hash of every wheel that may be needed."""
    versions: dict[str, str] = {}
    hashes: defaultdict[str, set[str]] = defaultdict(set)
    for python, architecture in itertools.product(PYTHONS, ARCHITECTURES):
        wanted = [f"{name}=={version}" for name, version in versions.items()] or requirements
        known = bool(versions)
        for package in resolve(wanted, python, architecture, dependencies=not known):
            name = package["metadata"]["name"].lower().replace("_", "-")
            version = versions.setdefault(name, package["metadata"]["version"])
            if version != package["metadata"]["version"]:
                raise SystemExit(f"{name}: {version} is not there for Python {python} on {architecture}")
            hashes[name].add(package["download_info"]["archive_info"]["hashes"]["sha256"])
    return "".join(
        f"{name}=={versions[name]} \\\n"
        + " \\\n".join(f"    --hash=sha256:{digest}" for digest in sorted(hashes[name]))
        + "\n"
        for name in sorted(versions)
    )


def main() -> None:
    runtime = HEADER.format(what="what the proxy runs on") + lock(of_the_proxy())
    build = HEADER.format(what="what its image is built and tested with") + lock(list(BUILD))
    (HERE / "requirements.txt").write_text(runtime, encoding="ascii")
    (HERE / "requirements-build.txt").write_text(build, encoding="ascii")


if __name__ == "__main__":
    main()
