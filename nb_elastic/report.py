"""What a rank tells the dashboard about its progress.

Runs in: a worker; a no-op everywhere else.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

METRICS_FILE = "NB_ELASTIC_METRICS_FILE"
"""Environment variable that names the rank's metrics file."""

OWN = frozenset({"time_ns", "rank", "round", "step", "total"})
"""Fields of a record that are not the user's: a metric of that name is recorded as ``metric_<name>``."""

ALL_BYTES = 8 << 20
"""About 80,000 records of a few numbers."""
RARE_S = 0.05

MAX_TEXT = 500
"""Most characters of a value that is no number."""


def report(step: int | None = None, total: int | None = None, **metrics: Any) -> None:
    """Report progress and metrics of this rank to the run's dashboard and ``run.metrics``.

    Outside a rank this does nothing. It never raises because of the disk or of a value: training goes on. A rank that reports
    many tens of thousands of times keeps fewer of the records that follow, and always the last.

    Args:
        step: steps done so far.
        total: steps there will be.
        metrics: numbers by name; one-element tensors and NumPy scalars are taken as their value, anything else
            as its text, shortened. ``nan`` and infinities are kept. The names ``rank``, ``time_ns`` and ``round``
            are the record's own: a metric of such a name is recorded as ``metric_rank`` and so on.
    """
    path = os.environ.get(METRICS_FILE)
    if not path:
        return
    record: dict[str, Any] = {"time_ns": time.time_ns(), "rank": _rank()}
    aside: dict[str, Any] = dict(metrics)
    for name, count in (("step", step), ("total", total)):
        whole = _whole(count)
        if whole is not None:
            record[name] = whole
        elif count is not None:
            aside[name] = _text(count)
    for name, value in aside.items():
        own = name
        while name in OWN and own in {*OWN, *metrics}:
            own = f"metric_{own}"
        record[own] = _number(value)
    METRICS.write(path, json.dumps(record).encode() + b"\n")


class Metrics:
    """Writes one rank's records, ever rarer as their file grows: no loop fills the disk. Any thread may use it.

    All are written until the file has ``ALL_BYTES``; then 20 a second, and after each further ``ALL_BYTES`` half as many.
    The last record waits for its turn, or for the end of the rank.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._due = clock()
        self._waiting: tuple[str, bytes] | None = None
        self._has_told = self._has_exit = False

    def write(self, path: str, line: bytes) -> None:
        """Write a record, or keep it for later in the place of the one before."""
        with self._lock:
            self._waiting = (path, line)
            if self._clock() >= self._due:
                self._flush()
            elif not self._has_exit:
                self._has_exit = True
                atexit.register(self.finish)

    def finish(self) -> None:
        """Write what waits: the rank ends."""
        with self._lock:
            self._flush()

    def after_fork(self) -> None:
        """In a child: what waits is the parent's to write."""
        self._lock, self._waiting = threading.Lock(), None

    def _flush(self) -> None:
        if self._waiting is None:
            return
        path, line = self._waiting
        self._waiting = None
        with contextlib.suppress(OSError):  # a full disk: training goes on
            size = _append(path, line)
            times = size // ALL_BYTES
            self._due = self._clock() + (RARE_S * 2 ** (times - 1) if times else 0.0)
            if times and not self._has_told:
                self._has_told = True
                _say_rarer()


def _append(path: str, line: bytes) -> int:
    """Append a line, on a line of its own though a full disk cut the one before; returns the file's size."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        size = os.fstat(fd).st_size
        is_torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        return size + os.write(fd, b"\n" + line if is_torn else line)
    finally:
        os.close(fd)


def _say_rarer() -> None:
    text = f"nb_elastic.report was called very often: from now on at most {1 / RARE_S:.0f} records a second are kept, and the last.\n"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text)


def _rank() -> int:
    try:
        return int(os.environ.get("RANK", "0"))
    except ValueError:
        return 0


def _whole(count: Any) -> int | None:
    """The count as an integer that JSON can hold, or None."""
    try:
        found = int(count)
        json.dumps(found)
    except Exception:  # noqa: BLE001  border: int() runs code of the user's value; a count must not end the training
        return None
    return found


def _number(value: Any) -> Any:
    """The value as JSON has it: a number, a truth, a short text, or None."""
    try:
        if not isinstance(value, (int, float, str)) and value is not None:
            value = value.item()
        if isinstance(value, (int, float)) or value is None:
            json.dumps(value)  # an integer may have more digits than Python writes
            return value
    except Exception:  # noqa: BLE001  border: code of the user's value; a metric must not end the training
        return _text(value)
    return _text(value)


def _text(value: Any) -> str:
    """The value's text, shortened, whatever the value does."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001  border: as above
        text = f"<{type(value).__name__}>"
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


METRICS = Metrics()
"""This process's; in a child that the user's code forks it begins anew."""

os.register_at_fork(after_in_child=METRICS.after_fork)
