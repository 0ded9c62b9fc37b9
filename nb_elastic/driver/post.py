"""Frames on their way to the nodes of one link: what is urgent goes between two pieces of what is long.

Runs in: the driver, in a thread for each link.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nb_elastic import wire

PIECE_BYTES, LEAST_BYTES = 1 << 20, 64 << 10
UNDERWAY_BYTES = 128 << 20
"""Of all links together: each has a piece in its hands."""
PING = wire.encode({"type": "ping"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A file that nodes need for a run.

    Attributes:
        fd: descriptor that is read, of whoever owns the run.
    """

    name: str
    fd: int
    size: int


@dataclass(slots=True, kw_only=True)
class Delivery:
    """What some nodes of a link need to begin: files, then a frame for all of them.

    Attributes:
        tokens: of these nodes.
        links: how many get the same at the same time.
        is_done: nothing is left to send.
    """

    run_id: str
    tokens: Sequence[str]
    parcels: Sequence[Parcel]
    frame: bytes
    links: int = 1
    is_done: bool = False
    _parcel: int = 0
    _offset: int = 0

    def next(self) -> bytes:
        """The next frame.

        Raises:
            OSError: if a file can't be read.
        """
        if self._parcel >= len(self.parcels):
            self.is_done = True
            return self.frame
        parcel = self.parcels[self._parcel]
        size = max(LEAST_BYTES, min(PIECE_BYTES, UNDERWAY_BYTES // self.links))
        data = os.pread(parcel.fd, size, self._offset)
        message = {
            "type": "file",
            "run_id": self.run_id,
            "to": list(self.tokens),
            "name": parcel.name,
            "offset": self._offset,
            "size": parcel.size,
        }
        self._offset += len(data)
        if self._offset >= parcel.size or not data:
            self._parcel, self._offset = self._parcel + 1, 0
        return wire.encode(message, data)


@dataclass(slots=True)
class Post:
    """Sends frames over one link. Any thread may hand them over; nobody ever waits for the link.

    Args:
        send: of the link.
        on_error: told what could not be read for a delivery; that is dropped.
    """

    send: Callable[[bytes], None]
    name: str
    on_error: Callable[[Delivery, OSError], None]
    _urgent: deque[bytes] = field(default_factory=deque)
    _deliveries: deque[Delivery] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _is_closed: bool = False
    _thread: threading.Thread | None = None

    def urge(self, message: Mapping[str, Any], blob: bytes = b"") -> None:
        """Send a short message before all deliveries."""
        self._put(wire.encode(message, blob))

    def ping(self) -> None:
        """Show the nodes that somebody is here; one ping at a time waits for a link that takes nothing."""
        with self._changed:
            is_waiting = any(frame is PING for frame in self._urgent)
        if not is_waiting:
            self._put(PING)

    def deliver(self, delivery: Delivery) -> None:
        """Send a delivery, after those before it."""
        with self._changed:
            self._deliveries.append(delivery)
            self._wake()

    def take_back(self, run_id: str) -> list[str]:
        """Drop what was not sent yet of a run; tokens of the nodes that will never hear of it."""
        with self._changed:
            dropped = [d for d in self._deliveries if d.run_id == run_id]
            self._deliveries = deque(d for d in self._deliveries if d.run_id != run_id)
        return [token for d in dropped for token in d.tokens]

    def close(self) -> None:
        """Send nothing more; the thread ends as soon as the link lets it."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _put(self, frame: bytes) -> None:
        with self._changed:
            self._urgent.append(frame)
            self._wake()

    def _wake(self) -> None:
        if self._thread is None and not self._is_closed:
            self._thread = threading.Thread(target=self._run, name=f"nb_elastic-post-{self.name}", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while (frame := self._next()) is not None:
            self.send(frame)

    def _next(self) -> bytes | None:
        with self._changed:
            while True:
                if self._is_closed:
                    return None
                if self._urgent:
                    return self._urgent.popleft()
                if self._deliveries:
                    delivery = self._deliveries[0]
                    try:
                        return delivery.next()
                    except OSError as e:
                        self._deliveries.popleft()
                        self.on_error(delivery, e)
                        continue
                    finally:
                        if delivery.is_done and self._deliveries and self._deliveries[0] is delivery:
                            self._deliveries.popleft()
                self._changed.wait()
