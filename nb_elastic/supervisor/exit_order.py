"""The order in which ranks died, also of those that are found dead at the same look.

Runs in: the forkserver. The kernel puts a process's descriptor at the end of epoll's list when that process dies, so the
list has the order even where whoever reads it was not scheduled for a while. Times of deaths the kernel keeps nowhere.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys


class ExitOrder:
    """Knows which of several dead children died first. Where the system has no such descriptors it knows nothing."""

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._pid_of: dict[int, int] = {}
        self._dead: list[int] = []

    def add(self, pid: int) -> None:
        """Watch a child that was not reaped yet."""
        if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
            return
        with contextlib.suppress(OSError):  # an old kernel, or no descriptor left: then without
            if self._epoll is None:
                self._epoll = select.epoll()
            fd = os.pidfd_open(pid)
            self._pid_of[fd] = pid
            self._epoll.register(fd, select.EPOLLIN)

    def sort(self, pids: list[int]) -> list[int]:
        """Put dead children into the order of their deaths; those that nobody saw come last."""
        self._look()
        place = {pid: number for number, pid in enumerate(self._dead)}
        return sorted(pids, key=lambda pid: place.get(pid, len(place)))

    def forget(self, pids: list[int]) -> None:
        """These are about to be reaped."""
        self._look()
        self._dead = [pid for pid in self._dead if pid not in pids]

    def close(self) -> None:
        """Let every descriptor go; in a child of the forkserver, too."""
        for fd in self._pid_of:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._pid_of.clear()
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

    def _look(self) -> None:
        if self._epoll is None:
            return
        for fd, _ in self._epoll.poll(0, max(1, len(self._pid_of))):
            if (pid := self._pid_of.pop(fd, None)) is not None:
                self._epoll.unregister(fd)
                os.close(fd)
                self._dead.append(pid)
