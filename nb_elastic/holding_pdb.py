"""pdb over the desk: post-mortem at an exception, live at a breakpoint.

Runs in: a worker; imported when a rank is first held.
"""

from __future__ import annotations

import code
import contextlib
import pdb  # noqa: T100  it is what this module is about
import re
import signal
import sys
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from nb_elastic import frames
from nb_elastic.holding_desk import Desk, Interrupted

SKIPPED = ("nb_elastic", "nb_elastic.*", "runpy")
"""Stepping out of the user's code does not lead into this package."""

_OWN = str(Path(__file__).parent)
_FOREIGN = re.compile(r"[/\\](site|dist)-packages[/\\]|[/\\]lib[/\\]python\d|^<frozen ")

DEAD = "The rank failed here and can't run on. q ends the run; `leave` (or an interrupt) leaves it held."


class RankPdb(pdb.Pdb):
    """pdb whose terminal is a desk."""

    def __init__(self, desk: Desk, *, is_dead: bool) -> None:
        super().__init__(
            stdin=desk,  # type: ignore[arg-type]  # a text file in all that pdb asks of it
            stdout=desk,  # type: ignore[arg-type]
            skip=SKIPPED,
            nosigint=True,
            readrc=False,
        )
        self._desk = desk
        self._is_dead = is_dead
        self._is_continuing = False
        desk.on_join = self._show_place

    # -- holding -----------------------------------------------------------------------------

    def look_back(self, exc: BaseException, tb: TracebackType) -> None:
        """Hold the rank at its exception until it is released."""
        exc.__traceback__ = tb
        place = own_place(tb)
        text = f"{place_text(*place)}: {type(exc).__name__}: {frames.message_of(exc)}"
        self.reset()
        with (
            contextlib.suppress(Interrupted),
            self._desk.open(why="failure", text=frames.shorten(text, 1_000), frame=place[0]),
        ):
            # From 3.13 on pdb wants the exception, and walks its chain
            super().interaction(None, exc if sys.version_info >= (3, 13) else tb)  # type: ignore[arg-type]
        self._desk.end("quit")

    def stop_at(self, frame: FrameType) -> None:
        """Stop in this frame now. ``set_trace`` would stop at whatever line runs next, which may be a library's."""
        self.reset()
        self._set_stopinfo(None, None)  # type: ignore[attr-defined]  # as set_step does it
        one: FrameType | None = frame
        while one is not None:
            one.f_trace = self.trace_dispatch
            self.botframe: FrameType | None = one
            one = one.f_back
        self.interaction(frame, None)
        if self.breaks or not self._is_continuing:
            sys.settrace(self.trace_dispatch)

    def interaction(self, frame: FrameType | None, tb_or_exc: Any) -> None:
        """Hold the rank each time it stops. A stop of the run reaches the user's code as it does anywhere."""
        self._is_continuing = False
        text = place_text(frame, frame.f_lineno) if frame is not None else "unknown"
        with contextlib.suppress(Interrupted):
            with self._desk.open(why="breakpoint", text=text, frame=frame):
                super().interaction(frame, tb_or_exc)
            if self._is_continuing:
                self._desk.end("continue")
            else:
                self._desk.say_running()
            return
        self.forget()
        self.clear_all_breaks()
        self.set_continue()
        sys.settrace(None)
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGINT)

    def get_stack(self, f: FrameType | None, t: TracebackType | None) -> tuple[list[tuple[FrameType, int]], int]:
        """Without the frames that led to the user's code."""
        stack, index = super().get_stack(f, t)
        last = max((i for i, (frame, _) in enumerate(stack[:-1]) if _is_ours(frame)), default=-1) if f else -1
        while last + 1 < len(stack) - 1 and "runpy" in stack[last + 1][0].f_code.co_filename:
            last += 1
        return stack[last + 1 :], max(0, index - last - 1)

    def canonic(self, filename: str) -> str:
        """A cell's name is no path."""
        return filename if filename.startswith("Cell In[") else super().canonic(filename)

    # -- commands ----------------------------------------------------------------------------

    def do_quit(self, arg: str) -> bool | None:  # noqa: ARG002  pdb's signature
        """End the whole run (q, quit, exit): no rank is left behind."""
        if self._is_dead:
            return True
        self._desk.end("quit")  # whoever spoke to pdb now stops the run; until then the rank stays where it is
        return None

    do_q = do_exit = do_quit

    def do_leave(self, arg: str) -> bool | None:  # noqa: ARG002  pdb's signature
        """End this conversation; the rank stays held."""
        self._desk.end("left")
        return None

    do_EOF = do_leave  # noqa: N815  pdb's name

    def do_continue(self, arg: str) -> bool | None:
        """Let the rank run on until its next breakpoint (c, cont, continue)."""
        self._is_continuing = True
        return super().do_continue(arg)

    do_c = do_cont = do_continue

    def do_run(self, arg: str) -> bool | None:  # noqa: ARG002  pdb's signature
        """Not here: launch the cell again instead."""
        self.message("A rank can't be started again from here. q ends the run; then launch it again.")
        return None

    do_restart = do_run

    def do_interact(self, arg: str) -> bool | None:  # noqa: ARG002  pdb's signature
        """Open an interpreter with the names of this frame, here in this conversation; exit() ends it."""
        frame = self.curframe
        if frame is None:
            return None
        console = code.InteractiveConsole({**frame.f_globals, **frame.f_locals}, filename="<interact>")
        self._desk.is_nested = True
        try:
            with (
                contextlib.redirect_stdout(self._desk),
                contextlib.redirect_stderr(self._desk),
                contextlib.suppress(SystemExit),
            ):
                console.raw_input = self._read_for_console  # type: ignore[method-assign]
                console.interact(banner="*interact* (exit() leads back to pdb)", exitmsg="")
        finally:
            self._desk.is_nested = False
        return None

    def onecmd(self, line: str) -> bool:
        """After a failure nothing runs."""
        name = self.parseline(line)[0]
        if self._is_dead and name in _RUNNING:
            self.message(DEAD)
            return False
        return bool(super().onecmd(line))

    def _read_for_console(self, prompt: str = "") -> str:
        self._desk.write(prompt)
        line = self._desk.readline()
        if line in {"", "exit()\n", "quit()\n", "EOF\n"}:
            raise EOFError
        return line.rstrip("\n")

    def _show_place(self) -> None:
        if getattr(self, "stack", None):
            self.print_stack_entry(self.stack[self.curindex])


_RUNNING = frozenset(
    "s step n next r return c cont continue unt until j jump run restart".split()  # noqa: SIM905  as pdb lists them
)


def own_place(tb: TracebackType) -> tuple[FrameType, int]:
    """Innermost frame and line of the user's own code, else of all."""
    found = last = (tb.tb_frame, tb.tb_lineno)
    has_own, one = False, tb.tb_next
    if not _FOREIGN.search(tb.tb_frame.f_code.co_filename) and not _is_ours(tb.tb_frame):
        has_own = True
    while one is not None:
        last = (one.tb_frame, one.tb_lineno)
        if not _FOREIGN.search(one.tb_frame.f_code.co_filename) and not _is_ours(one.tb_frame):
            found, has_own = last, True
        one = one.tb_next
    return found if has_own else last


def place_text(frame: FrameType | None, line: int) -> str:
    """A place in words: ``Cell In[3], line 7, in train``."""
    if frame is None:
        return "unknown"
    name = frame.f_code.co_name
    return f"{frame.f_code.co_filename}, line {line}" + ("" if name == "<module>" else f", in {name}")


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_OWN)
