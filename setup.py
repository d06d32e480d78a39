"""Compiles the proxy's per-message path, if a C compiler is there; everything else is in pyproject.toml.

The compiled modules go to `core/compiled`, beside their sources, which are what runs without a compiler. For a build in
place, `core/compiled/SOURCES` says of what: a line per source file, as sha256sum writes and checks them.
TIDEGATE_PROXY_CORE=compiled makes an error of a missing compiler, =interpreted compiles nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CORE = Path("proxy/tidegate_proxy/core")
COMPILED = CORE / "compiled"
SOURCES = COMPILED / "SOURCES"
PACKAGE = "tidegate_proxy.core."
MODULES = (
    "borrowing",
    "client",
    "clock",
    "connection",
    "owed",
    "prepared",
    "scan",
    "sequences",
    "server",
    "session",
    "statements",
    "statistics",
    "suspect",
    "tags",
    "transport",
    "watch",
)
EXTENSIONS = [
    # No debugging information: without it the modules are a quarter of the size, and profilers still find functions.
    Extension(PACKAGE + name, [str(path)], extra_compile_args=["-O2", "-g0"])
    for name in MODULES
    for path in [CORE / f"{name}.pyx", CORE / f"{name}.py"]
    if path.exists()
]


def digests() -> str:
    """What SOURCES says when it is true."""
    files = sorted(path for path in CORE.iterdir() if path.suffix in (".py", ".pxd", ".pyx"))
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.as_posix()}\n" for path in [*files, Path("setup.py")]
    )


def _is_built(sources: str) -> bool:
    """Whether the last build in place was of these sources and for this Python."""
    if not SOURCES.exists() or SOURCES.read_text() != sources:
        return False
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return all((COMPILED / f"{name}{suffix}").exists() for name in MODULES)


def _times_tell(sources: str) -> bool:
    """Whether files that changed since the last build are also newer than it, so that the rest need not be rebuilt."""
    if not SOURCES.exists():
        return False
    changed = set(sources.splitlines()) - set(SOURCES.read_text().splitlines())
    built = SOURCES.stat().st_mtime
    return all(Path(line.split(maxsplit=1)[1]).stat().st_mtime > built for line in changed)


class BuildCore(build_ext):
    """Extensions with the names of their sources, in a folder of their own, all or none."""

    def finalize_options(self) -> None:
        """As many compilers at a time as there are processors."""
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def run(self) -> None:
        """Build, or say in one line that it is not possible. Errors in the sources are errors."""
        wanted = os.environ.get("TIDEGATE_PROXY_CORE", "")
        in_place = self.inplace or self.editable_mode
        sources = digests()
        if wanted == "interpreted":
            self.extensions = []
            return
        if in_place and _is_built(sources):
            return
        if missing := self._missing():
            if wanted == "compiled":
                sys.exit(f"error: the proxy's core cannot be compiled: {missing}")
            sys.stderr.write(f"warning: the proxy's core is not compiled and will be interpreted: {missing}\n")
            self.extensions = []
            if in_place:
                # Never old modules beside new sources.
                shutil.rmtree(COMPILED, ignore_errors=True)
            return
        self.force = self.force or not _times_tell(sources)
        self._translate()
        super().run()
        if in_place:
            SOURCES.write_text(sources)

    def _missing(self) -> str:
        """What there is no compiling without; nothing if all is there."""
        try:
            import Cython.Build  # noqa: F401
        except ImportError:
            return "Cython is not installed"
        compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
        command = [*compiler, f"-I{sysconfig.get_path('include')}", "-fsyntax-only", "-x", "c", "-"]
        try:
            tried = subprocess.run(command, input=b"#include <Python.h>\n", capture_output=True, check=False)
        except OSError:
            return f"there is no C compiler ({compiler[0]})"
        if tried.returncode:
            return f"the C compiler ({compiler[0]}) does not work or does not find Python.h"
        return ""

    def _translate(self) -> None:
        from Cython.Build import cythonize

        translated = cythonize(
            self.extensions,
            force=bool(self.force),
            language_level=3,
            build_dir="build/cython",
            quiet=True,
            compiler_directives={"binding": False, "embedsignature": False, "annotation_typing": False},
        )
        for extension, to_c in zip(self.extensions, translated, strict=True):
            extension.sources = to_c.sources
            extension.depends = [*to_c.depends, "setup.py"]

    def get_ext_filename(self, fullname: str) -> str:
        """Where the extension goes."""
        path = Path(super().get_ext_filename(fullname))
        return str(path.parent / "compiled" / path.name)

    def copy_extensions_to_source(self) -> None:
        """For a build in place: put them where the package looks for them."""
        # Not overwritten: a running proxy has them mapped into its memory.
        shutil.rmtree(COMPILED, ignore_errors=True)
        COMPILED.mkdir()
        for extension in self.extensions:
            built = Path(self.build_lib) / self.get_ext_filename(extension.name)
            self.copy_file(str(built), str(COMPILED / built.name))


if __name__ == "__main__":
    setup(ext_modules=EXTENSIONS, cmdclass={"build_ext": BuildCore})
