"""Who wants the end while the supervisor warms up: no thread may listen yet, so a timer's signal looks around.

Runs in: the supervisor, from the launch until its forkserver is forked.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

from nb_elastic import lifeline, machine, rundir
from nb_elastic.events import Event, encode, make
from nb_elastic.model import LaunchSpec
from nb_elastic.supervisor import run_verdict, stopping
from nb_elastic.supervisor.channel import FrameDecoder

LOOK_S = 0.2
"""How often the timer looks. Python's handlers wait for a long native call (one library's loading) to return."""

FAILED, STOPPED = 1, 2
"""Exit codes of a supervisor that ends here."""


class Vigil:
    """Ends the process, with the run's last word, when somebody asks for the end, is gone, or the time is up.

    What it read from stdin and is no whole frame yet lies in ``decoder``, for whoever listens next.

    Args:
        started_at: when (``time.monotonic``) the launch came; ``--timeout`` counts from here.
    """

    def __init__(self, spec: LaunchSpec, *, started_at: float, fd: int = 0) -> None:
        self.decoder = FrameDecoder()
        self._spec = spec
        self._fd = fd
        self._timeout_at = None if spec.options.timeout is None else started_at + spec.options.timeout
        self._has_ended = False

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.siginterrupt(signal.SIGALRM, False)  # native code in an import need not know of us
        signal.setitimer(signal.ITIMER_REAL, LOOK_S, LOOK_S)

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def _on_alarm(self, _number: int, _frame: FrameType | None) -> None:
        if by := self._asker():
            self._end("stopped", f"stopped by {by}", by, STOPPED)
        elif self._timeout_at is not None and time.monotonic() >= self._timeout_at:
            text = f"{stopping.timeout_text(self._spec.options.timeout)}\nIt was still importing what the ranks need."
            self._end("failed", text, "timeout", FAILED)

    def _asker(self) -> str:
        """Who asked for the end; "" while nobody did."""
        if told := stopping.read_stop(rundir.RunDir(Path(self._spec.run_dir))):
            return told.by or "somebody"
        if pending := signal.sigpending() & set(lifeline.DEATH_SIGNALS):
            return f"signal {signal.Signals(min(pending)).name}"
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while not self._has_ended and poll.poll(0):
            data = os.read(self._fd, 1 << 16)
            self._has_ended = not data
            for message in self.decoder.feed(data):
                if message.get("type") == "stop":
                    return str(message.get("by") or "somebody")
        owner = owner_of(self._spec)
        is_left = self._has_ended or (owner is not None and not owner.may_live)
        return "the end of whoever started it" if is_left and not self._spec.is_detached else ""

    def _end(self, state: str, text: str, by: str, code: int) -> NoReturn:
        try:
            node = self._spec.node
            told = run_verdict.NONE if code == STOPPED else run_verdict.of_timeout(self._spec.options.timeout)
            more: dict[str, Any] = {"category": told.category, "reasons": list(told.reasons)}
            say(
                self._spec,
                make("stop_requested", node=node, by=by, grace_s=0.0),
                make("run_finished", node=node, state=state, root_rank=None, text=text, **more),
            )
            for pid in lifeline.descendants(os.getpid()):  # of an import
                if identity := lifeline.ProcessId.of(pid):
                    identity.signal(signal.SIGKILL)
        finally:
            os._exit(code)


def owner_of(spec: LaunchSpec) -> lifeline.ProcessId | None:
    """The process whose end ends the run; None for a detached run, and where no process of this machine started it."""
    if spec.is_detached or not spec.owner_pid or not spec.machine or spec.machine != machine.here():
        return None
    return lifeline.ProcessId(spec.owner_pid, spec.owner_start_ticks)


def say(spec: LaunchSpec, *said: Event) -> None:
    """Write events to the journal and to stdout, without a thread or a lock; what can't be written is left out."""
    with contextlib.suppress(OSError):
        journal = rundir.Journal(rundir.RunDir(Path(spec.run_dir)).journal)
        for event in said:
            journal.append(event)
    with contextlib.suppress(OSError):
        os.write(1, b"".join(map(encode, said)))
