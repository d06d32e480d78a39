"""The newest poolers that Debian packages, in a folder of their own: without root, and apart from what is installed.

They come with their suite's C library, OpenSSL and other libraries, and run with them whatever this system has.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tidegate_load.bench.debian import Apt, PackagesError, run

FOLDER = Path("build/poolers")
"""Where they are, from where one stands; their programs in `bin`."""

SUITE = "unstable"
"""Where Debian's newest packages are."""

PROGRAMS = ("pgbouncer", "odyssey", "pgagroal")
"""Packages, and programs of the same name."""

_APT, _BIN, _UNPACKING = ".apt", "bin", ".unpacking-"
_YOURSELF = "put those poolers on PATH yourself that are to be compared"


def fetch_poolers(folder: Path, suite: str, say: Callable[[str], None]) -> dict[str, str]:
    """Bring the newest poolers of a suite into a folder, or find that they are there.

    Parameters: `folder`, absolute: new, empty, or from an earlier call; `suite` of Debian; `say`, told of each step.
    Returns: by program, the version that it tells of itself.
    Raises: PackagesError; the programs that were there before still are then, and nothing else is left.
    """
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise PackagesError(f"there is no {tool}, so this is no Debian: {_YOURSELF}")
    _check(folder)
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        return _fetch(folder, suite, say)
    except PackagesError as error:
        raise PackagesError(f"{error}; or {_YOURSELF}") from None
    except OSError as error:
        raise PackagesError(f"{folder}: {error}") from None
    finally:
        for left in folder.glob(f"{_UNPACKING}*"):
            shutil.rmtree(left, ignore_errors=True)
        if not (folder / _BIN).exists():
            shutil.rmtree(folder / _APT, ignore_errors=True)
            for path in new:
                if path.exists() and not any(path.iterdir()):
                    path.rmdir()


def _check(folder: Path) -> None:
    # It brings psycopg, and the command's --help needs none.
    from tidegate_load.postgres import reachable_by_others, unprivileged_user

    if folder.exists() and not folder.is_dir():
        raise PackagesError(f"{folder} is no folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / _APT).exists():
        raise PackagesError(f"{folder} holds something else: choose a new or an empty --folder")
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    user = unprivileged_user()
    if user is not None and not reachable_by_others(existing):
        raise PackagesError(
            f"the user {user.pw_name}, who runs poolers when we are root, cannot enter {existing}: "
            "choose another --folder, and put its bin on PATH"
        )


def _fetch(folder: Path, suite: str, say: Callable[[str], None]) -> dict[str, str]:
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        path.mkdir()
        path.chmod(0o755)
    apt = Apt(folder / _APT, suite)
    say(f"Asking {apt.archive} what {suite} has ...")
    apt.update()
    wanted = apt.known(PROGRAMS)
    if missing := [name for name in PROGRAMS if name not in wanted]:
        say(f"Not in {suite}: {', '.join(missing)}.")
    if not wanted:
        raise PackagesError(f"{suite} has none of them: choose another --suite")
    packages = apt.resolve(wanted)
    # How they are laid out is decided here, so what is there must be of this very module's making.
    words = [Path(__file__).read_text(), *(f"{name}={version}" for name, version in sorted(packages.items()))]
    complete = folder / hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
    if (folder / _BIN).resolve() == complete / _BIN and complete.exists():
        say("The newest are there already.")
        return _versions(folder / _BIN)
    # What the others bring, such as users and services, is for a system to install, not for a program to run.
    needed = apt.libraries(packages) | set(wanted)
    say(f"Fetching and unpacking {len(needed)} packages ...")
    staging = Path(tempfile.mkdtemp(prefix=_UNPACKING, dir=folder))
    staging.chmod(0o755)
    for part in ("programs", "libraries"):
        names = [name for name in needed if (name in wanted) == (part == "programs")]
        downloads = staging / "downloads"
        downloads.mkdir()
        if names:
            apt.download({name: packages[name] for name in sorted(names)}, downloads)
        for package in sorted(downloads.iterdir()):
            run(["dpkg-deb", "--extract", package, staging / part], f"{package.name} cannot be unpacked")
        shutil.rmtree(downloads)
    _wrap(staging)
    versions = _versions(staging / _BIN)
    shutil.rmtree(complete, ignore_errors=True)
    staging.rename(complete)
    # Replaced in one step: `bin` is always that of a complete set.
    link = folder / f"{_UNPACKING}link"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(complete.name) / _BIN)
    link.replace(folder / _BIN)
    for old in folder.iterdir():
        if re.fullmatch(r"[0-9a-f]{16}", old.name) and old != complete:
            shutil.rmtree(old)
    return versions


def _wrap(folder: Path) -> None:
    """Make scripts in `bin` that call the programs with the loader and the libraries that came with them."""
    target = folder / _BIN
    target.mkdir()
    target.chmod(0o755)
    found = [path for part in ("libraries", "programs") for path in sorted(folder.glob(f"{part}/**/*-linux-*"))]
    libraries = [path for path in found if path.is_dir() and path.parent.name == "lib"]
    loaders = [path for library in libraries for path in library.glob("ld-linux*.so.*")]
    search = ":".join(f"$here/{path.relative_to(folder)}" for path in libraries)
    for program in sorted(folder.glob("programs/usr/*bin/*")):
        command = f'"$here/{program.relative_to(folder)}"'
        if program.read_bytes().startswith(b"\x7fELF"):
            if not loaders:
                raise PackagesError(f"no package brought the loader that {program.name} needs")
            command = f'"$here/{loaders[0].relative_to(folder)}" --library-path "{search}" {command}'
        script = target / program.name
        script.write_text(f'#!/bin/sh\nhere=$(cd -P "${{0%/*}}/.." && pwd) || exit\nexec {command} "$@"\n')
        script.chmod(0o755)


def _versions(programs: Path) -> dict[str, str]:
    """What each program says that it is. Raises: PackagesError for one that does not run."""
    found = {}
    for path in (programs / name for name in PROGRAMS):
        if path.exists():
            # pgagroal ends with 1 after telling its version.
            done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=20)
            if not done.stdout.strip():
                raise PackagesError(f"{path.name} does not run: {' '.join(done.stderr.split())}")
            found[path.name] = done.stdout.strip().partition("\n")[0]
    return found
