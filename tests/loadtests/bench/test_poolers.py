"""`make poolers` against a real archive on disk: what is fetched, what is not again, and what a failure leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = "#!/bin/sh\necho PgBouncer {version}\n"
CONTROL = """\
Package: pgbouncer
Version: {version}
Architecture: all
Maintainer: nobody <nobody@example.org>
Section: database
Description: tells its version
"""
RELEASE = """\
Origin: Debian
Label: Debian
Suite: {suite}
Codename: {suite}
Architectures: {architecture}
Components: main
"""


class Archive:
    """An archive with a stable suite, which apt is set up with, and an unstable one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.target = folder / "work" / "poolers"
        self.target.parent.mkdir()
        self._root = folder / "archive"
        self._index("stable", CONTROL.format(version="1.18.0") + "Filename: ./nowhere.deb\nSize: 1\nSHA256: 0\n")
        system = folder / "system"
        for name in ("lists/partial", "cache/archives/partial", "sources"):
            (system / name).mkdir(parents=True)
        (system / "sources" / "debian.sources").write_text(
            f"# a comment\n\nTypes: deb\nURIs: file:{self._root}\nSuites: stable\nComponents: main\nTrusted: yes\n"
        )
        self._configuration = system / "apt.conf"
        self._configuration.write_text(
            f'Dir::State::lists "{system}/lists";\nDir::Cache "{system}/cache";\nDir::Etc::sourcelist "/dev/null";\n'
            f'Dir::Etc::sourceparts "{system}/sources";\nDir::Etc::parts "/dev/null";\nDir::Etc::main "/dev/null";\n'
            # pytest's folders are closed to the user that apt would take as root.
            'APT::Sandbox::User "root";\n'
        )

    def publish(self, version: str) -> None:
        """Have the unstable suite offer this version alone."""
        package = self._folder / f"package-{version}"
        program = package / "usr/sbin/pgbouncer"
        program.parent.mkdir(parents=True)
        program.write_text(SCRIPT.format(version=version))
        program.chmod(0o755)
        (package / "DEBIAN").mkdir()
        control = CONTROL.format(version=version)
        (package / "DEBIAN/control").write_text(control)
        for path in (package, *package.rglob("*")):
            path.chmod(0o755)
        file = self._root / f"pgbouncer_{version}_all.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", package, file], check=True, capture_output=True)
        digest = subprocess.run(["sha256sum", file], check=True, capture_output=True, text=True).stdout.split()[0]
        size = file.stat().st_size
        self._index("unstable", f"{control}Filename: {file.name}\nSize: {size}\nSHA256: {digest}\n")

    def _index(self, suite: str, packages: str) -> None:
        architecture = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
        folder = self._root / "dists" / suite
        index = folder / "main" / f"binary-{architecture}" / "Packages"
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_text(packages)
        digest = subprocess.run(["sha256sum", index], check=True, capture_output=True, text=True).stdout.split()[0]
        line = f"SHA256:\n {digest} {index.stat().st_size} {index.relative_to(folder)}\n"
        (folder / "Release").write_text(RELEASE.format(suite=suite, architecture=architecture) + line)

    def remove(self) -> None:
        """Nobody reaches it any more."""
        shutil.rmtree(self._root)

    def fetch(self) -> subprocess.CompletedProcess[str]:
        """The command, with a path relative to where one stands."""
        return subprocess.run(
            [sys.executable, "-m", "tidegate_load.bench.cli", "poolers", "--folder", self.target.name],
            cwd=self.target.parent,
            env=os.environ | {"APT_CONFIG": str(self._configuration)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    for path in (tmp_path, *tmp_path.parents):
        if os.geteuid() == 0 and not path.stat().st_mode & 0o001:  # the user that runs poolers gets in
            path.chmod(0o711)
    return Archive(tmp_path)


def test_the_newest_is_fetched_once_and_a_newer_one_replaces_it(archive: Archive) -> None:
    archive.publish("1.26.1")
    done = archive.fetch()
    assert done.returncode == 0, done.stderr
    assert "Not in unstable: odyssey, pgagroal." in done.stdout
    program = archive.target / "bin" / "pgbouncer"
    assert subprocess.check_output([program], text=True) == "PgBouncer 1.26.1\n"
    first = program.resolve()

    done = archive.fetch()
    assert done.returncode == 0, done.stderr
    assert "Fetching" not in done.stdout
    assert program.resolve() == first

    archive.publish("1.27.0")
    done = archive.fetch()
    assert done.returncode == 0, done.stderr
    assert subprocess.check_output([program], text=True) == "PgBouncer 1.27.0\n"
    assert not first.exists()


def test_an_archive_out_of_reach_is_one_error_and_changes_nothing(archive: Archive) -> None:
    archive.publish("1.26.1")
    assert archive.fetch().returncode == 0
    archive.remove()
    done = archive.fetch()
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be read" in done.stderr
    assert subprocess.check_output([archive.target / "bin" / "pgbouncer"], text=True) == "PgBouncer 1.26.1\n"

    shutil.rmtree(archive.target)
    assert archive.fetch().returncode == 1
    assert not archive.target.exists()
