"""Tells, when it is asked by a signal or by its bell, where each thread of this rank stands.

Runs in: a worker, and what it forks. ``stacks_ask`` is the other side. Nothing is written before somebody asks.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType, ModuleType
from typing import Any

from nb_elastic import opening, rankflight, rundir
from nb_elastic.rundir import RankDir
from nb_elastic.stacks_call import ASK, DUMP

MAX_THREADS, MAX_FRAMES = 50, 100
HIGH_FD = 200
"""Our descriptors lie from here on: the user's code gets the numbers that it would get without us."""


def install(folder: RankDir) -> Mapping[str, Callable[[ModuleType], None]]:
    """Answer from now on; what can't be had (a system without such signals, a full disk) is left out.

    Returns:
        What is to be done when a module of that name is imported: only a process group is worth a thread.
    """
    teller = _Teller(folder)
    with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
        if DUMP:
            faulthandler.register(DUMP, file=_open_log(folder), all_threads=False, chain=False)
            signal.signal(ASK, teller.on_signal)
            signal.siginterrupt(ASK, False)  # native code in the main thread need not know of us
    return {rankflight.MODULE: lambda module: rankflight.watch(module, teller.begin, teller.end)}


def _open_log(folder: RankDir) -> int:
    return _lift(opening.to_append(folder.stacks))


def _lift(fd: int) -> int:
    """Move a descriptor to a high number, where the limit allows it."""
    import fcntl

    with contextlib.suppress(OSError):
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
        os.close(fd)
        return high
    return fd


class _Teller:
    """Tells the stacks; its thread lives as long as the process group does."""

    def __init__(self, folder: RankDir) -> None:
        self._folder = folder
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def on_signal(self, _number: int, frame: FrameType | None) -> None:
        """Tell where all threads stand; in the main thread, between two steps of Python code."""
        self._tell(frame)

    def begin(self) -> None:
        """Answer the bell from a thread of its own: the main thread will wait in native code, for the others."""
        if self._thread is not None or os.getpid() != self._pid:
            return
        with contextlib.suppress(OSError, RuntimeError):
            with contextlib.suppress(FileExistsError):
                os.mkfifo(self._folder.bell, 0o600)
                os.chmod(self._folder.bell, 0o600)  # whatever the umask took away
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = _lift(os.open(self._folder.bell, flags))
            self._thread = threading.Thread(target=self._answer, args=(fd,), name="nb_elastic-stacks", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """The process group is gone: the thread ends, too."""
        if self._thread is None or os.getpid() != self._pid:
            return
        self._thread = None
        with contextlib.suppress(OSError):
            fd = os.open(self._folder.bell, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            os.unlink(self._folder.bell)
            os.write(fd, b"q")
            os.close(fd)

    def _answer(self, fd: int) -> None:
        own = os.fstat(fd)
        with contextlib.suppress(OSError):
            while os.path.samestat(own, os.fstat(fd)):  # else the user's code closed it, and the number is another's
                if b"q" in os.read(fd, 64):
                    os.close(fd)
                    return
                self._tell(sys._current_frames().get(threading.main_thread().ident or 0))  # noqa: SLF001

    def _tell(self, main: FrameType | None) -> None:
        try:
            # No lock may be taken here: the thread that was interrupted may hold it.
            names = {i: t.name for i, t in list(getattr(threading, "_active", {}).items())}
            others = [(i, f) for i, f in sys._current_frames().items() if f is not main]  # noqa: SLF001
            own, main_id = threading.get_ident(), threading.main_thread().ident
            told: dict[str, Any] = {
                "pid": os.getpid(),
                "monotonic_ns": time.monotonic_ns(),
                "is_main": own == main_id,
                "main": _frames(main),
                "threads": [
                    {"name": names.get(i, "?"), "frames": _frames(f)}
                    for i, f in others[:MAX_THREADS]
                    if i not in {own, main_id} and not names.get(i, "").startswith("nb_elastic-")
                ],
                "flight": rankflight.read(),
            }
            rundir.write_atomic(self._folder.answer(os.getpid()), json.dumps(told).encode())
        except Exception:  # noqa: BLE001, S110  border: the user's code was interrupted for this and must not learn of it
            pass


def _frames(frame: FrameType | None) -> list[tuple[str, int, str]]:
    """The frames of a thread, innermost first."""
    found: list[tuple[str, int, str]] = []
    while frame is not None and len(found) < MAX_FRAMES:
        found.append((frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_name))
        frame = frame.f_back
    return found
