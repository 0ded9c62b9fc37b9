"""The live view in a terminal: log lines scroll by above, a table of ranks stays below.

Runs in: a terminal's IPython or the command line; the only module that imports rich.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nb_elastic import report_nodes, report_text, report_words
from nb_elastic.model import LogChunk
from nb_elastic.render.base import Shown
from nb_elastic.render.displays import text_lines
from nb_elastic.render.feed import LINES_SHOWN, Feed, FoldedLine
from nb_elastic.render.standstill import Standstill
from nb_elastic.render.tails import Tails
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import EMPTY, RunSnapshot, WorkerSnapshot

DRAW_S = 0.1
"""Least time between two drawings of the table."""
WIDE_COLUMNS = 100
"""A narrower terminal gets rank, state, time and last line only."""
_STATE_STYLES = {
    "starting": "yellow",
    "running": "cyan",
    "held": "magenta",
    "succeeded": "green",
    "failed": "bold red",
    "ended": "dim",
    "stopped": "yellow",
    "stopping": "yellow",
    "restarting": "yellow",
    "lost": "bold red",
}
_RANK_STYLES = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")


class TerminalRenderer:
    """Draws a run in a terminal.

    Args:
        run: the run's folder.
        shown: which streams are shown.
        has_report: tell a failure whole at the end, because no error will.
        console: where to draw; stdout's terminal unless a test says otherwise.
    """

    needs_logs = True

    def __init__(
        self,
        run: RunDir,
        *,
        shown: Shown | None = None,
        has_report: bool = False,
        lines_shown: int = LINES_SHOWN,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._run = run
        self._shown = shown or Shown()
        self._has_report = has_report
        self._clock, self._now_ns = clock, now_ns
        self._console = console or Console(highlight=False)
        self._feed = Feed(run, lines_shown=lines_shown, has_colour=True, clock=clock)
        self._tails = Tails(lines=10)
        self._news = report_text.News(run)
        self._standstill = Standstill(run)
        self._waiting: list[str] = []
        self._snapshot: RunSnapshot = EMPTY
        self._drawn_s = clock()
        self._is_closed = False
        self._live = Live(
            _View(self),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def update(self, snapshot: RunSnapshot) -> None:
        """Draw a new state, and tell above what happened."""
        self._snapshot = snapshot
        self._feed.update(snapshot)
        now, later = self._news.of(snapshot)
        self._waiting += later
        now += self._standstill.of(snapshot)
        self._print([Text(line, style="bold") for line in now])
        self._draw()

    def append(self, chunks: Sequence[LogChunk]) -> None:
        """Let new lines scroll by."""
        shown = self._shown.chunks(chunks)
        self._tails.append(shown)
        old = [c for c in shown if c.round < self._snapshot.round]
        self._print_lines(self._feed.append(old))
        if not old:
            self._say_waiting()
        self._print_lines(self._feed.append([c for c in shown if c.round >= self._snapshot.round]))
        self._draw()

    def show(self, outputs: Sequence[Mapping[str, Any]]) -> None:
        """Let what rank 0 displays scroll by, as text."""
        self._print_lines(self._feed.drain())
        self._print([Text(line) for line in text_lines(outputs)])

    def close(self, snapshot: RunSnapshot) -> None:
        """Write what is left, the last table and the summary; the terminal is the user's again."""
        self._snapshot = snapshot
        try:
            self._say_waiting()
            now, later = self._news.of(snapshot)
            self._print([Text(line, style="bold") for line in [*now, *later]])
            self._print_lines(self._feed.close())
        finally:
            self._live.stop()
        if self._is_closed:
            return
        self._is_closed = True
        self._print([table_of(snapshot, self._tails, now_ns=self._now_ns(), width=self._console.width, height=1_000)])
        lines = report_text.summary_lines(
            snapshot, folder=self._run, now_ns=self._now_ns(), has_report=self._has_report
        )
        style = _STATE_STYLES.get(snapshot.state.value, "")
        self._print([Text(lines[0], style=style), *(Text(line) for line in lines[1:])])

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """The table goes away while somebody is asked in this terminal, and comes back."""
        self._print_lines(self._feed.drain())
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    def view(self, *, width: int, height: int) -> RenderableType:
        """What stands below the scrolling lines, for a terminal of this size."""
        now_ns = self._now_ns()
        snapshot = self._snapshot
        state = snapshot.state.value
        title = Text.assemble(
            (f" {state} ", f"reverse {_STATE_STYLES.get(state, 'yellow')}"),
            f" {snapshot.run_id or self._run.run_id} ",
            (report_words.elapsed_text(snapshot.elapsed_s(now_ns)), "bold"),
            overflow="ellipsis",
            no_wrap=True,
        )
        if snapshot.max_restarts:
            title.append(f" {report_words.attempt_text(snapshot)}", style="dim")
        if not snapshot.workers:
            return title
        return Group(title, table_of(snapshot, self._tails, now_ns=now_ns, width=width, height=max(1, height // 2)))

    def _draw(self) -> None:
        if self._clock() - self._drawn_s >= DRAW_S:
            self._drawn_s = self._clock()
            self._live.refresh()

    def _say_waiting(self) -> None:
        if self._waiting:
            self._print_lines(self._feed.drain())
            self._print([Text(line, style="bold") for line in self._waiting])
            self._waiting = []

    def _print_lines(self, lines: Sequence[FoldedLine]) -> None:
        has_prefix = max(self._snapshot.world_size, len(self._snapshot.workers)) > 1
        self._print([_line_text(line, has_prefix=has_prefix) for line in lines])

    def _print(self, texts: Sequence[RenderableType]) -> None:
        if texts:
            self._console.print(*texts, sep="\n", soft_wrap=True, markup=False, highlight=False)


class _View:
    """Asks for the terminal's size each time it is drawn, so that a resize is followed."""

    def __init__(self, renderer: TerminalRenderer) -> None:
        self._renderer = renderer

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> list[RenderableType]:
        return [self._renderer.view(width=options.max_width, height=console.size.height)]


def table_of(snapshot: RunSnapshot, tails: Tails, *, now_ns: int, width: int, height: int) -> RenderableType:
    """The table of ranks: at most ``height`` rows; ranks that don't fit are folded by state, or by node where there are any."""
    if snapshot.nodes and len(snapshot.workers) > height:
        return _node_table(snapshot, width=width, height=height)
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, width=width, header_style="dim")
    columns = report_text.worker_columns(snapshot, now_ns=now_ns)
    is_wide = width >= WIDE_COLUMNS
    kept = {
        name: cells for name, cells in columns.items() if is_wide or name in {"rank", "node", "state", "exit", "time"}
    }
    kept.pop("binding", None)
    for name in kept:
        table.add_column(name, no_wrap=True)
    table.add_column("last line", no_wrap=True, overflow="ellipsis", ratio=1)
    chosen, folded = _fold(snapshot.workers, height)
    cells_of = dict(zip(snapshot.workers, zip(*kept.values(), strict=True), strict=True))
    for worker in chosen:
        cells = [_cell(name, text) for name, text in zip(kept, cells_of[worker], strict=True)]
        table.add_row(*cells, Text(tails.last(worker.rank), overflow="ellipsis", no_wrap=True))
    if not folded:
        return table
    more = [f"{report_words.ranks_text(ranks)}: {state}" for state, ranks in folded.items()]
    return Group(table, Text("; ".join(more), style="dim", overflow="ellipsis", no_wrap=True))


def _fold(workers: Sequence[WorkerSnapshot], height: int) -> tuple[list[WorkerSnapshot], dict[str, list[int]]]:
    """Choose the rows: failed ranks first, then in order; the rest by state."""
    if len(workers) <= height:
        return list(workers), {}
    by_need = sorted(workers, key=lambda w: (w.state.value != "failed", w.node, w.local_rank))
    chosen = set(by_need[: max(1, height - 1)])
    folded: dict[str, list[int]] = {}
    for worker in workers:
        if worker not in chosen:
            folded.setdefault(worker.state.value, []).append(worker.rank)
    return [w for w in workers if w in chosen], folded


def _node_table(snapshot: RunSnapshot, *, width: int, height: int) -> RenderableType:
    """A row for each node, those that need a look first; those that don't fit are folded by how their ranks are."""
    columns = report_nodes.node_columns(snapshot)
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    usual = Counter(row.get("they are", "") for row in rows).most_common(1)[0][0]
    by_need = sorted(range(len(rows)), key=lambda i: (rows[i].get("they are", "") == usual, i))
    chosen = set(by_need if len(rows) <= height else by_need[: max(1, height - 1)])
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, width=width, header_style="dim")
    kept = [name for name in columns if width >= WIDE_COLUMNS or name in {"node", "state", "they are"}]
    for name in kept:
        table.add_column(name, no_wrap=True, overflow="ellipsis", ratio=1 if name == kept[-1] else None)
    for i in sorted(chosen):
        table.add_row(*(Text(rows[i][name], style=_STATE_STYLES.get(rows[i][name], "")) for name in kept))
    folded: dict[str, list[int]] = {}
    for i in sorted(set(range(len(rows))) - chosen):
        folded.setdefault(rows[i].get("they are", ""), []).append(int(rows[i]["node"]))
    if not folded:
        return table
    more = [f"{report_nodes.nodes_text(nodes)}: {states or 'no ranks'}" for states, nodes in folded.items()]
    return Group(table, Text("; ".join(more), style="dim", overflow="ellipsis", no_wrap=True))


def _cell(name: str, text: str) -> Text:
    return Text(text, style=_STATE_STYLES.get(text, "") if name == "state" else "")


def _line_text(line: FoldedLine, *, has_prefix: bool) -> Text:
    text = Text.from_ansi(line.text) if "\x1b" in line.text else Text(line.text)
    if line.is_ours:
        text.stylize("dim")
    if not has_prefix:
        return text
    style = _RANK_STYLES[line.ranks[0] % len(_RANK_STYLES)] if len(line.ranks) == 1 else "bold"
    return Text.assemble((line.prefix, f"{style} italic" if line.stream == "stderr" else style), text)
