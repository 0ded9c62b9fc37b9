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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nb_elastic import report_text
from nb_elastic.model import LogChunk, Stream
from nb_elastic.render.lines import LineSplitter, LogLine, LogLines
from nb_elastic.rundir import RunDir

LINES_SHOWN = 1_000
"""Lines of one rank that are shown in one round, unless the caller says otherwise."""
LAST_LINES = 10
"""Of a rank that wrote more, so many of its last lines are shown at the end."""
LAST_BYTES = 16_000
WINDOW_S = 0.12
"""Equal lines of several ranks are folded if they come within this time."""
WINDOW_LINES = 2_000


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
        return f"[{report_text.ranks_text(self.ranks)}{mark}] "


class Window:
    """Lines held back for a moment, so that equal ones of several ranks become one."""

    def __init__(self) -> None:
        self._lines: list[FoldedLine] = []
        self._places: dict[tuple[Stream, str, bool], list[int]] = {}
        self._last_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._lines)

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
    """What of one worker was shown, and what was not."""

    chunk: LogChunk
    shown: int = 0
    hidden: Counter[Stream] = field(default_factory=Counter)
    last: dict[Stream, bytes] = field(default_factory=dict)


class Feed:
    """Turns chunks into lines to be written now."""

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
        self._since_s = 0.0
        self._budgets: dict[tuple[int, int, int], _Budget] = {}

    def append(self, chunks: Sequence[LogChunk]) -> list[FoldedLine]:
        """Take chunks (or just the passing of time); return lines that waited long enough to meet their equals."""
        for chunk in chunks:
            self._take(chunk)
        is_due = self._clock() - self._since_s >= WINDOW_S or len(self._window) >= WINDOW_LINES
        return self._window.take() if is_due else []

    def drain(self) -> list[FoldedLine]:
        """Return every complete line at once."""
        return self._window.take()

    def close(self) -> list[FoldedLine]:
        """Return all that is left: unfinished lines, and the last lines of logs that were not shown whole."""
        for line in self._lines.flush():
            # Of a log that is not shown whole, what is left over is the line at which showing stopped: it was counted.
            if not self._budgets[(line.node, line.round, line.local_rank)].hidden[line.stream]:
                self._hold(line)
        found = self._window.take()
        for budget in self._budgets.values():
            found += self._last_lines(budget)
        return found

    def _take(self, chunk: LogChunk) -> None:
        key = (chunk.node, chunk.round, chunk.local_rank)
        budget = self._budgets.setdefault(key, _Budget(chunk=chunk))
        budget.last[chunk.stream] = (budget.last.get(chunk.stream, b"") + chunk.data)[-LAST_BYTES:]
        if budget.shown >= self._lines_shown:
            self._hide(budget, chunk.stream, chunk.data.count(b"\n"))
            return
        for line in self._lines.feed([chunk]):
            self._hold(line)

    def _hold(self, line: LogLine) -> None:
        budget = self._budgets[(line.node, line.round, line.local_rank)]
        if budget.shown >= self._lines_shown:
            self._hide(budget, line.stream, 1)
            return
        budget.shown += 1
        self._add(line.rank, line.stream, line.text)

    def _hide(self, budget: _Budget, stream: Stream, count: int) -> None:
        if count and not budget.hidden:
            text = f"... more than {budget.shown:,} lines; what follows is in {self._place(budget)}"
            self._add(budget.chunk.rank, "stdout", text, is_ours=True)
        budget.hidden[stream] += count

    def _add(self, rank: int, stream: Stream, text: str, *, is_ours: bool = False) -> None:
        if not len(self._window):
            self._since_s = self._clock()
        self._window.add(rank=rank, stream=stream, text=text, is_ours=is_ours)

    def _last_lines(self, budget: _Budget) -> list[FoldedLine]:
        hidden = budget.hidden.total()
        if not hidden:
            return []
        rank = budget.chunk.rank
        text = f"... {hidden:,} more lines are in {self._place(budget)}; the last of them:"
        found = [FoldedLine(ranks=[rank], stream="stdout", text=text, is_ours=True)]
        for stream, data in budget.last.items():
            splitter = LineSplitter()
            texts = (splitter.feed(data) + splitter.flush())[1 if len(data) == LAST_BYTES else 0 :]
            count = min(LAST_LINES, budget.hidden[stream], len(texts))
            found += [FoldedLine(ranks=[rank], stream=stream, text=t) for t in texts[len(texts) - count :]]
        return found

    def _place(self, budget: _Budget) -> str:
        one = budget.chunk
        place = report_text.rank_dir(self._folder, node=one.node, round_number=one.round, local_rank=one.local_rank)
        return str(place.path)
