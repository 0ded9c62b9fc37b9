"""The one thread that decides: other threads put down what happened, and it takes one thing after the other.

Runs in: the driver.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any


class Desk:
    """Calls that other threads and signal handlers ask of the main thread, in order."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._calls: queue.SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] = queue.SimpleQueue()

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function called in the main thread. Any thread, and any signal's handler, may ask."""
        self._calls.put((function, args))

    def work(self, timeout_s: float) -> None:
        """Do what was put down, after a wait of at most ``timeout_s`` for the first thing."""
        try:
            function, args = self._calls.get(timeout=max(0.0, timeout_s))
            while True:
                function(*args)
                function, args = self._calls.get_nowait()
        except queue.Empty:
            return
