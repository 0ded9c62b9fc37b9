"""The first dashboard in the browser, from stock ipywidgets: state, Stop, and the tail of each rank's log.

Runs in: the kernel; the only module that imports ipywidgets.

The caller's thread only notes what is new; one thread draws it, at most ten times a second (the first line of a rank at
once), the tab in view first. At the end the widgets give way to the saved dashboard, which needs no kernel.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

import ipywidgets

from nb_elastic.model import LogChunk
from nb_elastic.render import html
from nb_elastic.render.base import Shown
from nb_elastic.render.tails import TailLine, Tails
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import EMPTY, RunSnapshot

DRAW_S = 0.1
"""Least time between two drawings."""
CLOCK_S = 1.0
"""The elapsed time is drawn anew so often while nothing else happens."""
TAB_CHARS = 60_000
_BOX = "height:320px;overflow:auto;display:flex;flex-direction:column-reverse;border:1px solid rgba(128,128,128,.35)"
_PRE = "flex:none;overflow:visible;margin:0;padding:4px 8px;white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px;line-height:1.4"
_ALL, _RANKS = 0, 1


class WidgetRenderer:
    """Draws a run under its cell.

    Args:
        run: the run's folder, read for the dashboard that is saved at the end.
        shown: which streams are shown.
        on_stop: called in the thread that handles the click; no Stop button without it.
        has_report: tell a failure whole at the end, because no error will.
    """

    def __init__(
        self,
        run: RunDir,
        *,
        shown: Shown | None = None,
        on_stop: Callable[[], object] | None = None,
        has_report: bool = True,
    ) -> None:
        self._run = run
        self._shown = shown or Shown()
        self._on_stop = on_stop
        self._has_report = has_report
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._hurry = threading.Event()  # a rank's first line, or the end: no pause between two drawings
        self._closing = threading.Event()
        self._snapshot: RunSnapshot = EMPTY
        self._tails = Tails()
        self._stale: dict[int, None] = {}  # ranks whose tab is behind, the longest waiting first
        self._pages: dict[int, Any] = {}
        self._drawn: dict[Any, str] = {}
        self._build()
        self._handle = self._display()
        self._thread = threading.Thread(target=self._draw_until_closed, name="nb-elastic-widget", daemon=True)
        self._thread.start()

    def update(self, snapshot: RunSnapshot) -> None:
        """Take a new state; it is drawn soon."""
        with self._lock:
            self._snapshot = snapshot
        self._wake.set()

    def append(self, chunks: Sequence[LogChunk]) -> None:
        """Take new log bytes; they are drawn soon."""
        shown = self._shown.chunks(chunks)
        if not shown:
            return
        with self._lock:
            silent = {chunk.rank for chunk in shown if not self._tails.count(chunk.rank)}
            self._tails.append(shown)
            if any(self._tails.count(rank) for rank in silent):
                self._hurry.set()
            self._stale.update(dict.fromkeys(chunk.rank for chunk in shown))
        self._wake.set()

    def close(self, snapshot: RunSnapshot) -> None:
        """Replace the widgets by the saved dashboard."""
        self._closing.set()
        self._hurry.set()
        self._wake.set()
        self._thread.join()
        data = html.bundle(snapshot, self._run, now_ns=time.time_ns(), has_report=self._has_report)
        self._handle.update(data, raw=True)
        for widget in _family(self._box):
            widget.close()

    def _build(self) -> None:
        self._header = ipywidgets.HTML(_header(self._snapshot, self._run))
        self._stop = ipywidgets.Button(description="Stop", button_style="danger", icon="stop", tooltip="Stop all ranks")
        self._stop.layout.width = "110px"
        self._stop.layout.display = None if self._on_stop else "none"
        self._stop.on_click(self._stop_clicked)
        self._all, self._ranks = ipywidgets.HTML(), ipywidgets.HTML()
        self._tab = ipywidgets.Tab(children=(self._all, self._ranks), titles=("All", "Ranks"))
        self._tab.observe(lambda _: self._wake.set(), names="selected_index")
        top = ipywidgets.HBox((self._header, self._stop))
        top.layout.justify_content = "space-between"
        self._box = ipywidgets.VBox((top, self._tab))
        for widget in _family(self._box):
            _unroute(widget)

    def _display(self) -> Any:
        from IPython.display import display

        return display(self._box, display_id=True)  # type: ignore[no-untyped-call]

    def _stop_clicked(self, button: Any) -> None:
        button.disabled = True
        button.description = "Stopping"
        if self._on_stop is not None:
            self._on_stop()

    def _draw_until_closed(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(CLOCK_S)
            self._wake.clear()
            self._hurry.clear()
            if self._closing.is_set():
                return
            started_s = time.monotonic()
            try:
                self._draw()
            except Exception:  # noqa: BLE001  a thread's border: a face that can't be drawn must not end the run
                if self._closing.is_set():
                    return
            self._hurry.wait(max(0.0, started_s + DRAW_S - time.monotonic()))

    def _draw(self) -> None:
        """Draw header and table if they changed, the tab in view, and one tab that is not in view."""
        with self._lock:
            snapshot = self._snapshot
            self._match_tabs(snapshot)
            chosen = self._tab.selected_index
            tables = {self._header: _header(snapshot, self._run)}
            if chosen == _RANKS:
                tables[self._ranks] = html.table(snapshot, now_ns=time.time_ns())
            if chosen == _ALL:
                tables[self._all] = _log_html(self._tails.all_lines(), has_prefix=len(snapshot.workers) > 1)
            in_view = [r for r, page in self._pages.items() if r in self._stale and self._index(page) == chosen]
            others = [r for r in self._stale if r in self._pages and r not in in_view]
            for rank in [*in_view, *others[:1]]:
                self._stale.pop(rank)
                tables[self._pages[rank]] = _log_html(self._tails.lines(rank), has_prefix=False)
            if self._stale:
                self._wake.set()
        for widget, value in tables.items():
            if self._drawn.get(widget) != value:
                self._drawn[widget] = value
                widget.value = value

    def _index(self, page: Any) -> int:
        found: int = self._tab.children.index(page)
        return found

    def _match_tabs(self, snapshot: RunSnapshot) -> None:
        """Have a tab for each rank, with its state in the title."""
        for worker in snapshot.workers:
            if worker.rank not in self._pages:
                page = self._pages[worker.rank] = ipywidgets.HTML(_log_html((), has_prefix=False))
                _unroute(page)
                _unroute(page.layout)
                self._stale[worker.rank] = None
        ranks = sorted(self._pages)
        children = (self._all, self._ranks, *(self._pages[r] for r in ranks))
        if self._tab.children != children:
            self._tab.children = children
        states = {w.rank: w.state.value for w in snapshot.workers}
        titles = ("All", "Ranks", *(f"{r} {states.get(r, 'gone')}" for r in ranks))
        if self._tab.titles != titles:
            self._tab.titles = titles


def _header(snapshot: RunSnapshot, run: RunDir) -> str:
    if not snapshot.run_id:
        return f"<div>{html.chip('starting')} <b>{escape(run.run_id)}</b></div>"
    return html.header(snapshot, now_ns=time.time_ns())


def _log_html(lines: Sequence[TailLine], *, has_prefix: bool) -> str:
    """The tail of a log as a box that stays at its end; stderr in red."""
    rows: list[str] = []
    room = TAB_CHARS
    for line in reversed(lines):
        text = escape(f"[rank {line.rank}] {line.text}" if has_prefix else line.text)
        row = f'<span style="color:#c62828">{text}</span>' if line.stream == "stderr" else text
        room -= len(row) + 1
        if room < 0:
            break
        rows.append(row)
    body = "\n".join(reversed(rows)) or '<span style="opacity:.6">nothing written yet</span>'
    return f'<div style="{_BOX}"><pre style="{_PRE}">{body}</pre></div>'


def _family(widget: Any) -> Iterable[Any]:
    """The widget, all that it holds, and their layouts and styles, each once."""
    found: dict[str, Any] = {}
    queue = [widget]
    while queue:
        one = queue.pop()
        if one.model_id in found:
            continue
        found[one.model_id] = one
        queue += [
            *getattr(one, "children", ()),
            *(getattr(one, name) for name in ("layout", "style") if hasattr(one, name)),
        ]
    return list(found.values())


def _unroute(widget: Any) -> None:
    """Have clicks handled while the cell is busy.

    ipykernel 7.4 sends what the browser says over a comm to where the comm last published from, which
    is the busy main shell; without its note it sends it to the comm's own subshell, as 7.0 to 7.3 do.
    """
    comm = getattr(widget, "comm", None)
    if comm is not None and hasattr(type(comm), "_reply_subshell_for"):
        comm._reply_subshell_for = None  # noqa: SLF001
