"""Where machines that join come in: one listener on one address, and a room for those that proved to have the token.

Runs in: the driver.

Whoever connects holds one of a few places for five seconds at most, and 64 bytes of memory; who comes when all places
are taken has the longest held one. So strangers can't keep a machine of the user out but by a flood.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass

from nb_elastic.engines.join_link import BEAT_S, turn_away
from nb_elastic.errors import EngineError
from nb_elastic.sealed_stream import BEAT, SealedStream, StreamError, greet_as_server
from nb_elastic.supervisor import addresses

MAX_STRANGERS = 32
MAX_WAITING = 1024
UNANSWERED_MS = 20_000
"""A connection whose other end acknowledges nothing for so long is given up: longer than a node's lease, which is 15 s."""
BIND_S = 5.0
"""A driver that just ends may hold the port for a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A machine that waits to be a node."""

    stream: SealedStream
    address: str


class Door:
    """Listens from ``open`` to ``close``, in a thread of its own.

    Args:
        address: the only one on which to listen.
        port: there.
        key: of the token.
        most_waiting: so many machines may wait.

    Attributes:
        port: where it listens.
    """

    def __init__(self, address: str, port: int, key: bytes, *, most_waiting: int = MAX_WAITING) -> None:
        self._address, self.port, self._key = address, port, key
        self._most_waiting = most_waiting
        self._listener: socket.socket | None = None
        self._changed = threading.Condition()
        self._is_closed = False
        self._strangers: list[socket.socket] = []
        self._greeters: set[threading.Thread] = set()
        self._waiting: deque[Guest] = deque()
        self._thread = threading.Thread(target=self._watch, name="nb-elastic-join-door", daemon=True)

    def open(self, *, patience_s: float = BIND_S) -> None:
        """Start to listen.

        Raises:
            EngineError: if the address can't be listened on within ``patience_s``; it may be tried again, with another port.
        """
        deadline = time.monotonic() + patience_s
        while self._listener is None:
            try:
                self._listener = addresses.listen(self._address, self.port)
            except OSError as e:
                if e.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                where = addresses.join_endpoint(self._address, self.port)
                raise EngineError(f"Nodes can't join at {where}: {e.strerror or e}.") from e
        self._thread.start()

    def take(self, timeout_s: float) -> Guest | None:
        """The machine that has waited longest and is still there; None if none comes in time."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._changed:
                while not self._waiting:
                    left_s = deadline - time.monotonic()
                    if self._is_closed or left_s <= 0 or not self._changed.wait(left_s):
                        return None
                guest = self._waiting.popleft()
            if not guest.stream.is_readable():
                return guest
            guest.stream.cut()  # it says nothing while it waits, but that it leaves
            guest.stream.close()

    def close(self) -> None:
        """Stop listening and send away who waits."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes who polls it
            self._thread.join()
            self._listener.close()
        with self._changed:
            greeters = set(self._greeters)
            for sock in self._strangers:
                _cut(sock)
        for thread in greeters:
            thread.join()
        while self._waiting:
            turn_away(self._waiting.popleft().stream)

    def _watch(self) -> None:
        """Let people in, and give those that wait a sign of life."""
        listener = self._listener
        assert listener is not None  # noqa: S101  open() set it before it started this thread
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        beat_at = time.monotonic() + BEAT_S
        while not self._is_closed:
            if poll.poll(max(0.0, beat_at - time.monotonic()) * 1000):
                try:
                    self._let_in(*listener.accept())
                except OSError:  # too many open files, or it hung up at once
                    with self._changed:
                        self._changed.wait_for(lambda: self._is_closed, 0.1)
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + BEAT_S
                self._reassure()

    def _let_in(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        with self._changed:
            if len(self._strangers) >= MAX_STRANGERS:
                _cut(self._strangers.pop(0))
            thread = threading.Thread(
                target=self._greet, args=(sock, peer[0]), name=f"nb-elastic-join-greets-{peer[0]}", daemon=True
            )
            self._strangers.append(sock)
            self._greeters.add(thread)
            thread.start()

    def _greet(self, sock: socket.socket, address: str) -> None:
        stream = None
        try:
            be_prompt(sock)
            greeted = greet_as_server(sock, self._key)
            greeted.send(BEAT)  # by which it knows that it is in, and not that we hung up on it meanwhile
            stream = greeted
        except (StreamError, OSError):
            pass  # a scanner, a mistyped token: it was told what it may know
        with self._changed:
            if sock in self._strangers:
                self._strangers.remove(sock)
            self._greeters.discard(threading.current_thread())
            is_welcome = stream is not None and not self._is_closed and len(self._waiting) < self._most_waiting
            if stream is not None and is_welcome:
                self._waiting.append(Guest(stream=stream, address=address))
                self._changed.notify_all()
        if stream is None:
            sock.close()
        elif not is_welcome:
            turn_away(stream)

    def _reassure(self) -> None:
        with self._changed:
            for guest in list(self._waiting):
                try:
                    guest.stream.send(BEAT)
                    is_there = not guest.stream.is_readable()
                except OSError:
                    is_there = False
                if not is_there:
                    self._waiting.remove(guest)
                    guest.stream.cut()
                    guest.stream.close()


def be_prompt(sock: socket.socket) -> None:
    """Send at once, and notice a cut cable."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
