"""Appends lines to the files that grow for as long as a run lasts.

Runs in: the supervisor.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from nb_elastic.rundir import LineWriter

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""A rank may have put a link or a pipe there: neither is followed, nor waited for."""


class Appender:
    """Appends lines to a file of ours, each one write; a full disk loses lines, and never harms a run.

    Attributes:
        written_bytes: how large the file is.
    """

    def __init__(self, path: Path) -> None:
        self.written_bytes = 0
        self._lines: LineWriter | None = None
        with contextlib.suppress(OSError):
            self._lines = LineWriter(os.open(path, _FLAGS, 0o600), path)
            self.written_bytes = os.fstat(self._lines.fd).st_size

    def append(self, line: bytes) -> None:
        """Append one line."""
        if self._lines is not None:
            with contextlib.suppress(OSError):
                self.written_bytes += self._lines.write(line)

    def close(self) -> None:
        """Close the descriptor."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None
