"""The dashboard in the browser: an anywidget under the cell whose views the board serves from the run folder.

Runs in: the kernel; the only module that imports anywidget.

The cell's thread shows, replaces and closes; it never waits for a page, save up to CLOSE_S at the end for pages that are there.
Where no page speaks (its JavaScript did not reach it, or nobody looks) an HTML tail stands in for the dashboard.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nb_elastic import snapshot as snapshots
from nb_elastic.dashboard import board as boards
from nb_elastic.dashboard.monitor import unroute
from nb_elastic.dashboard.view import Door
from nb_elastic.lifeline import HeldInterrupts
from nb_elastic.model import LogChunk
from nb_elastic.render import html
from nb_elastic.render.base import Shown
from nb_elastic.render.displays import EMPTY, Displays
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot

STATIC = Path(__file__).parents[1] / "static"
VIEW = "application/vnd.jupyter.widget-view+json"
UNHEARD_S = 3.0
"""If no page has spoken so long, the tail is shown."""
TAIL_S = 1.0
RARELY_S = 30.0
"""Longest time between two drawings of the tail: it gets rarer the longer nobody speaks."""
CLOSE_S = 1.0
"""Longest time that the cell's end waits for pages to get the last lines."""


class WidgetRenderer:
    """Draws a run under its cell.

    Args:
        run: the run's folder.
        shown: which streams the HTML tail shows; the dashboard shows all, and has its own filters.
        on_stop: asks the run to stop, given the grace in seconds; no Stop button without it.
        has_report: tell a failure whole at the end, because no error will.
        clock: seconds.
    """

    needs_logs = False

    def __init__(
        self,
        run: RunDir,
        *,
        shown: Shown | None = None,
        on_stop: Callable[[float], object] | None = None,
        has_report: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._has_report = has_report
        self._clock = clock
        self._board = boards.shared()
        self._widget = _widget(run.run_id)
        self._on_stop = on_stop
        stop = None if on_stop is None else self._stop
        self._door = Door(send=self._send, find=self._find, stop=stop, charts=_charts())
        self._snapshot = snapshots.load(run)
        self._is_closed = False
        self._displays = Displays(run.run_id)
        self._tail = _Tail(run, shown=shown or Shown(), clock=clock, is_all=self._widget is None)
        try:
            if self._widget is not None:
                self._widget.on_msg(lambda _widget, content, _buffers: self._board.hear(self._door, content))
                self._board.broadcast(self._door)
            self._handle = self._display()
        except BaseException:
            self._let_go()
            raise

    def update(self, snapshot: RunSnapshot) -> None:
        """Take a new state; the board reads it from the folder by itself."""
        self._snapshot = snapshot
        self._look_for_pages()

    def append(self, chunks: Sequence[LogChunk]) -> None:  # noqa: ARG002  the renderers' common shape
        """Time passes; the board reads the logs by itself."""
        self._look_for_pages()

    def show(self, outputs: Sequence[Mapping[str, Any]]) -> None:
        """Show what rank 0 displays under the cell."""
        self._displays.show(outputs)

    def close(self, snapshot: RunSnapshot) -> None:
        """Let the pages have the last lines, then put the saved dashboard in the widget's place.

        An interrupt comes when all that is done, which takes seconds at most: half of it would leave a dead widget there.
        """
        with HeldInterrupts():
            if self._is_closed:
                return
            self._is_closed = True
            try:
                if snapshot.state.is_final:
                    self._board.finish(self._run, CLOSE_S)
                data = html.bundle(snapshot, self._run, now_ns=time.time_ns(), has_report=self._has_report)
                self._handle.update(data, raw=True)
                self._tail.clear()
            finally:
                self._let_go()

    def _let_go(self) -> None:
        self._board.leave(self._door)
        if self._widget is not None:
            for part in (self._widget.layout, self._widget):
                part.close()

    def _display(self) -> Any:
        from IPython.display import display

        data = html.bundle(self._snapshot, self._run, now_ns=time.time_ns(), has_report=self._has_report)
        if self._widget is not None:
            data[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": self._widget.model_id}
        return display(data, raw=True, display_id=f"nb-elastic-{self._run.run_id}-{time.time_ns()}")  # type: ignore[no-untyped-call]

    def _look_for_pages(self) -> None:
        if self._board.was_opened(self._run):
            self._tail.clear()
        else:
            self._tail.draw(self._snapshot)

    def _send(self, message: dict[str, Any], buffers: list[bytes]) -> None:
        if self._widget is None or self._widget.comm is None:
            raise ConnectionError("the widget is closed")
        self._widget.send(message, buffers=buffers or None)

    def _stop(self, _run: RunDir, grace_s: float) -> None:
        if self._on_stop is not None:
            self._on_stop(grace_s)

    def _find(self, run_id: str) -> RunDir | None:
        return self._run if run_id in {"", self._run.run_id} else None


class _Tail:
    """The last lines of each rank as HTML, in a display of its own, while no page speaks.

    Args:
        is_all: there is no widget, so this is the face, from the start.
    """

    def __init__(self, run: RunDir, *, shown: Shown, clock: Callable[[], float], is_all: bool) -> None:
        self._run, self._shown, self._clock = run, shown, clock
        self._began_s = clock() - (UNHEARD_S if is_all else 0.0)
        self._due_s = self._began_s + UNHEARD_S
        self._id = f"nb-elastic-tail-{run.run_id}-{time.time_ns()}"
        self._drawn = ""
        self._has_begun = self._is_there = False  # an interrupt may come between the two

    def draw(self, snapshot: RunSnapshot) -> None:
        """Draw if it is time to."""
        now_s = self._clock()
        if now_s < self._due_s:
            return
        self._due_s = now_s + min(RARELY_S, max(TAIL_S, (now_s - self._began_s) / 30))
        page = html.live_tail(snapshot, self._run, now_ns=time.time_ns(), has=self._shown.has)
        if page == self._drawn:
            return
        self._has_begun = True
        self._display({"text/html": page, **EMPTY})
        self._is_there, self._drawn = True, page

    def clear(self) -> None:
        """Take it away: a page speaks, or the saved dashboard stands there."""
        if self._has_begun:
            self._is_there = True
            self._display({"text/html": "", **EMPTY})
            self._has_begun, self._drawn = False, ""

    def _display(self, data: dict[str, str]) -> None:
        from IPython.display import display

        display(data, raw=True, display_id=self._id, update=self._is_there)  # type: ignore[no-untyped-call]


def is_available() -> bool:
    """True where the dashboard's own front end can be had: its built files, and anywidget to carry them."""
    return _widget_class() is not None


def _widget(run_id: str) -> Any:
    """A widget for one run, or None where there can be none."""
    cls = _widget_class()
    if cls is None:
        return None
    esm, css = _static()
    widget = cls(run_id=run_id, _esm=esm, _css=css)
    for part in (widget, widget.layout):
        unroute(part.comm)
    return widget


@functools.lru_cache(maxsize=1)
def _widget_class() -> Any:
    if not all(_static()):
        return None
    try:
        import anywidget
        import traitlets
    except ImportError:
        return None

    class Dashboard(anywidget.AnyWidget):
        """The widget under a cell; all it says goes as messages."""

        run_id = traitlets.Unicode().tag(sync=True)
        _esm = traitlets.Unicode().tag(sync=True)
        _css = traitlets.Unicode().tag(sync=True)

    return Dashboard


@functools.lru_cache(maxsize=1)
def _charts() -> bytes:
    """Script of the charts, which pages ask for; empty where it was not built."""
    with contextlib.suppress(OSError):
        return (STATIC / "charts.js").read_bytes()
    return b""


@functools.lru_cache(maxsize=1)
def _static() -> tuple[str, str]:
    """Script and style of the widget; empty where they were not built."""
    with contextlib.suppress(OSError):
        return (STATIC / "widget.js").read_text("utf-8"), (STATIC / "widget.css").read_text("utf-8")
    return "", ""
