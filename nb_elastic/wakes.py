"""Waiting until a file grows or another thread calls: what lets a follower sleep long and still see everything at once.

Runs in: the kernel or the command line, the supervisor and the node program.

On Linux inotify tells of growth, once for each time that a file was watched: a flood of writes is one wake. Where it can't be had
(another system, the user's limit of watches), ``is_sure`` says so, and whoever waits must look by itself now and then.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import sys
import threading
from pathlib import Path
from typing import Any

IN_MODIFY, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x2, 0x80, 0x100, 0x200
IN_ONLYDIR, IN_DONT_FOLLOW, IN_ONESHOT = 0x0100_0000, 0x0200_0000, 0x8000_0000
GROWS = IN_MODIFY | IN_DONT_FOLLOW | IN_ONESHOT
APPEARS = IN_CREATE | IN_MOVED_TO | IN_DONT_FOLLOW | IN_ONESHOT
CHANGES = IN_CREATE | IN_MOVED_TO | IN_DELETE | IN_DONT_FOLLOW | IN_ONLYDIR
DRAIN_BYTES = 1 << 16


class Wakes:
    """Ends a wait early. Safe to use from several threads; watching has no memory, so an interrupt anywhere does no harm.

    Watch, then read: what is written between the two ends the next wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = 0
        self._is_closed = False
        self._missed = False
        self._out, self._in = os.pipe()
        os.set_blocking(self._out, False)
        os.set_blocking(self._in, False)
        self._libc, self._inotify = _open_inotify()

    def __del__(self) -> None:
        """Close what nobody closed: a run that was waited for a while and then forgotten."""
        if hasattr(self, "_inotify"):
            self._waiting, self._is_closed = 0, True
            self._close_if_unused(in_background=False)  # the interpreter may be ending, and start no thread any more

    @property
    def is_sure(self) -> bool:
        """True if every file that was watched will end a wait when this machine writes to it."""
        return self._inotify >= 0 and not self._missed

    def watch(self, path: Path) -> None:
        """Have the next growth of a file end a wait, or, where there is none yet, its appearance in its folder."""
        with self._lock:
            if self._inotify < 0 or self._is_closed or self._add(path, GROWS):
                return
            self._add(path.parent, APPEARS)
            self._add(path, GROWS)  # it may have appeared in between

    def watch_folder(self, folder: Path) -> None:
        """Have each file that comes into a folder, or goes, end a wait; until ``watch`` asks for a missing one in it."""
        with self._lock:
            if self._inotify >= 0 and not self._is_closed:
                self._add(folder, CHANGES)

    def wake(self) -> None:
        """End the wait of another thread, or the next one."""
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._is_closed:
                os.write(self._in, b"w")

    def wait(self, timeout_s: float) -> bool:
        """Wait until something happens; False if nothing did."""
        with self._lock:
            if self._is_closed:
                return True
            self._waiting += 1
        try:
            return self._poll(timeout_s)
        finally:
            with self._lock:
                self._waiting -= 1
                self._close_if_unused()

    def close(self) -> None:
        """End every wait; the descriptors are closed when nobody waits on them any more."""
        with self._lock:
            self._is_closed = True
            if self._in >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._in, b"c")
            self._close_if_unused()

    def _poll(self, timeout_s: float) -> bool:
        poll = select.poll()  # one of its own: a poll object serves one thread
        for fd in (self._out, self._inotify):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(max(0, timeout_s) * 1000)]
        with self._lock:
            for fd in ready if not self._is_closed else ():  # the closing wake is for everybody who waits
                with contextlib.suppress(BlockingIOError):  # another waiter was first
                    os.read(fd, DRAIN_BYTES)
        return bool(ready)

    def _add(self, path: Path, mask: int) -> bool:
        """Ask for one event; True if it was granted. A file that is not there yet is no failure."""
        if self._libc.inotify_add_watch(self._inotify, os.fsencode(path), ctypes.c_uint32(mask)) >= 0:
            return True
        if ctypes.get_errno() not in {errno.ENOENT, errno.ENOTDIR, errno.EINTR}:
            self._missed = True
        return False

    def _close_if_unused(self, *, in_background: bool = True) -> None:
        if not self._is_closed or self._waiting:
            return
        pipe, inotify = (self._in, self._out), self._inotify
        self._inotify = self._in = (
            self._out
        ) = -1  # first: closed twice, after an interrupt, it might be somebody else's
        for fd in pipe:
            if fd >= 0:
                os.close(fd)
        if inotify >= 0 and not in_background:
            os.close(inotify)
        elif inotify >= 0:
            # Linux takes 10 to 20 ms for this one, which nobody need wait for: the thread ends by itself.
            threading.Thread(target=os.close, args=(inotify,), name="nb-elastic-wakes", daemon=True).start()


def _open_inotify() -> tuple[Any, int]:
    """The C library and an inotify descriptor; -1 where there is none."""
    if not sys.platform.startswith("linux"):
        return None, -1
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return libc, libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, AttributeError):
        return None, -1
