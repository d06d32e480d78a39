"""Compiles the proxy's per-message path, if a C compiler is there; everything else is in pyproject.toml.

The compiled modules go to `core/compiled`, beside their sources, which are what runs without a compiler.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CORE = Path("proxy/tidegate_proxy/core")
PACKAGE = "tidegate_proxy.core."
MODULES = (
    "borrowing",
    "client",
    "prepared",
    "scan",
    "sequences",
    "server",
    "session",
    "statements",
    "suspect",
    "transport",
    "watch",
)


class BuildCore(build_ext):
    """Extensions with the names of their sources, in a folder of their own."""

    def get_ext_filename(self, fullname: str) -> str:
        """Where the extension goes."""
        path = Path(super().get_ext_filename(fullname))
        return str(path.parent / "compiled" / path.name)

    def copy_extensions_to_source(self) -> None:
        """For an editable installation: put them where the package looks for them."""
        for extension in self.extensions:
            built = (
                Path(self.build_lib)
                / Path(*PACKAGE.split("."))
                / Path(self.get_ext_filename(extension.name.split(".")[-1]))
            )
            (CORE / "compiled").mkdir(exist_ok=True)
            self.copy_file(str(built), str(CORE / "compiled" / built.name))

    def run(self) -> None:
        """Build, or say in one line that it was not possible."""
        try:
            super().run()
        except Exception as error:
            if os.environ.get("TIDEGATE_PROXY_CORE") == "compiled":
                raise
            self.warn(f"the proxy's core was not compiled and will be interpreted: {error}")


def extensions() -> list[Extension]:
    """What to compile: nothing where Cython is not installed."""
    try:
        from Cython.Build import cythonize
    except ImportError:
        sys.stderr.write("warning: Cython is not installed: the proxy's core will be interpreted\n")
        return []
    sources = []
    for name in MODULES:
        path = CORE / f"{name}.pyx"
        sources.append(
            Extension(
                PACKAGE + name, [str(path if path.exists() else path.with_suffix(".py"))], extra_compile_args=["-O2"]
            )
        )
    built: list[Extension] = cythonize(
        sources,
        language_level=3,
        build_dir="build/cython",
        compiler_directives={"binding": False, "embedsignature": False, "annotation_typing": False},
    )
    return built


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildCore})
