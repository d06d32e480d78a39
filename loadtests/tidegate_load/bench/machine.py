"""Where a run took place: a number without its machine means nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import ssl
import sys
from pathlib import Path


def describe_machine() -> dict[str, str]:
    """Name and value of everything that the numbers depend on; nothing that names the machine or its owner."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "CPU": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "OpenSSL of Python": ssl.OPENSSL_VERSION,
    } | {name: _version(name) for name in ("uvloop", "Cython", "psycopg", "scramp")}


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
