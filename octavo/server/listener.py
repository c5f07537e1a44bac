"""The socket that a server listens on: a port or a Unix-domain socket, or a clear sentence why not."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Generator

from octavo.errors import ConfigError

_BACKLOG = 2048


@contextlib.contextmanager
def listening(host: str | None, port: int, uds: str | None) -> Generator[socket.socket, None, None]:
    """A socket that listens; connections wait in line until it is served. A Unix-domain socket is removed at the end.

    Args:
        host: a name or an address; None for all interfaces, IPv6 too where the machine has it.
        port: 0 for any free one.
        uds: the path of a Unix-domain socket, which goes before host and port.

    Raises:
        ConfigError: the address can't be listened on.
    """
    if uds is None:
        with _tcp(host, port) as listener:
            yield listener
        return
    with _unix(uds) as listener:
        try:
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(uds)


def address_of(listener: socket.socket, *, tls: bool) -> str:
    """The address as one would type it."""
    if listener.family == socket.AF_UNIX:
        return f"unix://{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if tls else 'http'}://{host}:{port}"


def _tcp(host: str | None, port: int) -> socket.socket:
    try:
        if host is None:
            if socket.has_dualstack_ipv6():
                return socket.create_server(("", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
            return socket.create_server(("", port), backlog=_BACKLOG)
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        where = f"port {port}" if host is None else f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"{where} is in use by another program; stop that one or give another --port") from None
        raise ConfigError(
            f"can't listen on {where}: {error.strerror or error}; give a --host of this machine and a --port that "
            "this user may open"
        ) from None


def _unix(path: str) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"can't listen on the socket {path}: {error.strerror or error}; give another --uds") from None
    return listener


def _remove_stale(path: str) -> None:
    """Remove a socket file that nobody listens on any more."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ConfigError(f"--uds {path} exists and is no socket; give another path")
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError as error:
            raise ConfigError(f"can't use the socket {path}: {error.strerror}; give another --uds") from None
        else:
            raise ConfigError(f"--uds {path} is in use by another program; stop that one or give another path")
