"""The node program's stdout: one thread writes all lines, words first, and takes from the runs only what goes out.

Runs in: the node program.

A slow link so costs no memory: while a write waits, nothing more is read from the runs' files; and a word waits for
one line of a log at most.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from nb_elastic import events
from nb_elastic.wakes import Wakes

MAX_WAIT_S = 1.0
MAX_WORD_BYTES = 31_000


class Source(Protocol):
    """Something that has lines to send, one at a time. Only the outbox's thread calls it."""

    def next_line(self) -> bytes | None:
        """The next line, with its end; None where there is none now."""
        ...

    @property
    def wait_s(self) -> float:
        """How long ``next_line`` need not be called again, if no wake comes."""
        ...

    @property
    def is_over(self) -> bool:
        """True when no line will come any more."""
        ...


class Outbox:
    """The thread, and what waits for it. Any thread may ``say``.

    Args:
        fd: where lines go; closed by nobody.
        on_broken: called in the thread when nobody reads any more.
    """

    def __init__(self, fd: int, token: str, *, wakes: Wakes, on_broken: Callable[[], None]) -> None:
        self._fd = fd
        self._token = token
        self._wakes = wakes
        self._on_broken = on_broken
        self._words: deque[bytes] = deque()
        self._sources: deque[Source] = deque()
        self._lock = threading.Lock()
        self._is_alive_due = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="nb_elastic-node-out", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def say(self, kind: str, **data: Any) -> None:
        """Send one word."""
        self._words.append(line_of(self._token, kind, **data))
        self._wakes.wake()

    def say_alive(self) -> None:
        """Send a sign of life, unless one waits already."""
        self._is_alive_due = True
        self._wakes.wake()

    def add(self, source: Source) -> None:
        """Send what a source has, until it is over."""
        with self._lock:
            self._sources.append(source)
        self._wakes.wake()

    def close(self, timeout_s: float) -> None:
        """Send the words that wait, for so long at most, and end the thread."""
        self._is_closing = True
        self._wakes.wake()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while True:
                if (line := self._next()) is not None:
                    _write(self._fd, line)
                elif self._is_closing:
                    return
                else:
                    self._wakes.wait(self._wait_s())
        except OSError:
            self._on_broken()

    def _next(self) -> bytes | None:
        if self._words:
            return self._words.popleft()
        if self._is_alive_due:
            self._is_alive_due = False
            return line_of(self._token, "alive", time_ns=time.time_ns())
        if self._is_closing:
            return None
        for _ in range(len(self._sources)):
            source = self._sources[0]
            self._sources.rotate(-1)
            if (line := source.next_line()) is not None:
                return line
            if source.is_over:
                with self._lock:
                    self._sources.remove(source)
        return None

    def _wait_s(self) -> float:
        with self._lock:
            return min((source.wait_s for source in self._sources), default=MAX_WAIT_S)


def line_of(token: str, kind: str, **data: Any) -> bytes:
    """One line for the driver."""
    record = {"from": token, "type": kind, **data}
    return events.fit(record, MAX_WORD_BYTES) or events.fit(
        {"from": token, "type": "note", "text": f"{kind} is too long"}
    )


def _write(fd: int, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # whoever gave us the pipe made it so
            time.sleep(0.001)
