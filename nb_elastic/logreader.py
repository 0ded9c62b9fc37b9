"""Reading the log files of a run as they grow: a share of each at every look, and the way to catch up with a flood.

Runs in: the kernel or the command line.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nb_elastic import rundir
from nb_elastic.errors import DescriptorsError
from nb_elastic.model import STREAMS, LogChunk, Stream
from nb_elastic.rundir import RankDir, RunDir

READ_BYTES = 1 << 20
"""Most bytes that one look at one file reads."""
LOOK_BYTES = 8 << 20
"""Most bytes that one look at all files reads: what a reader holds in memory, however many ranks there are."""
LEAST_BYTES = 64 << 10
"""A file's share is no less, so that many ranks don't make the looks too small to be worth their while."""
FIRST_BYTES = 4 << 10
"""A first line is no longer than this; what is longer is no line that somebody waits for."""
BEHIND_BYTES = 64 << 20
"""A reader so far behind goes on at the end of the file: it would never catch up, and nobody could read what it missed.
The beginning of a file is always read."""


@dataclass(slots=True)
class _File:
    """One log file, and how far it was read.

    Attributes:
        has_begun: its first line was read whole: a print is two writes, the text and the line's end.
    """

    rank: int
    local_rank: int
    round: int
    node: int
    stream: Stream
    path: Path
    offset: int = 0
    has_begun: bool = False


class LogFollower:
    """Reads every log file of a run and follows them; keeps a byte offset for each.

    Args:
        watch: called with a file that has nothing new (or no line yet), before it is read once more: whoever watches can then sleep.
        clock: seconds, for ``took_s``.

    Attributes:
        has_more: the last look left bytes behind that it had no room for.
        took_s: seconds that the last look took.
    """

    def __init__(
        self,
        run: RunDir,
        *,
        watch: Callable[[Path], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._watch = watch
        self._clock = clock
        self._files: list[_File] = []
        self._known: set[RankDir] = set()
        self._round = 0
        self._turn = 0
        self.has_more = False
        self.took_s = 0.0

    def add(self, *, rank: int, local_rank: int, round_number: int, node: int | None = None) -> None:
        """Follow one more worker, known from a ``worker_started`` event."""
        folder = self._run.rank(round_number, local_rank, node=node)
        if folder in self._known:
            return
        self._known.add(folder)
        self._round = max(self._round, round_number)
        self._files += [
            _File(rank, local_rank, round_number, node or 0, stream, folder.stream(stream)) for stream in STREAMS
        ]

    def read(self, *, max_bytes: int = READ_BYTES, is_first: bool = False) -> list[LogChunk]:
        """Return new bytes, at most ``max_bytes`` of each file; empty when all are caught up.

        Args:
            is_first: only of files of which no line was read so far.

        Raises:
            DescriptorsError: if this process has too many files open to look.
        """
        began_s = self._clock()
        files = [f for f in self._files if not f.has_begun] if is_first else self._files
        room = LOOK_BYTES
        has_more = False
        chunks: list[LogChunk] = []
        for n in range(len(files)):
            share = min(max_bytes, max(LEAST_BYTES, LOOK_BYTES // len(files)), room)
            if share <= 0:
                has_more = True
                self._turn += n  # the next look begins with the file for which no room was left
                break
            try:
                chunk = self._read(files[(self._turn + n) % len(files)], share)
            except DescriptorsError:
                if not chunks:
                    raise
                break  # what was read must not be lost
            if chunk:
                chunks.append(chunk)
                room -= len(chunk.data)
                has_more = has_more or len(chunk.data) + chunk.skipped >= share
        if not is_first:
            self.has_more, self.took_s = has_more, self._clock() - began_s
        return chunks

    def _read(self, file: _File, size: int) -> LogChunk | None:
        if file.round < self._round and _size_of(file.path) == file.offset:
            return None  # cheaper than a read: after many restarts most files are of this kind
        data = rundir.read_at(file.path, file.offset, size)
        if self._watch is not None and file.round == self._round and not (data and _has_line(file, data)):
            self._watch(file.path)
            data = rundir.read_at(file.path, file.offset, size)  # it may have grown just before
        file.has_begun = _has_line(file, data)
        skipped = 0
        if file.offset and len(data) == size and (behind := _size_of(file.path) - file.offset) > BEHIND_BYTES:
            data = rundir.read_at(file.path, file.offset + behind - size, size)
            cut = data.find(b"\n") + 1
            skipped, data = behind - size + cut, data[cut:]
        if not data and not skipped:
            return None
        chunk = LogChunk(
            rank=file.rank,
            local_rank=file.local_rank,
            round=file.round,
            stream=file.stream,
            offset=file.offset + skipped,
            data=data,
            node=file.node,
            skipped=skipped,
        )
        file.offset += skipped + len(data)
        return chunk


def _has_line(file: _File, data: bytes) -> bool:
    """True if a line of the file was read, or with these bytes is."""
    return file.has_begun or b"\n" in data or b"\r" in data or file.offset + len(data) > FIRST_BYTES


def _size_of(path: Path) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return 0
