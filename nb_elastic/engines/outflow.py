"""What goes out over one link: a queue with a bound and the thread that empties it, so that nobody waits for a slow end.

Runs in: the driver.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

SMALL_BYTES = 64 << 10
FULL_BYTES = 32 << 20
"""While so much is under way, what is big waits, so that a payload of any size takes no more memory than that."""
MOST_BYTES = FULL_BYTES + (32 << 20)
"""While so much is, an end that takes nothing is given up: pings alone would need days for that."""
PATIENCE_S = 20.0
"""Longer than a node's lease: an end that took nothing for so long has ended by itself."""


class Outflow(Generic[T]):
    """Items on their way, in order.

    Args:
        write: takes one item to the other end, in the queue's thread; an OSError ends all.
        on_end: told once why nothing more goes out ("" where ``end`` was called).
        idle: called when nothing went out for ``idle_s``, in the same thread; may raise OSError as well.
    """

    def __init__(
        self,
        write: Callable[[T], None],
        *,
        name: str,
        on_end: Callable[[str], None],
        idle: Callable[[], None] | None = None,
        idle_s: float | None = None,
    ) -> None:
        self._write, self._on_end = write, on_end
        self._idle, self._idle_s = idle, idle_s
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._moved_at = time.monotonic()
        self._changed = threading.Condition()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name=f"nb-elastic-out-{name}", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, item: T, size: int) -> None:
        """Add an item of so many bytes; dropped when all is over. A big one waits while much is under way, a small one never."""
        most = FULL_BYTES if size > SMALL_BYTES else MOST_BYTES
        with self._changed:
            while most == FULL_BYTES and self._bytes + size > most and self._bytes and not self._is_over:
                left_s = self._moved_at + PATIENCE_S - time.monotonic()
                if left_s <= 0 or not self._changed.wait(left_s):
                    if self._moved_at + PATIENCE_S <= time.monotonic():
                        break
            is_stuck = self._bytes + size > most and self._bytes > 0
            if not is_stuck and not self._is_over:
                self._moved_at = self._moved_at if self._bytes else time.monotonic()
                self._items.append((item, size))
                self._bytes += size
                self._changed.notify_all()
        if is_stuck:
            self._finish(f"it took nothing for {PATIENCE_S:g} s")

    def move(self) -> None:
        """Tell that a part of an item went out."""
        self._moved_at = time.monotonic()

    def end(self) -> None:
        """Write nothing more; what is under way is dropped."""
        self._finish("")

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the thread, which ends when ``write`` returns."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    if not self._items and not self._is_over:
                        self._changed.wait(self._idle_s)
                    if self._is_over:
                        return
                    item = self._items[0] if self._items else None
                if item is not None:
                    self._write(item[0])
                    with self._changed:
                        if self._items:
                            self._items.popleft()
                            self._bytes -= item[1]
                        self._moved_at = time.monotonic()
                        self._changed.notify_all()
                elif self._idle is not None:
                    self._idle()
        except OSError as e:
            self._finish(e.strerror or str(e))

    def _finish(self, why: str) -> None:
        with self._changed:
            is_first, self._is_over = not self._is_over, True
            self._items.clear()
            self._bytes = 0
            self._changed.notify_all()
        if is_first:
            self._on_end(why)
