"""Ending a run early: who asked, how long ranks may take, and when the main thread may be interrupted.

Runs in: the supervisor.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from nb_elastic import rundir
from nb_elastic.lifeline import DEATH_SIGNALS

GRACE_S = 5.0
"""Grace of a stop that names none."""

LOST_GRACE_S = 1.0
"""Grace when whoever started the run is gone: everything must have ended within five seconds."""

MARGIN_S = 3.0
"""How long after the grace a main thread that does not react is given up."""

NUDGE = signal.SIGUSR1
"""Our own threads wake the main thread with this, so that it can't be mistaken for a signal from outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopOrder:
    """What the run folder says about ending the run.

    Attributes:
        by: who asked, or "".
    """

    by: str
    grace_s: float


def read_stop(run: rundir.RunDir) -> StopOrder | None:
    """How another process wants the run to end; None where none asked."""
    told = rundir.read_json(run.stop_json)
    if not told:
        return None
    grace_s = told.get("grace_s")
    if not isinstance(grace_s, (int, float)) or isinstance(grace_s, bool):
        grace_s = GRACE_S
    return StopOrder(by=str(told.get("by") or ""), grace_s=float(grace_s))


def timeout_text(timeout_s: float | None) -> str:
    """The run's last word when its time was up."""
    return f"timeout: the time was up after {timeout_s or 0:g} s; raise --timeout to let the run take longer."


def timeout_reason(timeout_s: float | None) -> str:
    """Why the run counts as one that took too long."""
    return f"The run took longer than --timeout, {timeout_s or 0:g} s; no rank had failed."


class Stopper:
    """What was asked for about ending the run. Any thread may ask; the main thread acts.

    A request raises ``make_exception()`` in the main thread, once, and only inside ``interruptible``:
    so no step of the supervisor's own work is ever cut in half. ``check`` raises what came meanwhile.

    Args:
        on_request: told (by, grace_s) of each request, from any thread.
        on_stuck: called in the watchdog's thread when the main thread does not react in time.
        timeout_s: longest time of the run, or None.
    """

    def __init__(
        self,
        run: rundir.RunDir,
        *,
        make_exception: Callable[[int], BaseException],
        on_request: Callable[[str, float], None],
        on_stuck: Callable[[], None],
        timeout_s: float | None = None,
    ) -> None:
        self.by = ""
        self.grace_s = GRACE_S
        self.is_timeout = False
        self._run = run
        self._make_exception = make_exception
        self._on_request = on_request
        self._on_stuck = on_stuck
        self._changed = threading.Condition(threading.RLock())
        self._timeout_at = None if timeout_s is None else time.monotonic() + timeout_s
        self._until: float | None = None
        self._stuck_at: float | None = None
        self._is_open = False
        self._has_raised = False
        self._is_over = False
        self._askers: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._watch, name="nb_elastic-watchdog", daemon=True)

    @property
    def is_requested(self) -> bool:
        """True once anybody asked for the end, or the time is up."""
        return self._until is not None

    @property
    def until(self) -> float | None:
        """When (``time.monotonic``) the grace of the present request ends; None without one."""
        return self._until

    def install(self, names: str) -> None:
        """Take over the signals named in ``--signals-to-handle``; others keep the system's way. Main thread only."""
        signal.signal(NUDGE, self._on_nudge)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would raise anywhere
        for name in names.split(","):
            with contextlib.suppress(AttributeError, ValueError, OSError):
                signal.signal(getattr(signal, name.strip()), self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, DEATH_SIGNALS)

    def start(self) -> None:
        """Start the watchdog."""
        self._thread.start()

    def close(self) -> None:
        """The run is over: nothing is raised any more; the watchdog is joined."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        for thread in (self._thread, *self._askers):
            if thread.ident is not None:
                thread.join()

    def request(self, *, by: str, grace_s: float, is_timeout: bool = False) -> None:
        """Ask for the end. A later request can only shorten the grace."""
        with self._changed:
            until = time.monotonic() + max(0.0, grace_s)
            if self._is_over or (self._until is not None and until >= self._until):
                return
            is_first = self._until is None
            self._until = until
            self.grace_s = grace_s
            if is_first:
                self.by, self.is_timeout = by, is_timeout
            self._stuck_at = until + MARGIN_S
            self._changed.notify_all()
        self._on_request(by, grace_s)
        os.kill(os.getpid(), NUDGE)

    def heed(self) -> None:
        """Take up a stop that another process left in the run folder before it could know whom to signal."""
        if told := read_stop(self._run):
            self.request(by=told.by or "somebody", grace_s=told.grace_s)

    def acknowledge(self, seconds: float) -> None:
        """The main thread is at work on the request and will be done within ``seconds``."""
        with self._changed:
            if self._stuck_at is not None:
                self._stuck_at = max(self._stuck_at, time.monotonic() + seconds + MARGIN_S)
                self._changed.notify_all()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within this block a request raises at once. Nothing that must be whole may happen here."""
        self.check()
        self._is_open = True
        try:
            self.check()
            yield
        finally:
            self._is_open = False

    def check(self) -> None:
        """Raise if a request came and was not raised yet."""
        if self.is_requested and not self._has_raised:
            self._has_raised = True
            raise self._make_exception(signal.SIGINT)

    def _on_nudge(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_open:
            self.check()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """A signal from outside; the run folder may tell how its sender wants the run to end."""
        told = read_stop(self._run)
        grace_s = told.grace_s if told else GRACE_S
        by = (told.by if told else "") or f"signal {signal.Signals(number).name}"
        # in a thread, because the main thread may hold the very locks that a request needs
        asker = threading.Thread(target=self.request, kwargs={"by": by, "grace_s": grace_s}, name="nb_elastic-stop")
        self._askers.append(asker)
        asker.start()

    def _watch(self) -> None:
        """Ask for the end when the time is up; give the main thread up when it does not react."""
        while True:
            with self._changed:
                if self._is_over:
                    return
                deadlines = [t for t in (self._timeout_at, self._stuck_at) if t is not None]
                left = min(deadlines) - time.monotonic() if deadlines else None
                if left is None or left > 0:
                    self._changed.wait(left)
                    continue
                is_stuck = self._stuck_at is not None and self._stuck_at <= time.monotonic()
                self._timeout_at = None
            if is_stuck:
                self._on_stuck()
                return
            self.request(by="timeout", grace_s=GRACE_S, is_timeout=True)
