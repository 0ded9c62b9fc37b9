"""Writes how large the log files of a node's ranks were at what time, so that they can be merged in time afterwards.

Runs in: the supervisor.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from nb_elastic.supervisor.appender import Appender

PAUSE_S = 0.05
"""Least time between two records; of many files ``PAUSE_A_FILE_S`` for each: a look at them takes longer."""

PAUSE_A_FILE_S = 0.001

MAX_PAUSE_S = 5.0
SPARSER_BYTES = 2 << 20
"""After each so many bytes of records (about 20,000 of a run of four ranks) they come half as often."""


class Growth:
    """The sizes of some files, looked at by one thread at a time.

    Args:
        files: name in the records -> log file.
        watch: asks to be woken when a file grows.
        out: where the records go.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        *,
        watch: Callable[[Path], None],
        out: Appender,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = dict(files)
        self._paths = {name: str(path) for name, path in files.items()}  # a Path costs as much as the look itself
        self._watch = watch
        self._out = out
        self._clock = clock
        self._sizes = dict.fromkeys(files, -1)
        self._unwatched = set(files)
        self._pause_s = max(PAUSE_S, PAUSE_A_FILE_S * len(files))
        self.due = clock()

    def rewatch(self) -> None:
        """Watch every file anew at the next look: one whose content was replaced does not grow, and loses its watch."""
        self._unwatched = set(self._files)

    def look(self) -> bool:
        """Record the files that grew since the last look; True if any did, and another look is due (``due``)."""
        for name in self._unwatched:
            self._watch(self._files[name])
        found = {name: _size(path) for name, path in self._paths.items()}
        changed = {name for name, size in found.items() if size > self._sizes[name]}
        self._unwatched = changed | {name for name, size in found.items() if size < 0}
        self._sizes.update({name: found[name] for name in changed})
        if grown := {name: found[name] for name in sorted(changed) if found[name]}:
            record = {"time_ns": time.time_ns(), "sizes": grown}
            self._out.append(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        if changed:
            self.due = self._clock() + min(MAX_PAUSE_S, self._pause_s * 2 ** (self._out.written_bytes // SPARSER_BYTES))
        return bool(changed)


def _size(path: str) -> int:
    """Size of a file; -1 where there is none, or a rank put something else in its place."""
    try:
        info = os.lstat(path)
    except OSError:
        return -1
    return info.st_size if stat.S_ISREG(info.st_mode) else -1
