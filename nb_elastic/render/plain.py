"""Plain text as it comes: for pipes, files, batch runs of notebooks, and wherever nothing better can be drawn.

Runs in: the kernel or command line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, TextIO

from nb_elastic import report_text
from nb_elastic.model import LogChunk
from nb_elastic.render.base import Shown
from nb_elastic.render.displays import text_lines
from nb_elastic.render.feed import LINES_SHOWN, Feed, FoldedLine
from nb_elastic.render.standstill import Standstill
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot


class PlainRenderer:
    """Writes a run as text.

    Args:
        out: takes the ranks' stdout.
        err: takes the ranks' stderr.
        own: takes what we say ourselves: header, restarts, summary.
        folder: the run's folder, for pointers to its files and what the summary reads.
        shown: which streams are shown.
        lines_shown: most lines of one rank in one round.
        has_colour: keep the ranks' colours.
        has_report: tell a failure whole at the end, because no error will.
        has_summary: end with a summary; False where somebody else draws one.
    """

    needs_logs = True

    def __init__(
        self,
        *,
        out: TextIO,
        err: TextIO,
        own: TextIO,
        folder: RunDir,
        shown: Shown | None = None,
        lines_shown: int = LINES_SHOWN,
        has_colour: bool = False,
        has_report: bool = False,
        has_summary: bool = True,
        clock: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._out, self._err, self._own = out, err, own
        self._folder = folder
        self._shown = shown or Shown()
        self._has_report, self._has_summary = has_report, has_summary
        self._now_ns = now_ns
        self._feed = Feed(folder, lines_shown=lines_shown, has_colour=has_colour, clock=clock)
        self._has_prefix = True
        self._round = 0
        self._news = report_text.News(folder)
        self._standstill = Standstill(folder)
        self._waiting: list[str] = []

    def update(self, snapshot: RunSnapshot) -> None:
        """Tell what is new about the run; the end of a round waits for the round's last lines."""
        self._round = snapshot.round
        self._feed.update(snapshot)
        self._has_prefix = max(snapshot.world_size, len(snapshot.workers)) > 1
        now, later = self._news.of(snapshot)
        self._waiting += later
        now += self._standstill.of(snapshot)
        if now:
            self._write_lines(self._feed.drain())
            self._write(self._own, now)

    def append(self, chunks: Sequence[LogChunk]) -> None:
        """Write new lines, once they are old enough to have met their equals."""
        shown = self._shown.chunks(chunks)
        old = [c for c in shown if c.round < self._round]
        self._write_lines(self._feed.append(old))
        if not old:
            self._say_waiting()
        self._write_lines(self._feed.append([c for c in shown if c.round >= self._round]))

    def show(self, outputs: Sequence[Mapping[str, Any]]) -> None:
        """Write what rank 0 displays, as text."""
        self._write_lines(self._feed.drain())
        if lines := text_lines(outputs):
            self._write(self._out, lines)

    def close(self, snapshot: RunSnapshot) -> None:
        """Write unfinished lines, the last lines of long logs, and the summary."""
        self.update(snapshot)
        self._say_waiting()
        self._write_lines(self._feed.close())
        if self._has_summary:
            self._has_summary = False
            now_ns, has_report = self._now_ns(), self._has_report
            lines = report_text.summary_lines(snapshot, folder=self._folder, now_ns=now_ns, has_report=has_report)
            self._write(self._own, lines)

    def _say_waiting(self) -> None:
        if self._waiting:
            self._write_lines(self._feed.drain())
            self._write(self._own, self._waiting)
            self._waiting = []

    def _write_lines(self, lines: Sequence[FoldedLine]) -> None:
        """Write lines to where they belong; neighbours go in one piece."""
        for target, group in groupby(lines, key=self._target):
            self._write(target, [f"{line.prefix}{line.text}" if self._has_prefix else line.text for line in group])

    def _target(self, line: FoldedLine) -> TextIO:
        if line.is_ours:
            return self._own
        return self._out if line.stream == "stdout" else self._err

    @staticmethod
    def _write(stream: TextIO, lines: Sequence[str]) -> None:
        text = "\n".join(lines) + "\n"
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
