"""Asks processes of ranks where they stand, and reads what they answer, without hurting them.

Runs in: the kernel or command line, and the supervisor; several may ask at once.

Three ways, the gentle ones first. (1) The bell: a thread of the rank, there while it has a process group, tells all threads. (2) A signal
with a handler in Python: the main thread tells all threads as soon as it runs Python code. (3) A signal to faulthandler, which answers from
native code: sent only when the main thread waits, or computes without having heeded the first one, so that no frame changes under it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nb_elastic import rundir, stacks_dump, stacks_proc, untrusted
from nb_elastic.lifeline import HeldInterrupts, ProcessId
from nb_elastic.model import Frame
from nb_elastic.rundir import RankDir
from nb_elastic.stacks_call import ASK, DUMP, is_in
from nb_elastic.stacks_dump import ThreadStack

POLL_S = 0.004
IDLE_S = 0.06
"""A main thread that slept for so long after it was asked waits in native code, not in Python's own."""
BELL_FIRST_S = 0.25
"""The bell disturbs nobody: for so long it alone is rung."""
BELL_S = 1.0
"""How long the rank's thread may take to answer the bell; it needs Python's lock."""
BUSY_S = 0.5
"""A main thread that used the CPU after it was asked, and did not answer for so long, is in native code."""
BUSY_NS = 20_000_000
GIVE_UP_S = 6.0
LOCK_S = 2.0
LOG_BYTES = 1 << 20
"""A dump file that has grown beyond this is emptied by the next asker."""
ANSWER_BYTES = 4 << 20
MAX_THREADS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a process told.

    Attributes:
        main: frames of the main thread, outermost first; empty where none could be had.
        others: the other Python threads.
        flight: counters and last collectives, as the rank wrote them: nobody vouches for it.
        is_native: the main thread is in native code for long: it did not heed the signal that Python handles.
        is_deaf: the rank's own thread did not answer the bell: somebody holds Python's lock.
        why: why there are no frames, or "".
    """

    main: tuple[Frame, ...] = ()
    others: tuple[ThreadStack, ...] = ()
    flight: dict[str, Any] = field(default_factory=dict)
    is_native: bool = False
    is_deaf: bool = False
    why: str = ""


def ask(asked: Sequence[tuple[ProcessId, RankDir]], *, is_gentle: bool = False) -> list[Answer]:
    """Ask processes at the same time; the answers come in the same order, within some seconds at most.

    Args:
        is_gentle: ring the bell, and send no signal.
    """
    askings = [_Asking(identity, folder, is_gentle=is_gentle) for identity, folder in asked]
    try:
        for one in askings:
            one.begin()
        left = askings
        while left := [one for one in left if not one.step()]:
            time.sleep(POLL_S)
    finally:
        for one in askings:
            one.close()
    return [one.answer or Answer(why="it did not answer") for one in askings]


class _Asking:
    """One process that is being asked."""

    def __init__(self, identity: ProcessId, folder: RankDir, *, is_gentle: bool) -> None:
        self.answer: Answer | None = None
        self._is_gentle = is_gentle
        self._identity = identity
        self._pid = identity.pid
        self._folder = folder
        self._lock = -1
        self._has_bell = False
        self._asked_at = 0.0
        self._asked_ns = 0
        self._base_ns: int | None = None
        self._signalled_at = 0.0
        self._idle_since: float | None = None
        self._last_run_ns = -1
        self._dump_at: float | None = None
        self._offset = 0
        self._dumped: tuple[Frame, ...] | None = None

    # -- steps -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Ask, if the process can answer."""
        now = stacks_proc.look(self._pid)
        if now is None or not self._identity.is_alive:
            self.answer = Answer(why="it is gone")
        elif now.state in "Tt":
            self.answer = Answer(why="it is stopped")
        elif not is_in(now.caught, DUMP) or not stacks_proc.writes_to(self._pid, self._folder.stacks):
            self.answer = Answer(why="it runs no Python that could tell")
        else:
            self._take_lock()
            with contextlib.suppress(OSError):
                self._answer_path.unlink()
            self._asked_at, self._asked_ns = time.monotonic(), time.monotonic_ns()
            self._has_bell = self._ring()

    def step(self) -> bool:
        """Look whether it answered, and go on to the next way; True when there is nothing more to come."""
        if self.answer is not None:
            return True
        if self._read_answer():
            return True
        now, waited = stacks_proc.look(self._pid), time.monotonic() - self._asked_at
        if now is None:
            self.answer = Answer(why="it is gone")
        elif self._is_gentle:
            if not self._has_bell or waited > BELL_S:
                why = "it did not answer its bell" if self._has_bell else "it has no process group, and is left alone"
                self.answer = Answer(why=why)
        elif waited > GIVE_UP_S or (is_in(now.blocked, DUMP) and self._dump_at is None and not self._has_bell):
            self.answer = self._last_word(now)
        elif self._base_ns is None:
            if not self._has_bell or waited >= BELL_FIRST_S:
                self._ask_main_thread(now)
        elif self._dump_at is None:
            if self._is_in_native_code(now):
                self._dump(now)
        elif self._dumped is None:
            self._read_dump(now)
        elif not self._has_bell or waited > BELL_S:
            self.answer = Answer(main=self._dumped, is_native=True, is_deaf=self._has_bell)
        return self.answer is not None

    def close(self) -> None:
        """Let the others ask."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # -- the gentle ways ---------------------------------------------------------------------

    @property
    def _answer_path(self) -> Path:
        return self._folder.answer(self._pid)

    def _ring(self) -> bool:
        """Ring the bell; False where nobody listens."""
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        with HeldInterrupts(most=1), contextlib.suppress(OSError):
            if not stat.S_ISFIFO(os.stat(self._folder.bell, follow_symlinks=False).st_mode):
                return False
            fd = os.open(self._folder.bell, flags)
            try:
                return stat.S_ISFIFO(os.fstat(fd).st_mode) and os.write(fd, b"a") == 1
            finally:
                os.close(fd)
        return False

    def _ask_main_thread(self, now: stacks_proc.Look) -> None:
        self._base_ns, self._signalled_at = now.run_ns, time.monotonic()
        if is_in(now.caught, ASK) and not is_in(now.blocked, ASK):
            self._identity.signal(ASK)

    def _read_answer(self) -> bool:
        if not os.path.lexists(self._answer_path):
            return False
        told = rundir.read_json(self._answer_path, max_bytes=ANSWER_BYTES)
        with contextlib.suppress(OSError):
            self._answer_path.unlink()
        if untrusted.integer(told.get("monotonic_ns")) < self._asked_ns:
            return False
        self.answer = Answer(
            main=_frames(told.get("main")),
            others=_threads(told.get("threads")),
            flight=told["flight"] if isinstance(told.get("flight"), dict) else {},
        )
        return True

    # -- the other way -----------------------------------------------------------------------

    def _is_in_native_code(self, now: stacks_proc.Look) -> bool:
        """True once the main thread can't be in the middle of Python code: it sleeps, or it was asked and did not hear."""
        if is_in(now.blocked, DUMP):
            return False
        if now.state != "S" or now.run_ns != self._last_run_ns:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()
        self._last_run_ns = now.run_ns
        if self._idle_since is not None and time.monotonic() - self._idle_since >= IDLE_S:
            return True
        used_ns, waited = now.run_ns - (self._base_ns or 0), time.monotonic() - self._signalled_at
        return waited >= BUSY_S and used_ns >= BUSY_NS and is_in(now.caught, ASK)

    def _dump(self, now: stacks_proc.Look) -> None:
        self._dump_at = time.monotonic()
        with contextlib.suppress(OSError):
            size = os.stat(self._folder.stacks, follow_symlinks=False).st_size
            self._offset = size if size <= LOG_BYTES or not self._empty() else 0
        if stacks_proc.writes_to(self._pid, self._folder.stacks) and is_in(now.caught, DUMP):
            self._identity.signal(DUMP)
        else:
            self.answer = Answer(why="it runs no Python that could tell")

    def _empty(self) -> bool:
        """Empty a dump file that has grown; True if that was done."""
        if self._lock < 0 or os.fstat(self._lock).st_nlink != 1:
            return False
        os.ftruncate(self._lock, 0)
        return True

    def _read_dump(self, now: stacks_proc.Look) -> None:
        """Read the dump once it is whole: the signal neither waits any more nor is being handled."""
        if is_in(now.pending, DUMP) or is_in(now.blocked, DUMP):
            return
        data = rundir.read_at(self._folder.stacks, self._offset)
        thread = stacks_dump.main_thread(stacks_dump.parse(data))
        if thread is None:
            self.answer = Answer(why="its dump could not be read", is_native=True)
        else:
            self._dumped = thread.frames

    def _last_word(self, now: stacks_proc.Look) -> Answer:
        if self._dumped is not None:
            return Answer(main=self._dumped, is_native=True, is_deaf=self._has_bell)
        if now.state == "D":
            return Answer(why="it hangs in the kernel")
        return Answer(why="it blocks the signals that ask it" if is_in(now.blocked, DUMP) else "it did not answer")

    def _take_lock(self) -> None:
        """One asker at a time; a rank that holds the lock itself delays us, and no more."""
        with contextlib.suppress(OSError):
            self._lock = os.open(self._folder.stacks, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            deadline = time.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        return
                    time.sleep(POLL_S)


def _frames(data: Any) -> tuple[Frame, ...]:
    """Frames as a rank told them, innermost first; here outermost first."""
    found = []
    for row in data[: stacks_dump.MAX_FRAMES] if isinstance(data, list) else []:
        if isinstance(row, list) and len(row) == 3:
            name, line, function = row
            found.append(
                Frame(
                    file=untrusted.text(name, limit=1_000),
                    line=untrusted.integer(line),
                    name=untrusted.text(function, limit=500),
                )
            )
    return tuple(reversed(found))


def _threads(data: Any) -> tuple[ThreadStack, ...]:
    rows = data[:MAX_THREADS] if isinstance(data, list) else []
    return tuple(
        ThreadStack(name=untrusted.text(row.get("name"), limit=200), frames=_frames(row.get("frames")))
        for row in rows
        if isinstance(row, dict)
    )
