"""What a process tree has used: CPU time by the kernel's own clock, and memory."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds used so far: `cpu` in all, and the part of it spent in the kernel."""

    cpu: float = 0.0
    kernel: float = 0.0

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(self.cpu - earlier.cpu, self.kernel - earlier.kernel)


def process_cpu(pid: int) -> float:
    """CPU seconds, user and system, that all threads of a process have used.

    What /proc/PID/stat shows as utime + stime, but in nanoseconds and not in ticks of ten milliseconds.
    Raises: ProcessLookupError.
    """
    try:
        # clock_getcpuclockid(3) makes the same number; it is part of the kernel's interface.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        raise ProcessLookupError(f"process {pid} is gone") from None


def tree_usage(pid: int) -> Usage:
    """Usage of a process, of its living descendants, and of those that it has waited for.

    Raises: ProcessLookupError when the process itself is gone.
    """
    cpu = process_cpu(pid)
    try:
        root = psutil.Process(pid)
        times = root.cpu_times()
        cpu += times.children_user + times.children_system
        kernel = times.system + times.children_system
        for child in root.children(recursive=True):
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                times = child.cpu_times()
                cpu += process_cpu(child.pid) + times.children_user + times.children_system
                kernel += times.system + times.children_system
    except psutil.Error:
        raise ProcessLookupError(f"process {pid} is gone") from None
    return Usage(cpu, kernel)


def tree_memory(pid: int) -> int:
    """Bytes of memory of a process tree, shared pages counted in proportion (PSS).

    Raises: OSError when the process is gone.
    """
    return sum(_field(each, "smaps_rollup", "Pss:") for each in _tree(pid))


def tree_peak_memory(pid: int) -> int:
    """Sum of the most resident memory, in bytes, that each process of a tree ever had.

    Raises: OSError when the process is gone.
    """
    return sum(_field(each, "status", "VmHWM:") for each in _tree(pid))


def _tree(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        raise ProcessLookupError(f"process {pid} is gone") from None


def _field(pid: int, file: str, name: str) -> int:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0  # a process that has ended but was not waited for has no memory
