"""One view's place in all files of a run: what it gets next, in which order, and what it can't have in time.

Runs in: the kernel, in the board's thread.

A replay goes in the order that ``growth.jsonl`` tells, so that the logs of many ranks come as they were written; what the
growth does not tell of, and what is new, comes as it is found. Nothing here looks at single lines.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nb_elastic import rundir
from nb_elastic.dashboard import plainjson
from nb_elastic.dashboard.files import File, RunFiles
from nb_elastic.errors import DescriptorsError

TAKE_BYTES = 1 << 20
"""Most bytes of one message."""
LEAST_BYTES = 16 << 10
"""A file's share of a message is no less."""
BEHIND_BYTES = 64 << 20
"""A view so far behind in the logs passes over their middle; the beginning of a file is always sent."""
KEPT_BYTES = 8 << 20
"""Of what a live view would have to catch up with, so much is still sent, of all files together."""
ENDS_BYTES = {"usage": 16 << 20, "outputs": 24 << 20}
"""Of these kinds a new view gets the end: pages keep the last minutes of usage, which grows by 100 MB a day, and more
outputs than this no rank of ours writes."""
FIRST_BYTES = 64 << 10
GROWTH_LINES = 5_000
"""Lines of growth.jsonl that one message looks at."""
REPLAY_CHUNKS = 20_000
"""A replay has about so many chunks at most: many ranks or long runs are merged less finely."""

Growth = tuple[int, dict[str, int]]
"""Time in ns, and the size by key of each file that grew."""


