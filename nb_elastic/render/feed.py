"""What text faces write of the ranks' logs: bounded for each rank, equal lines of several ranks folded.

Runs in: the kernel or command line.

Nothing is lost but on purpose, and then it is told where it lies: bars collapse to their last state, a
rank shows at most so many lines, and a line that several ranks wrote at about the same time is
written once, under all their names. Each rank's own lines keep their order.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from nb_elastic import report_words
from nb_elastic.model import LogChunk, Stream
from nb_elastic.render.lines import LineSplitter, LogLine, LogLines
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot

LINES_SHOWN = 1_000
"""Lines of one rank that are shown in one round, unless the caller says otherwise."""
LAST_LINES = 10
"""Of a rank that wrote more, so many of its last lines are shown at the end."""
LAST_BYTES = 16_000
WINDOW_S = 0.045
"""Equal lines of several ranks are folded if they come within this time: in one look at the logs, or in two that follow."""
FIRST_S = 0.004
"""The same for the first line of a rank, which should be seen at once: a little less than the follower's short tick."""
WINDOW_LINES = 2_000
"""So many lines are held at most."""


@dataclass(slots=True, kw_only=True)
class FoldedLine:
    """One line to be written, and the ranks it belongs to.

    Attributes:
        is_ours: a word of ours about the rank's log, not of the rank.
    """

    ranks: list[int]
    stream: Stream
    text: str
    is_ours: bool = False

    @property
    def prefix(self) -> str:
        """Name who wrote the line: ``[rank 2] ``, ``[ranks 0-3 err] ``."""
        mark = " err" if self.stream == "stderr" and not self.is_ours else ""
        return f"[{report_words.ranks_text(self.ranks)}{mark}] "


class Window:
    """Lines held back for a moment, so that equal ones of several ranks become one."""

    def __init__(self) -> None:
        self._lines: list[FoldedLine] = []
        self._places: dict[tuple[Stream, str, bool], list[int]] = {}
        self._last_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def is_whole(self, ranks: Collection[int]) -> bool:
        """True if each of these ranks has written each of these lines: none waits for anybody."""
        return bool(ranks) and all(not set(ranks).difference(line.ranks) for line in self._lines)

    def add(self, *, rank: int, stream: Stream, text: str, is_ours: bool = False) -> None:
        """Join the first equal line that stands below all of this rank's own, or stand last."""
        places = self._places.setdefault((stream, text, is_ours), [])
        found = bisect_right(places, self._last_of.get(rank, -1))
        if found == len(places):
            # The line first: a KeyboardInterrupt may come between the two.
            self._lines.append(FoldedLine(stream=stream, text=text, ranks=[rank], is_ours=is_ours))
            places.append(len(self._lines) - 1)
        else:
            self._lines[places[found]].ranks.append(rank)
        self._last_of[rank] = places[found]

    def take(self) -> list[FoldedLine]:
        """Return all lines, and begin anew."""
        lines = self._lines
        self._lines, self._places, self._last_of = [], {}, {}
        return lines


@dataclass(slots=True, kw_only=True)
class _Budget:
    """What of one worker was shown, and what was not.

    Attributes:
        hidden: lines that were read and not shown.
        skipped: bytes that were not even read.
        last: the end of what was read of each stream.
    """

    chunk: LogChunk
    shown: int = 0
    hidden: Counter[Stream] = field(default_factory=Counter)
    skipped: int = 0
    last: dict[Stream, bytes] = field(default_factory=dict)


