"""The last lines of every rank, for faces that show a tail: bounded, whatever the ranks write.

Runs in: the kernel or command line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from nb_elastic.model import LogChunk, Stream
from nb_elastic.render.lines import LineSplitter

TAIL_LINES = 500
LOOK_BYTES = 64 << 10
"""Of a larger piece only so much at its end, and no more lines than are kept, is split: the rest would scroll by unseen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TailLine:
    """One line of a tail, with who wrote it."""

    rank: int
    stream: Stream
    text: str


@dataclass(slots=True)
class _RankTail:
    lines: deque[TailLine]
    splitters: dict[Stream, LineSplitter] = field(default_factory=dict)
    round: int = 0
    count: int = 0
    last: str = ""


class Tails:
    """Takes chunks, keeps the last lines of each rank and of all ranks together."""

    def __init__(self, *, lines: int = TAIL_LINES, has_colour: bool = False) -> None:
        self._limit = lines
        self._has_colour = has_colour
        self._ranks: dict[int, _RankTail] = {}
        self._all: deque[TailLine] = deque(maxlen=lines)

    def append(self, chunks: Sequence[LogChunk]) -> list[TailLine]:
        """Take new bytes; returns the lines they completed (of large pieces, those at the end)."""
        new: list[TailLine] = []
        for chunk in chunks:
            new += self._take(chunk)
        self._all.extend(new)
        return new

    def ranks(self) -> list[int]:
        """Ranks that wrote something."""
        return sorted(self._ranks)

    def count(self, rank: int) -> int:
        """Number of lines that a rank wrote in its latest round, shown or not."""
        return self._ranks[rank].count if rank in self._ranks else 0

    def lines(self, rank: int) -> list[TailLine]:
        """Last lines of a rank, the unfinished ones at the end."""
        tail = self._ranks.get(rank)
        if tail is None:
            return []
        pending = [TailLine(rank=rank, stream=s, text=p.pending) for s, p in tail.splitters.items() if p.pending]
        return [*tail.lines, *pending][-self._limit :]

    def all_lines(self) -> list[TailLine]:
        """Last complete lines of all ranks, as they came."""
        return list(self._all)

    def last(self, rank: int) -> str:
        """What a rank wrote last: its unfinished line (a progress bar, say), else its last line that is not blank."""
        tail = self._ranks.get(rank)
        if tail is None:
            return ""
        return next((p.pending for p in tail.splitters.values() if p.pending.strip()), tail.last)

    def _take(self, chunk: LogChunk) -> list[TailLine]:
        tail = self._ranks.setdefault(chunk.rank, _RankTail(deque(maxlen=self._limit), round=chunk.round))
        if chunk.round > tail.round:
            tail.lines.append(TailLine(rank=chunk.rank, stream="stdout", text=f"--- round {chunk.round} ---"))
            tail.round, tail.count, tail.splitters = chunk.round, 0, {}
        data = chunk.data
        start = _tail_start(data, self._limit)
        if start or chunk.skipped:
            tail.splitters.pop(chunk.stream, None)  # what it holds of an unfinished line has no end in view
        tail.count += data.count(b"\n", 0, start)
        data = data[start:]
        splitter = tail.splitters.setdefault(chunk.stream, LineSplitter(has_colour=self._has_colour))
        texts = splitter.feed(data)
        tail.count += len(texts)
        tail.last = next((t for t in reversed(texts) if t.strip()), tail.last)
        new = [TailLine(rank=chunk.rank, stream=chunk.stream, text=text) for text in texts]
        tail.lines.extend(new)
        return new


def _tail_start(data: bytes, lines: int) -> int:
    """Where the last lines of a piece begin: a line's beginning, or 0 where the piece is short (or one long line)."""
    least = max(0, len(data) - LOOK_BYTES)
    end = start = len(data)
    for _ in range(lines + 1):  # one more for what stands after the last line end
        end = data.rfind(b"\n", least, end)
        if end < 0:
            return start if least and start < len(data) else 0
        start = end + 1
    return start
