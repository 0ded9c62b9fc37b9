"""Which face a run gets: the browser's widget, a terminal's live view, plain text, or none.

Runs in: the kernel or command line.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nb_elastic import notebook, report_text, snapshot
from nb_elastic.errors import OptionError
from nb_elastic.model import LogChunk
from nb_elastic.model_options import RENDER_MODES, LaunchOptions
from nb_elastic.render import html
from nb_elastic.render.base import Renderer, Shown, SilentRenderer
from nb_elastic.render.displays import Displays
from nb_elastic.render.plain import PlainRenderer
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot


def choose(
    mode: str,
    *,
    run: RunDir,
    options: LaunchOptions | None = None,
    on_stop: Callable[[float], object] | None = None,
    has_report: bool | None = None,
) -> Renderer:
    """Make the renderer for ``--render``.

    Args:
        mode: ``auto`` or a mode to be obeyed.
        run: folder of the run that will be drawn.
        options: of the launch whose cell this is: its errors will be raised, so they are not told
            twice. None for one who only looks (show, attach).
        on_stop: called, from any thread, with the grace in seconds when the user presses Stop; no button without it.
        has_report: tell a failure whole; where None, for one who only looks.

    Raises:
        OptionError: if the mode can't be had here; nothing is drawn.
    """
    mode = resolve(mode)
    shown = Shown.of(options)
    has_report = options is None if has_report is None else has_report
    if mode == "none":
        return SilentRenderer()
    if mode == "widget":
        from nb_elastic.render.widget import WidgetRenderer

        return WidgetRenderer(run, shown=shown, on_stop=on_stop, has_report=has_report)
    if mode == "terminal":
        from nb_elastic.render.terminal import TerminalRenderer

        return TerminalRenderer(run, shown=shown, has_report=has_report)
    if _is_kernel():
        return NotebookRenderer(run, shown=shown, has_report=has_report)
    own = sys.stdout if notebook.shell() is not None or sys.stdout.isatty() else sys.stderr
    return PlainRenderer(
        out=sys.stdout,
        err=sys.stderr,
        own=own,
        folder=run,
        shown=shown,
        has_colour=sys.stdout.isatty(),
        has_report=has_report,
    )


def resolve(mode: str) -> str:
    """The mode that ``auto`` comes to here, or the mode itself; cheap, so that a launch asks before it starts anything.

    Raises:
        OptionError: if the mode can't be had here.
    """
    if mode not in RENDER_MODES:
        raise OptionError(f"--render {mode!r} is none of {', '.join(RENDER_MODES)}. Nothing was started.")
    if mode == "auto":
        return _automatic()
    if mode == "widget":
        _need_kernel()
    if mode == "terminal":
        _need_terminal()
    return mode


def show(run: RunDir) -> None:
    """Show a run as it is now, from its folder alone: its saved dashboard in a notebook, else text."""
    now = snapshot.load(run)
    if _is_kernel():
        html.display(now, run)
        return
    lines = report_text.status_lines(now, folder=run, now_ns=time.time_ns())
    sys.stdout.write("\n".join(lines) + "\n")


class NotebookRenderer:
    """Plain text as it comes, and at the end the saved dashboard: for notebooks that run where no browser listens."""

    needs_logs = True

    def __init__(self, run: RunDir, *, shown: Shown, has_report: bool) -> None:
        self._run = run
        self._has_report = has_report
        self._displays = Displays(run.run_id)
        self._plain = PlainRenderer(
            out=sys.stdout,
            err=sys.stderr,
            own=sys.stdout,
            folder=run,
            shown=shown,
            has_colour=True,
            has_summary=False,
        )

    def update(self, snapshot: RunSnapshot) -> None:
        """Tell what is new about the run."""
        self._plain.update(snapshot)

    def append(self, chunks: Sequence[LogChunk]) -> None:
        """Write new lines."""
        self._plain.append(chunks)

    def show(self, outputs: Sequence[Mapping[str, Any]]) -> None:
        """Show what rank 0 displays."""
        self._displays.show(outputs)

    def close(self, snapshot: RunSnapshot) -> None:
        """Write what is left, then display the dashboard to be saved with the notebook."""
        self._plain.close(snapshot)
        html.display(snapshot, self._run, has_story=False, has_report=self._has_report)


def _automatic() -> str:
    if _is_kernel():
        return "widget" if _has_browser() else "plain"
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return "terminal" if is_terminal and importlib.util.find_spec("rich") else "plain"


def _is_kernel() -> bool:
    return getattr(notebook.shell(), "kernel", None) is not None


def _has_browser() -> bool:
    """True if somebody who can be asked sent the cell: batch runners (nbclient, papermill) allow no stdin."""
    return notebook.allows_stdin(notebook.shell())


def _need_kernel() -> None:
    if not _is_kernel():
        raise OptionError(
            "--render widget needs a Jupyter kernel, and this is none. Use --render auto, terminal or plain."
        )


def _need_terminal() -> None:
    if _is_kernel() or not sys.stdout.isatty():
        where = "in a notebook" if _is_kernel() else "where stdout is no terminal"
        raise OptionError(f"--render terminal does not work {where}. Use --render auto or plain. Nothing was started.")
    if not importlib.util.find_spec("rich"):
        raise OptionError(
            "--render terminal needs rich, which is not installed here. Use --render plain. Nothing was started."
        )