class Feed:
    """Turns chunks into lines to be written now. Holds little, whatever the ranks write."""

    def __init__(
        self,
        folder: RunDir,
        *,
        lines_shown: int = LINES_SHOWN,
        has_colour: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._lines_shown = lines_shown
        self._clock = clock
        self._lines = LogLines(has_colour=has_colour)
        self._window = Window()
        self._due_s = 0.0
        self._ready: list[FoldedLine] = []
        self._living: frozenset[int] = frozenset()
        self._budgets: dict[tuple[int, int, int], _Budget] = {}

    def update(self, snapshot: RunSnapshot) -> None:
        """Learn which ranks live: a line that all of them wrote waits for nobody."""
        self._living = frozenset(w.rank for w in snapshot.workers if not w.state.is_final)

    def append(self, chunks: Sequence[LogChunk]) -> list[FoldedLine]:
        """Take chunks (or just the passing of time); return lines that waited long enough to meet their equals."""
        for chunk in chunks:
            self._take(chunk)
            if len(self._window) >= WINDOW_LINES:
                self._ready += self._window.take()
        if self._ready or self._clock() >= self._due_s or self._window.is_whole(self._living):
            return self.drain()
        return []

    def drain(self) -> list[FoldedLine]:
        """Return every complete line at once."""
        lines, self._ready = self._ready + self._window.take(), []
        return lines

    def close(self) -> list[FoldedLine]:
        """Return all that is left: unfinished lines, and the last lines of logs that were not shown whole."""
        finished = set()
        for line in self._lines.flush():
            key = (line.node, line.round, line.local_rank)
            if self._budgets[key].shown < self._lines_shown:
                self._show(self._budgets[key], line)
                finished.add((key, line.stream))
        found = self.drain()
        for key, budget in self._budgets.items():
            for stream, data in budget.last.items():
                has_unfinished = bool(data.rpartition(b"\n")[2].strip(b"\r"))
                if has_unfinished and budget.shown >= self._lines_shown and (key, stream) not in finished:
                    self._hide(budget, stream, 1)
            found += self._window.take() + self._last_lines(budget)
        return found

    def _take(self, chunk: LogChunk) -> None:
        key = (chunk.node, chunk.round, chunk.local_rank)
        budget = self._budgets.setdefault(key, _Budget(chunk=chunk))
        budget.last[chunk.stream] = _end(b"" if chunk.skipped else budget.last.get(chunk.stream, b""), chunk.data)
        if chunk.skipped:
            self._skip(budget, chunk)
        # Only what can be shown is split into lines: the rest of a flood costs no more than counting.
        start = 0
        while budget.shown < self._lines_shown and start < len(chunk.data):
            end = _nth_end(chunk.data, start, self._lines_shown - budget.shown)
            for line in self._lines.feed([replace(chunk, data=chunk.data[start:end])]):
                self._show(budget, line)
            start = end
        self._hide(budget, chunk.stream, chunk.data.count(b"\n", start))

    def _show(self, budget: _Budget, line: LogLine) -> None:
        is_first = not budget.shown
        budget.shown += 1
        self._add(line.rank, line.stream, line.text)
        if is_first:
            self._due_s = min(self._due_s, self._clock() + FIRST_S)

    def _skip(self, budget: _Budget, chunk: LogChunk) -> None:
        """A gap: what stood before it can't be joined to what comes after."""
        for line in self._lines.cut(chunk):
            if budget.shown < self._lines_shown:
                self._show(budget, line)
        budget.skipped += chunk.skipped
        if budget.shown < self._lines_shown:
            text = f"... {chunk.skipped:,} bytes came too fast to be shown; they are in {self._place(budget)}"
            self._add(chunk.rank, "stdout", text, is_ours=True)

    def _hide(self, budget: _Budget, stream: Stream, count: int) -> None:
        if not count:
            return
        if not budget.hidden:
            text = f"... more than {budget.shown:,} lines; what follows is in {self._place(budget)}"
            self._add(budget.chunk.rank, "stdout", text, is_ours=True)
        budget.hidden[stream] += count

    def _add(self, rank: int, stream: Stream, text: str, *, is_ours: bool = False) -> None:
        if not len(self._window):
            self._due_s = self._clock() + WINDOW_S
        self._window.add(rank=rank, stream=stream, text=text, is_ours=is_ours)

    def _last_lines(self, budget: _Budget) -> list[FoldedLine]:
        hidden = budget.hidden.total()
        if not hidden:
            return []
        rank = budget.chunk.rank
        skipped = f" and {budget.skipped:,} bytes that nobody counted" if budget.skipped else ""
        text = f"... {hidden:,} more lines{skipped} are in {self._place(budget)}; the last of them:"
        found = [FoldedLine(ranks=[rank], stream="stdout", text=text, is_ours=True)]
        for stream, data in budget.last.items():
            splitter = LineSplitter()
            texts = (splitter.feed(data) + splitter.flush())[1 if len(data) == LAST_BYTES else 0 :]
            count = min(LAST_LINES, budget.hidden[stream], len(texts))
            found += [FoldedLine(ranks=[rank], stream=stream, text=t) for t in texts[len(texts) - count :]]
        return found

    def _place(self, budget: _Budget) -> str:
        one = budget.chunk
        place = report_words.rank_dir(self._folder, node=one.node, round_number=one.round, local_rank=one.local_rank)
        return str(place.path)


def _end(before: bytes, data: bytes) -> bytes:
    """The last LAST_BYTES of both."""
    return data[-LAST_BYTES:] if len(data) >= LAST_BYTES else (before + data)[-LAST_BYTES:]


def _nth_end(data: bytes, start: int, count: int) -> int:
    """Position after the ``count``-th line end from ``start`` on; the end of ``data`` where there are fewer."""
    for _ in range(count):
        start = data.find(b"\n", start) + 1
        if not start:
            return len(data)
    return start
