"""Sockets to accept clients on: TCP, and Unix sockets named as PostgreSQL's are."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import socket
import struct
from pathlib import Path
from typing import Any

from tidegate_proxy.settings import ConfigurationError

BACKLOG = 2048
"""Connections that the kernel holds until they are accepted: a storm of cold clients must not have to knock twice."""


def tcp_listeners(hosts: str, port: int, *, shared: bool = False, reserve_only: bool = False) -> list[socket.socket]:
    """Non-blocking sockets that listen on every address of these hosts.

    Parameters: `hosts`, separated by commas; `port`, 0 for any free one, the same for all; `shared`, other processes of
    the same user may do so too, and the kernel spreads connections over them; `reserve_only`, do not listen.
    Raises: ConfigurationError.
    """
    listeners: list[socket.socket] = []
    try:
        for host in filter(None, (part.strip() for part in hosts.split(","))):
            for family, _, _, _, address in _addresses(host, port):
                chosen = port or (listeners[0].getsockname()[1] if listeners else 0)
                listeners.append(_bind(family, (address[0], chosen, *address[2:]), host, shared))
        if not reserve_only:
            _listen(listeners, hosts)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigurationError(f'listen_host: "{host}" cannot be resolved: {error.strerror}') from None
    return [(int(family), kind, protocol, name, address) for family, kind, protocol, name, address in found]  # type: ignore[misc]


def _bind(family: int, address: tuple[Any, ...], host: str, shared: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigurationError(_cannot_listen(host, address[1], error)) from None
    listener.setblocking(False)
    return listener


def _listen(listeners: list[socket.socket], hosts: str) -> None:
    for listener in listeners:
        try:
            listener.listen(BACKLOG)
        except OSError as error:
            raise ConfigurationError(_cannot_listen(hosts, listener.getsockname()[1], error)) from None


class UnixListener:
    """A Unix socket `.s.PGSQL.<port>` in a directory, for as long as it is open.

    A lock file beside it tells whether another program uses the socket: one that such a program has left behind is
    replaced. Parameters: `mode`, the socket file's; `group`, None to leave it as it is.
    Raises: ConfigurationError.
    """

    def __init__(self, directory: Path, port: int, mode: int, group: str | None) -> None:
        self.path = directory / f".s.PGSQL.{port}"
        self._lock_path = directory / f".s.PGSQL.{port}.lock"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._lock: int | None = None
        try:
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._lock, 0)
            os.write(self._lock, f"{os.getpid()}\n".encode())
            if self._in_use():
                raise ConfigurationError(
                    f"unix_socket_dir: {self.path} is in use by another program: stop it, or choose another directory "
                    "or listen_port"
                )
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
            # Nobody may connect before the mode is right.
            before = os.umask(0o777)
            try:
                self.socket.bind(str(self.path))
            finally:
                os.umask(before)
            if group is not None:
                os.chown(self.path, -1, grp.getgrnam(group).gr_gid)
            self.path.chmod(mode)
            self.socket.listen(BACKLOG)
        except BlockingIOError:
            self._give_up()
            raise ConfigurationError(
                f"unix_socket_dir: {self.path} is in use by another proxy: stop it, or choose another directory or "
                "listen_port"
            ) from None
        except KeyError:
            self._give_up()
            raise ConfigurationError(f'unix_socket_group: there is no group "{group}" on this machine') from None
        except OSError as error:
            self._give_up()
            what = "unix_socket_group" if error.errno == errno.EPERM else "unix_socket_dir"
            raise ConfigurationError(f"{what}: cannot listen on {self.path}: {error.strerror or error}") from None
        except ConfigurationError:
            self._give_up()
            raise
        self.socket.setblocking(False)

    def _in_use(self) -> bool:
        """Whether a program that does not know our lock file, PostgreSQL or PgBouncer say, answers there."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            return probe.connect_ex(str(self.path)) in (0, errno.EAGAIN, errno.EINPROGRESS)

    def _give_up(self) -> None:
        self.socket.close()
        if self._lock is not None:
            os.close(self._lock)

    def close(self) -> None:
        """Stop listening, and remove the files."""
        self.socket.close()
        for path in (self.path, self._lock_path):
            with contextlib.suppress(OSError):
                path.unlink()
        if self._lock is not None:
            os.close(self._lock)


def peer_uid(connection: socket.socket) -> int:
    """The user id of the process at the other end of a Unix socket."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"listen_port: port {port} of {host} is in use by another program: choose a free one, or 0 for any"
    if error.errno == errno.EACCES:
        return f"listen_port: port {port} is not allowed: choose one from 1024 on, or 0 for any"
    if error.errno == errno.EADDRNOTAVAIL:
        return f'listen_host: this machine has no address "{host}"'
    return f"listen_host: cannot listen on {host} port {port}: {error.strerror}"
