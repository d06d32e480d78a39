"""What Lambda does to an execution environment besides invoking it: snapshots, restores, shutdowns."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import weakref
from typing import Any, ClassVar, Protocol

from . import metrics
from .config import Config
from .passwords import preload

logger = logging.getLogger("tidegate")


class Managed(Protocol):
    """What is told about the life cycle. None of these may raise."""

    config: Config

    def before_snapshot(self) -> None:
        """Close every connection: a snapshot is restored many times, and long after."""

    def after_restore(self) -> None:
        """Forget what was cached (tokens) and connect anew, within limits; randomness is fresh already."""

    def forked(self) -> None:
        """Give up the parent's connection without a word on it: this is a child process."""

    def close_quickly(self) -> None:
        """Close politely without waiting for any answer; called in a signal handler, 300 ms before the end."""


class _State:
    """Of this process, and of those that it forks: hooks and handlers are inherited."""

    registered: ClassVar[weakref.WeakSet[Managed]] = weakref.WeakSet()
    installed = False
    restored = False


def register(database: Managed) -> None:
    """Have a database told about the life cycle for as long as it lives; only a weak reference is kept.

    The first call installs what this environment needs: a hook for forks, SnapStart's hooks under SnapStart, and in
    Lambda a handler for SIGTERM, which goes on to the one that was there before. A program outside Lambda keeps its
    signals as they are.
    """
    _State.registered.add(database)
    if _State.installed:
        return
    _State.installed = True
    os.register_at_fork(after_in_child=_after_fork)
    if _under_snapstart():
        _install_hooks()
    if "AWS_LAMBDA_RUNTIME_API" in os.environ and threading.current_thread() is threading.main_thread():
        _install_handler()


def snapshot_follows() -> bool:
    """Whether a snapshot will be taken of this process: no use in connecting, and no time limit on INIT to beat.

    Nor would it be safe. The random generator of the OpenSSL inside psycopg-binary starts with the first connection;
    started before the snapshot, it would be the same in every environment that is restored from it.
    """
    return _under_snapstart() and not _State.restored


def _under_snapstart() -> bool:
    return os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"


def _install_hooks() -> None:
    try:
        import snapshot_restore_py as hooks  # type: ignore[import-untyped]
    except ImportError:
        logger.warning("SnapStart without snapshot_restore_py: connections are not closed before the snapshot")
        return
    hooks.register_before_snapshot(_before_snapshot)
    hooks.register_after_restore(_after_restore)


def _before_snapshot() -> None:
    for database in list(_State.registered):
        database.before_snapshot()
        preload(database.config)


def _after_restore() -> None:
    _State.restored = True
    refresh_randomness()
    for database in list(_State.registered):
        database.after_restore()


def _after_fork() -> None:
    metrics.recorder.flush(wanted=False)  # the parent writes them
    for database in list(_State.registered):
        database.forked()


def refresh_randomness() -> None:
    """Give this process randomness of its own, where it may be one of many copies.

    Python's own generator paces retries: environments that draw the same pauses would meet again and again. And each
    OpenSSL that is loaded makes keys and nonces out of a generator that it seeded at first use.
    """
    random.seed()
    import ctypes

    for path in _loaded_openssl():
        library = ctypes.CDLL(path)
        if library.RAND_status() != 1 or library.RAND_poll() != 1:
            logger.warning("the random generator of %s could not be seeded anew", path)


def _loaded_openssl() -> set[str]:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:  # noqa: PTH123
        paths = {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "libcrypto" in line}
    return {path for path in paths if os.path.basename(path).startswith("libcrypto")}  # noqa: PTH119


def _install_handler() -> None:
    previous = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        for database in list(_State.registered):
            database.close_quickly()
        if callable(previous):
            previous(number, frame)
        elif previous == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, handle)
