"""The bytes of one debugger's socket, carried to and from another machine.

Runs in: the driver, which has the debugger's end, and the node program, which has the rank's.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable

PIECE_BYTES = 16_000
SEND_S = 10.0
"""Who takes nothing for so long does not get the last words."""
MOST_WAITING_BYTES = 16 << 20
"""Of a side that takes no more than that, the conversation is over."""


class Pump:
    """One conversation, in a thread of its own. Any thread may ``write`` and ``end``.

    Args:
        connect: makes the socket, and tells what was read of it already; its OSError or ValueError ends the conversation.
        carry: takes what the socket says, piece by piece, and b"" at its end; it may wait.

    Raises:
        OSError: if there are no descriptors for it.
    """

    def __init__(self, connect: Callable[[], tuple[socket.socket, bytes]], carry: Callable[[bytes], None]) -> None:
        self._connect = connect
        self._carry = carry
        self._waiting = bytearray()
        self._lock = threading.Lock()
        self._is_ending = self._is_over = False
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)
        self._thread = threading.Thread(target=self._run, name="nb_elastic-debug", daemon=True)

    def start(self) -> None:
        """Begin; returns at once.

        Raises:
            RuntimeError: if there is no thread for it; it is over then.
        """
        try:
            self._thread.start()
        except RuntimeError:
            self._finish()
            raise

    def write(self, data: bytes) -> None:
        """Have the socket get this; after ``end`` it gets no more."""
        with self._lock:
            if self._is_ending:
                return
            self._waiting += data
            if len(self._waiting) > MOST_WAITING_BYTES:
                self._waiting.clear()
                self._is_ending = True
            self._wake()

    def end(self) -> None:
        """Hang up, when the socket has got all that it was to get."""
        with self._lock:
            self._is_ending = True
            self._wake()

    def _wake(self) -> None:
        if not self._is_over:
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_w, b"w")

    def _run(self) -> None:
        try:
            with contextlib.suppress(OSError, ValueError):
                sock, first = self._connect()
                with sock:
                    sock.setblocking(False)
                    if first:
                        self._carry(first)
                    while self._turn(sock):
                        pass
        finally:
            self._finish()
            self._carry(b"")

    def _finish(self) -> None:
        with self._lock:
            self._is_over = True
            os.close(self._wake_r)
            os.close(self._wake_w)

    def _turn(self, sock: socket.socket) -> bool:
        """Wait until something can be done, and do it; False at the end."""
        with self._lock:
            has_more, is_ending = bool(self._waiting), self._is_ending
            if is_ending and not has_more:
                return False
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        poll.register(sock, select.POLLIN | (select.POLLOUT if has_more else 0))
        ready = dict(poll.poll(SEND_S * 1000 if is_ending else None))
        if not ready:
            return False
        if self._wake_r in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_r, 1 << 10)
        at_socket = ready.get(sock.fileno(), 0)
        if at_socket & ~select.POLLOUT:
            data = sock.recv(PIECE_BYTES)
            if not data:
                return False
            self._carry(data)
        if at_socket & select.POLLOUT:
            self._send(sock)
        return True

    def _send(self, sock: socket.socket) -> None:
        with self._lock:
            try:
                del self._waiting[: sock.send(self._waiting[: 1 << 16])]
            except BlockingIOError:
                return
            except OSError:  # it has hung up; what it said before that is still to be read
                self._waiting.clear()
