"""The line to a held rank: JSON messages, one a line, over a Unix socket in the rank's folder.

Runs in: a worker, which listens, and the kernel or command line, which connects.

The rank gets ``{"type": "eval", "text"}``, ``{"type": "pdb"}``, ``{"type": "line", "text"}`` (to pdb) and ``{"type": "release"}``. It
answers ``value`` or ``error`` (text), ``ask`` (text, prompt: pdb wants a line), ``running``, ``end`` (how) and ``busy``. Nothing that
came over it is unpickled, and a peer of another user is sent away.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MAX_BYTES = 8 << 20
"""A longer message is none of ours."""

SEND_S = 10.0
"""A peer that takes nothing for so long is gone."""

BACKLOG = 64


class Peer:
    """One end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.settimeout(SEND_S)
        self._data = b""
        self.has_more = False

    def fileno(self) -> int:
        """Descriptor, to be polled."""
        return self._sock.fileno()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message.

        Raises:
            OSError: if the other side is gone, or takes nothing.
        """
        self._sock.sendall(json.dumps(message).encode() + b"\n")

    def take(self) -> dict[str, Any] | None:
        """Read what is there; the next whole message, or None while it is not whole. Only where the descriptor is readable.

        Raises:
            OSError: at the end of the connection.
            ValueError: if what came is no message.
        """
        if not self.has_more:
            data = self._sock.recv(1 << 16)
            if not data:
                raise ConnectionResetError("the other side has hung up")
            self._data += data
        line, end, rest = self._data.partition(b"\n")
        if not end:
            if len(line) > MAX_BYTES:
                raise ValueError("a message without end")
            return None
        self._data, self.has_more = rest, b"\n" in rest
        try:
            message = json.loads(line)
        except RecursionError:
            message = None
        if not isinstance(message, dict):
            raise ValueError("no message of ours")  # noqa: TRY004  it came from outside
        return message

    def wait(self, timeout_s: float | None) -> dict[str, Any] | None:
        """Wait for the next whole message; None when the time is up.

        Raises:
            OSError, ValueError: as ``take``.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if until is None else max(0.0, until - time.monotonic())
            if not self.has_more and not readable([self.fileno()], left_s):
                return None
            if (message := self.take()) is not None:
                return message

    def release(self) -> tuple[socket.socket, bytes]:
        """Give the connection away, and what was read of it and not taken."""
        return self._sock, self._data

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


def readable(fds: list[int], timeout_s: float | None) -> set[int]:
    """Wait until one of these descriptors can be read, or is at its end."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)}


def listen(path: Path) -> socket.socket:
    """Listen at a path, 0600 whatever the umask, in place of what lies there.

    Raises:
        OSError: if that can't be.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(path) as (address, folder_fd):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path.name, dir_fd=folder_fd)
            sock.bind(address)
            os.chmod(path.name, 0o600, dir_fd=folder_fd)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def accept(listener: socket.socket) -> Peer | None:
    """Take one connection; None where it went away, or is another user's."""
    try:
        sock, _ = listener.accept()
    except OSError:
        return None
    if not is_own(sock):
        sock.close()
        return None
    return Peer(sock)


def connect(path: Path) -> Peer:
    """Connect to a held rank.

    Raises:
        OSError: if nobody listens there, or another user does.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(SEND_S)
        with _address(path) as (address, _):
            sock.connect(address)
        if not is_own(sock):
            raise PermissionError(f"{path} belongs to another user's process")
    except BaseException:
        sock.close()
        raise
    return Peer(sock)


def is_own(sock: socket.socket) -> bool:
    """True if the process at the other end is this user's."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # the folder is 0700
    _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(uid == os.geteuid())


@contextlib.contextmanager
def _address(path: Path) -> Iterator[tuple[str, int]]:
    """An address short enough for a Unix socket (108 bytes), however long the path, and its folder's descriptor."""
    folder_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        short = f"/proc/self/fd/{folder_fd}"
        yield (f"{short}/{path.name}" if os.path.isdir(short) else str(path)), folder_fd
    finally:
        os.close(folder_fd)
