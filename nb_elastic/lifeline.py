"""My parent is gone, so am I: process identity, death signals and the end of pipes.

Runs in: every process. Standard library only; everything here is Linux first, and says so where
another system can do less.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

PARENT_SIGNAL = signal.SIGUSR2
"""Tells a process that its parent, or a thread of it, is gone."""

DEATH_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Those that end a process which has no handler for them; a terminal or a stop button sends them to whole groups."""

EXITING = 0x4
"""PF_EXITING in the flags of /proc/<pid>/stat."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process told apart from a later one with the same pid by when it started.

    Attributes:
        start_ticks: clock ticks after boot (field 22 of /proc/<pid>/stat); 0 where unknown.
    """

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Identity of a living process, or None if there is none with this pid."""
        if fields := stat_fields(pid):
            return cls(pid, int(fields[19])) if fields[0] != "Z" else None
        if sys.platform != "linux":
            with contextlib.suppress(OSError):
                os.kill(pid, 0)
                return cls(pid, 0)
        return None

    def open(self) -> int:
        """A descriptor that becomes readable when this very process ends; -1 if it is gone, or none is to be had."""
        if not hasattr(os, "pidfd_open"):
            return -1
        try:
            fd = os.pidfd_open(self.pid)
        except OSError:
            return -1
        if self.is_alive:
            return fd
        os.close(fd)
        return -1

    @property
    def is_alive(self) -> bool:
        """True while this very process, not another with its pid, runs."""
        return ProcessId.of(self.pid) == self

    @property
    def may_live(self) -> bool:
        """False only where it was seen that the process is gone: who has no descriptor left can't look."""
        try:
            fields = _read_stat(self.pid)
        except OSError as e:
            return e.errno in {errno.EMFILE, errno.ENFILE} or self.is_alive
        return fields[0] != "Z" and int(fields[19]) == self.start_ticks

    def signal(self, number: int) -> bool:
        """Send a signal to this very process; False if it is gone.

        A pidfd is opened before the identity is checked, so that a recycled pid is never hit.
        """
        if not hasattr(os, "pidfd_open"):
            if self.is_alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, number)
                    return True
            return False
        try:
            fd = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            if not self.is_alive:
                return False
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        return True


@contextlib.contextmanager
def blocked_signals(*more: int) -> Iterator[None]:
    """Block ``DEATH_SIGNALS`` and ``more`` in this thread.

    A process started meanwhile is born with them blocked: what reaches it in its first moments waits until
    it can be heeded, instead of killing it without a word.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*DEATH_SIGNALS, *more})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class HeldInterrupts:
    """Holds back KeyboardInterrupts of the main thread while something must be whole or not at all.

    Use it as a context manager. An interrupt that came is raised at the end, unless ``release`` was called first; where
    somebody has a handler of their own, that hears of it. In other threads, which get no interrupts, where SIGINT is ignored, and within another's hold it does nothing.

    Args:
        most: so many are held back, and the next one gets through; None holds all.
    """

    def __init__(self, *, most: int | None = None) -> None:
        self.count = 0
        self._most = most
        self._before: Any = None
        self._is_held = False

    def __enter__(self) -> HeldInterrupts:  # noqa: PYI034  (Self came with Python 3.11)
        """Take over SIGINT."""
        present = signal.getsignal(signal.SIGINT)
        is_held = isinstance(getattr(present, "__self__", None), HeldInterrupts)
        if threading.current_thread() is threading.main_thread() and not is_held and present is not signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._note)
            self._is_held = True
        return self

    def __exit__(self, *_exc: object) -> None:
        """Give SIGINT back and raise what came."""
        if self.release() and _exc[0] is None:
            if self._has_own_handler:
                signal.raise_signal(signal.SIGINT)
            else:
                raise KeyboardInterrupt

    def release(self) -> int:
        """Give SIGINT back; returns how many interrupts came and were not told yet."""
        if self._is_held:
            self._is_held = False
            signal.signal(signal.SIGINT, signal.SIG_DFL if self._before is None else self._before)
        count, self.count = self.count, 0
        return count

    def _note(self, *about: Any) -> None:
        self.count += 1
        if self._most is not None and self.count > self._most:
            if not self._has_own_handler:
                self.count = 0
                raise KeyboardInterrupt
            self.count -= 1
            self._before(*about)

    @property
    def _has_own_handler(self) -> bool:
        return callable(self._before) and self._before is not signal.default_int_handler


def stat_fields(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the state on (index 0 is field 3); empty if it is gone."""
    try:
        return _read_stat(pid)
    except OSError:
        return []


def is_doomed(pid: int) -> bool:
    """True if a process ends, or has a SIGKILL that it did not die of yet; False where the system can't tell."""
    fields = stat_fields(pid)
    has_kill = bool(fields) and bool(int(fields[28]) & 1 << signal.SIGKILL - 1)
    return bool(fields) and (fields[0] in "ZX" or bool(int(fields[6]) & EXITING) or has_kill)


def _read_stat(pid: int) -> list[str]:
    with open(f"/proc/{pid}/stat", "rb") as f:
        text = f.read()
    return text[text.rindex(b")") + 2 :].decode("ascii", "replace").split()


def die_with_parent(number: int = signal.SIGKILL, *, parent: int) -> None:
    """Have the kernel signal this process when its parent dies; at once if it already has.

    The signal follows the parent's *thread* that forked, which must therefore live as long.
    """
    if sys.platform != "linux":
        return
    _prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def hear_of_parent(parent: int, on_gone: Callable[[], None]) -> None:
    """Have ``on_gone`` called in the main thread's handler when the parent is gone; at once if it already is. Main thread only.

    The system tells when the parent's *thread* ends that started this process; while the parent itself lives, that is passed over.
    """

    def heard(_number: int, _frame: object) -> None:
        if os.getppid() != parent:
            on_gone()

    if sys.platform != "linux":
        return
    signal.signal(PARENT_SIGNAL, heard)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {PARENT_SIGNAL})
    _prctl(PR_SET_PDEATHSIG, PARENT_SIGNAL)
    if os.getppid() != parent:
        on_gone()


def die_with_nobody() -> None:
    """Take ``die_with_parent`` back."""
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, 0)


def become_subreaper() -> None:
    """Adopt orphaned descendants, so that a double fork does not escape."""
    if sys.platform == "linux":
        _prctl(PR_SET_CHILD_SUBREAPER, 1)


def descendants(*roots: int) -> list[int]:
    """Pids of all living descendants of these processes, children before grandchildren."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if sys.platform == "linux" else []:
        if name.isdecimal() and (fields := stat_fields(int(name))) and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    queue = list(roots)
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def children(parent: int) -> list[int]:
    """Pids of the living children of a process, as the kernel lists them; it may miss one while another one ends."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{parent}/task"):
            with open(f"/proc/{parent}/task/{task}/children", "rb") as f:
                found += map(int, f.read().split())
    except FileNotFoundError:  # a kernel that keeps no such list, or a thread that has ended
        found = [pid for pid in descendants(parent) if stat_fields(pid)[1:2] == [str(parent)]]
    except OSError:
        return []
    return [pid for pid in found if ProcessId.of(pid)]


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
