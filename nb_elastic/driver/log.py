"""What happened to the driver itself: lines in the run's supervisor.log, which is its stderr.

Runs in: the driver.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from nb_elastic import machine, opening

COPY_BYTES = 64 << 10


def write(text: str) -> None:
    """Write one line with the time."""
    now = time.time()
    stamp = time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03d}"
    with contextlib.suppress(OSError, ValueError):
        print(f"{stamp} driver: {text}", file=sys.stderr, flush=True)  # noqa: T201


def go_to(path: Path) -> None:
    """Write to this file from now on; others see by a lock on it that somebody looks after the run.

    Raises:
        OSError: if it can't be opened.
    """
    fd = opening.to_append(path)
    machine.hold(fd)
    os.dup2(fd, 2)
    os.close(fd)


def leave() -> None:
    """The run is over: its file is let go."""
    fd = os.open(os.devnull, os.O_WRONLY)
    os.dup2(fd, 2)
    os.close(fd)


class Copier:
    """Copies what the engine's commands say, run by run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def copy(self) -> None:
        """Copy what is new, the last of it where it is much."""
        try:
            size = self._path.stat().st_size
            with self._path.open("rb") as f:
                f.seek(max(self._offset, size - COPY_BYTES))
                text = f.read(COPY_BYTES).decode("utf-8", "replace")
        except OSError:
            return
        self._offset = size
        if text.strip():
            write(f"the engine's own log:\n{text.rstrip()}")