class Cursor:
    """Reads on from ``have``.

    Args:
        files: of the run; looked at by somebody else.
        have: how far each file was received; what is no file of the run is passed over.
    """

    def __init__(self, files: RunFiles, have: Mapping[str, int]) -> None:
        self._files = files
        self._offsets: dict[str, int] = {
            key: min(offset, file.size) for key, offset in have.items() if (file := files.get(key))
        }
        self._jumps: dict[str, tuple[int, int]] = {}  # where a gap begins, and where it ends
        self._turn = 0
        self._growth: Iterator[Growth] | None = None
        behind = [size for f in files if f.is_log and (size := f.size - self._at(f)) > 0]
        if behind:
            grain = min(sum(behind), BEHIND_BYTES) * len(behind) // REPLAY_CHUNKS
            self._growth = _coarse(_grown(files.growth()), grain)
        self._ahead: Growth | None = None
        for f in files:
            kept = ENDS_BYTES.get(f.kind)
            if kept is not None and f.size - self._at(f) > kept:
                self._jumps[f.key] = (self._at(f), f.size - kept)
        self._skip(BEHIND_BYTES, BEHIND_BYTES)

    @property
    def is_behind(self) -> bool:
        """True if there is more to send of what was last seen."""
        return any(f.size > self._at(f) for f in self._files)

    def take(self, limit: int = TAKE_BYTES) -> tuple[list[dict[str, Any]], list[bytes]]:
        """The next chunks and their bytes, at most ``limit`` bytes; nothing when all was taken."""
        taken = _Taken(limit)
        self._take_all(taken, [f for f in self._files if not f.is_log])
        if self._growth is not None:
            self._replay(taken)
        if self._growth is None and taken.room > 0:
            self._skip(BEHIND_BYTES, KEPT_BYTES)
            self._take_all(taken, [f for f in self._files if f.is_log])
        return taken.chunks, taken.pieces

    def _at(self, file: File) -> int:
        return self._offsets.get(file.key, 0)

    def _take_all(self, taken: _Taken, files: list[File]) -> None:
        """A share of each file; who got none is first next time."""
        files = [f for f in files if f.size > self._at(f)]
        if not files:
            return
        share = max(LEAST_BYTES, taken.room // len(files))
        self._turn %= len(files)
        for n in range(len(files)):
            if taken.room <= 0:
                self._turn += n
                return
            file = files[(self._turn + n) % len(files)]
            self._take(taken, file, min(file.size, self._at(file) + share), file.time_ns)
        for file in files:  # what the others left
            if taken.room <= 0:
                return
            self._take(taken, file, file.size, file.time_ns)

    def _take(self, taken: _Taken, file: File, end: int, time_ns: int) -> bool:
        """Take a file up to ``end``, over a gap if one begins on the way; False if there was no room for all."""
        while (offset := self._at(file)) < end:
            skipped = 0
            gap, beyond = self._jumps.get(file.key, (-1, 0))
            if gap == offset:
                del self._jumps[file.key]
                skipped, offset = beyond - gap, beyond
            stop = min(end, gap) if gap > offset else end
            size = min(stop - offset, taken.room)
            is_blind = False
            try:
                data = rundir.read_at(file.path, offset, size) if size > 0 else b""
            except DescriptorsError:
                data, is_blind = b"", True
            if not data and skipped:
                self._jumps[file.key] = (gap, beyond)
            if is_blind:
                return False
            if not data:
                if size > 0:  # it was cut, deleted or replaced since the last look
                    file.size = min(file.size, self._at(file))
                return offset >= end
            self._offsets[file.key] = offset + len(data)
            taken.add(file, offset, data, time_ns, skipped)
        return True

    def _replay(self, taken: _Taken) -> None:
        """Take what one line of the growth after another tells of."""
        for _ in range(GROWTH_LINES):
            if taken.room <= 0 or self._growth is None:
                return
            line = self._ahead or next(self._growth, None)
            if line is None:
                self._growth = None
                return
            self._ahead = line
            time_ns, sizes = line
            for key, size in sizes.items():
                file = self._files.get(key)
                if file is None or not file.is_log:
                    continue
                if not self._take(taken, file, min(size, file.size), time_ns) and taken.room <= 0:
                    return
            self._ahead = None

    def _skip(self, limit: int, kept: int) -> None:
        """Where the logs are more than ``limit`` ahead, plan to pass over all but their ends, ``kept`` in all."""
        behind = {f.key: f.size - self._at(f) for f in self._files if f.is_log and f.size > self._at(f)}
        planned = sum(end - gap for key, (gap, end) in self._jumps.items() if key in behind)
        if sum(behind.values()) - planned <= limit:
            return
        share = kept // len(behind)
        for key, size in behind.items():
            gap = max(self._offsets.get(key, 0), FIRST_BYTES)
            end = self._offsets.get(key, 0) + size - share
            if key in self._jumps:
                gap = min(gap, self._jumps[key][0])
            if end > gap:
                self._jumps[key] = (gap, end)


class _Taken:
    """What one message will hold."""

    def __init__(self, limit: int) -> None:
        self.room = limit
        self.chunks: list[dict[str, Any]] = []
        self.pieces: list[bytes] = []

    def add(self, file: File, offset: int, data: bytes, time_ns: int, skipped: int) -> None:
        self.room -= len(data)
        self.pieces.append(data)
        self.chunks.append(
            {
                "file": file.key,
                "kind": file.kind,
                "node": file.node,
                "round": file.round,
                "local_rank": file.local_rank,
                "rank": file.rank,
                "offset": offset,
                "size": len(data),
                "time_ns": time_ns,
                "skipped": skipped,
            }
        )


def _grown(paths: list[tuple[int, Path]]) -> Iterator[Growth]:
    """The lines of all nodes' growth files in order of time."""
    return heapq.merge(*(_lines(node, path) for node, path in paths), key=lambda line: line[0])


def _lines(node: int, path: Path) -> Iterator[Growth]:
    for row in plainjson.RowReader(path).rows():
        sizes = row.get("sizes")
        if isinstance(sizes, dict):
            yield row["time_ns"], {f"{node}/{k}": v for k, v in sizes.items() if isinstance(v, int) and v > 0}


def _coarse(lines: Iterator[Growth], grain_bytes: int) -> Iterator[Growth]:
    """Join neighbouring lines until each tells of at least so many bytes."""
    before: dict[str, int] = {}
    joined: dict[str, int] = {}
    grown = time_ns = 0
    for time_ns, sizes in lines:
        joined |= sizes
        grown += sum(size - before.get(key, 0) for key, size in sizes.items())
        before |= sizes
        if grown >= grain_bytes:
            yield time_ns, joined
            joined, grown = {}, 0
    if joined:
        yield time_ns, joined
