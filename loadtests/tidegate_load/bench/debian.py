"""Debian's packages by apt, with lists of our own: nothing of the system's is changed, and no root is needed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

_TIMEOUT = 900.0  # seconds for any one step

# The hooks would clean the system's own cache; the rest of the system's settings holds (proxies, keyrings, ...).
_CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Default-Release "";
APT::Install-Recommends "false";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "2";
Dir::State::lists "{folder}/lists";
Dir::State::extended_states "{folder}/extended_states";
Dir::State::status "/dev/null";
Dir::Cache "{folder}/cache";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
"""

_OWN_ARCHIVE = """\
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{folder}/sources";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"""

_NOT_COPIED = {"types", "uris", "suites", "components", "enabled", "targets"}


class PackagesError(Exception):
    """Packages could not be had; one line that says what and, where it is known, the remedy."""


class Apt:
    """One suite of Debian as an empty system sees it.

    Parameters: `folder` for lists and caches, kept from one time to the next; `suite`.
    Raises: PackagesError when apt is set up with no archive of Debian's, OSError.
    """

    def __init__(self, folder: Path, suite: str) -> None:
        for name in ("lists/partial", "cache/archives/partial", "sources"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._system = folder / "system.conf"
        self._system.write_text(_CONFIGURATION.format(folder=folder))
        self._own = folder / "own.conf"
        self._own.write_text((_CONFIGURATION + _OWN_ARCHIVE).format(folder=folder))
        self._sources = folder / "sources"
        self.archive = self._choose_archive(suite)

    def update(self) -> None:
        """Fetch what has changed of the suite's list of packages. Raises: PackagesError."""
        run(["apt-get", "-c", self._own, "-qq", "update"], f"{self.archive} cannot be read")

    def known(self, names: Iterable[str]) -> list[str]:
        """Those packages that the suite has. Raises: PackagesError."""
        listed = set(run(["apt-cache", "-c", self._own, "pkgnames"], "apt's list cannot be read").split())
        return [name for name in names if name in listed]

    def resolve(self, names: Sequence[str]) -> dict[str, str]:
        """Versions, by name, of packages and of all that they depend on. Raises: PackagesError."""
        output = run(["apt-get", "-c", self._own, "-qq", "--simulate", "install", *names], "apt cannot resolve them")
        return dict(re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+)", output, re.MULTILINE))

    def libraries(self, packages: dict[str, str]) -> set[str]:
        """Which of these packages are libraries. Raises: PackagesError."""
        words = [f"{name}={version}" for name, version in packages.items()]
        output = run(["apt-cache", "-c", self._own, "show", *words], "apt's list cannot be read")
        found = set()
        for stanza in output.split("\n\n"):
            fields = dict(re.findall(r"^(\S+): (.*)", stanza, re.MULTILINE))
            if fields.get("Section", "").rpartition("/")[2] == "libs":
                found.add(fields["Package"])
        return found

    def download(self, packages: dict[str, str], folder: Path) -> None:
        """Fetch packages as files; apt verifies them. Raises: PackagesError."""
        words = [f"{name}={version}" for name, version in packages.items()]
        run(["apt-get", "-c", self._own, "-qq", "download", *words], "they cannot be fetched", folder)

    def _choose_archive(self, suite: str) -> str:
        """Name the archive of Debian's that the system uses, with its options (keyring, ...), but another suite."""
        columns = "$(ORIGIN)|$(LABEL)|$(REPO_URI)|$(SOURCESENTRY)"
        targets = ["indextargets", "--format", columns, "Created-By: Packages"]
        listed = run(["apt-get", *targets], "apt does not say what it is set up with")
        if not listed.strip():  # its lists are empty, as in most images: only their Release files say what they are
            run(["apt-get", "-c", self._system, "-qq", "update"], "what apt is set up with cannot be read")
            listed = run(["apt-get", "-c", self._system, *targets], "apt does not say what it is set up with")
        for line in listed.splitlines():
            origin, label, address, entry = line.split("|")
            if origin == label == "Debian":
                break
        else:
            raise PackagesError("apt is set up with no archive of Debian's")
        file, _, number = entry.rpartition(":")
        text = Path(file).read_text()
        for old in self._sources.iterdir():
            old.unlink()
        if file.endswith(".sources"):
            stanza = [each for each in re.split(r"\n\s*\n", _uncommented(text)) if each.strip()][int(number) - 1]
            fields = re.findall(r"^(\S+):((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE)
            kept = [f"{name}:{value}" for name, value in fields if name.lower() not in _NOT_COPIED]
            own = ["Types: deb", f"URIs: {address}", f"Suites: {suite}", "Components: main", "Targets: Packages"]
            (self._sources / "own.sources").write_text("\n".join([*own, *kept]) + "\n")
        else:
            options = re.match(r"\s*deb(?:-src)?\s+\[([^]]*)\]", text.splitlines()[int(number) - 1])
            words = f"{options[1] if options else ''} target=Packages"
            (self._sources / "own.list").write_text(f"deb [{words}] {address} {suite} main\n")
        return address


def _uncommented(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def run(arguments: Sequence[str | Path], problem: str, folder: Path | None = None) -> str:
    """Run a program to its end; its output. Raises: PackagesError with `problem` and the program's own words."""
    try:
        done = subprocess.run(
            arguments,
            cwd=folder,
            env=os.environ | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise PackagesError(f"{problem}: {arguments[0]} took more than {_TIMEOUT:.0f} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"{arguments[0]} ended with {done.returncode}"]
        said = next((line for line in lines if line.startswith("E:")), lines[-1])
        raise PackagesError(f"{problem}: {said.removeprefix('E: ')}")
    return done.stdout
