"""Memory in which the kernel marks the death of a rank at once, long before it can be seen in any other way.

Runs in: the forkserver (which hands the memory on), ranks and the supervisor. A rank's main thread holds a robust lock there
until it dies; the kernel marks such a lock and wakes who waits for it before it tears the process's memory down, which takes
a torch process 15 to 30 ms and is over before a pidfd or SIGCHLD tell of anything (``exit_mm_release`` in Linux's ``do_exit``).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from nb_elastic import steady

MOST = 127
"""So many ranks' locks can be waited for together: Linux allows 128 in one call, and one is ``STOP``."""

STOP = MOST
"""The place whose word ends the wait."""

OWNER_DIED = 0x40000000
WAITERS = 0x80000000

_PLACE_BYTES = 64  # at least a pthread_mutex_t, whose first word glibc makes the futex; a cache line each
_SHARED = _ROBUST = 1  # PTHREAD_PROCESS_SHARED, PTHREAD_MUTEX_ROBUST
_FUTEX_WAKE, _ALL = 1, 0x7FFFFFFF
_FUTEX_32 = 2  # a word of 32 bits, shared by processes
_CALLS = {"x86_64": (202, 314, 449), "aarch64": (98, 274, 449)}  # futex, sched_setattr, futex_waitv
_SLICE_NS = 100_000  # the shortest that Linux grants
_SURE_NS = 200_000


class Knell:
    """The locks of a node's ranks. Made before the fork; ``of_this_system`` says whether it can be had."""

    def __init__(self, calls: tuple[int, int, int]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._futex, self._setattr, self._waitv = calls
        self._memory = mmap.mmap(-1, (MOST + 1) * _PLACE_BYTES)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        # once here, and not in every rank: the names are looked up, and what each lock is to be
        self._kind = ctypes.create_string_buffer(_PLACE_BYTES)
        self._init, self._lock = self._libc.pthread_mutex_init, self._libc.pthread_mutex_lock
        self._libc.pthread_mutexattr_init(self._kind)
        self._libc.pthread_mutexattr_setpshared(self._kind, _SHARED)
        self._libc.pthread_mutexattr_setrobust(self._kind, _ROBUST)

    @classmethod
    def of_this_system(cls) -> Knell | None:
        """One, or None where the system has no such thing."""
        calls = _CALLS.get(platform.machine()) if sys.platform == "linux" else None
        if calls is None:
            return None
        try:
            return cls(calls)
        except (OSError, ValueError, AttributeError):  # the last: a C library without robust locks
            return None

    def hold(self, place: int) -> bool:
        """Hold a lock until this process, a rank, dies; False where the C library keeps its locks in another form.

        Its children inherit the memory, but hold nothing.
        """
        if not 0 <= place < MOST:
            return False
        lock = ctypes.c_void_p(self._start + place * _PLACE_BYTES)
        self._memory[place * _PLACE_BYTES : (place + 1) * _PLACE_BYTES] = bytes(_PLACE_BYTES)
        if self._init(lock, self._kind) or self._lock(lock) or self.word(place) != os.getpid():
            return False
        self._write(place, os.getpid() | WAITERS)  # else the kernel would wake nobody
        self._wake(place)
        return True

    def clear(self, places: Iterable[int]) -> None:
        """Forget the dead who held these, so that they can be told from the next who do."""
        for place in places:
            if self.word(place) & OWNER_DIED:
                self._write(place, 0)

    def word(self, place: int) -> int:
        """What stands in a lock's word now. Ranks can write there, too: it is a hint, never a proof."""
        return int(struct.unpack_from("=I", self._memory, place * _PLACE_BYTES)[0])

    def is_held(self, place: int, pid: int) -> bool:
        """True while the rank with this pid holds a lock and lives."""
        return self.word(place) == pid | WAITERS

    def wait(self, words: Sequence[tuple[int, int]], *, first: Callable[[], object] | None = None) -> bool:
        """Wait until one of these (place, word) is another word; False where the system forbids it.

        Args:
            first: called right before the wait.
        """
        waiters = (ctypes.c_uint64 * (3 * len(words)))()  # value, address, then 32 bits of flags and 32 reserved
        for number, (place, word) in enumerate(words):
            flags = _FUTEX_32 if sys.byteorder == "little" else _FUTEX_32 << 32
            waiters[3 * number : 3 * number + 3] = [word, self._start + place * _PLACE_BYTES, flags]
        if first:
            first()
        if self._libc.syscall(self._waitv, waiters, len(words), 0, None, 0) >= 0:
            return True
        return ctypes.get_errno() in {11, 4}  # EAGAIN: it is another word already; EINTR

    def stop(self, *, is_over: bool) -> None:
        """Write ``STOP``'s word, and wake all who wait."""
        self._write(STOP, int(is_over))
        self._wake(STOP)

    def hurry(self) -> None:
        """Ask that this thread be let run at once when it is woken, and only for a moment; where that can't be had, without."""
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            return  # somebody chose otherwise
        asked = struct.pack("=IIQiIQQQ", 48, 0, 0, os.getpriority(os.PRIO_PROCESS, 0), 0, _SLICE_NS, 0, 0)
        self._libc.syscall(self._setattr, 0, asked, 0)

    def _wake(self, place: int) -> None:
        address = ctypes.c_void_p(self._start + place * _PLACE_BYTES)
        self._libc.syscall(self._futex, address, _FUTEX_WAKE, _ALL, None, None, 0)

    def _write(self, place: int, word: int) -> None:
        struct.pack_into("=I", self._memory, place * _PLACE_BYTES, word)


class WokenClock:
    """Tells when the thread that uses it was woken, also if it had to wait for a CPU after that.

    If it had to between ``mark`` and its sleep, too, that is told too early by as much.
    """

    def __init__(self) -> None:
        self._path = Path("/proc/thread-self/schedstat")
        self._waited_ns = self._read()

    def mark(self) -> None:
        """The thread is about to wait."""
        self._waited_ns = self._read()

    def woken_ns(self) -> int:
        """Nanoseconds since the epoch at which the thread became able to run."""
        while True:
            now_ns = steady.wall_ns()
            waited_ns = self._read() - self._waited_ns
            if 0 <= steady.wall_ns() - now_ns < _SURE_NS or waited_ns < 0:
                return now_ns - max(0, waited_ns)

    def _read(self) -> int:
        try:
            return int(self._path.read_bytes().split()[1])
        except (OSError, ValueError, IndexError):  # a kernel that does not count
            return 0
