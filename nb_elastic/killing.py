"""SIGKILL for many processes at once, with some time for those that only free what the others leave.

Runs in: wherever processes of runs are ended: kernel, command line, launcher, supervisor, forkserver, node program.

Python's tracker of shared memory, and torch's, end by themselves when the last process is gone that they work for, and free
its blocks then. Nobody else would: /dev/shm stays full until the machine is restarted.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterable

from nb_elastic import lifeline
from nb_elastic.lifeline import ProcessId

CLEAN_S = 3.0
"""Most time for freeing what killed processes held; it takes some milliseconds, and longer on a machine that is overrun."""

EXEC_S = 0.5
"""Most time for a process in the midst of an exec to show what it becomes; less than a millisecond where a CPU is free."""


def kill_all(processes: Iterable[ProcessId], number: int = signal.SIGKILL) -> int:
    """Signal each of these processes, unless it is gone or another user's; returns how many that were.

    SIGKILL comes last to who only frees the shared memory of the others when these are gone, and is not needed then.
    """
    waiting = list(processes)
    if number != signal.SIGKILL:
        return sum(signal_one(one, number) for one in waiting)
    count, cleaners, deadline = 0, list[ProcessId](), time.monotonic() + EXEC_S
    while waiting:
        roles = {one: cleans_up(one.pid) for one in waiting}
        waiting = [one for one, cleans in roles.items() if cleans is None and time.monotonic() < deadline]
        cleaners += [one for one, cleans in roles.items() if cleans]
        sent = [one for one in roles if one not in waiting]
        count += sum(signal_one(one, signal.SIGCONT if roles[one] else number) for one in sent)
        if waiting:
            time.sleep(0.001)
    deadline = time.monotonic() + CLEAN_S
    while (cleaners := [one for one in cleaners if one.is_alive]) and time.monotonic() < deadline:
        time.sleep(0.001)
    for one in cleaners:
        signal_one(one, number)
    return count


def kill_pids(pids: Iterable[int], number: int = signal.SIGKILL) -> int:
    """The same for those that have these pids now."""
    return kill_all([one for one in map(ProcessId.of, pids) if one], number)


def cleans_up(pid: int) -> bool | None:
    """True for a tracker of shared memory, Python's, loky's or torch's; None while nobody can tell.

    Whoever started a tracker goes on, and makes a first block, before the kernel shows the tracker's command line.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            words = f.read()
    except OSError:
        return False
    if not words:  # in the midst of an exec, or of its end; or stopped, and an exec ends before a stop takes hold
        fields = lifeline.stat_fields(pid)
        is_starting = bool(fields) and fields[0] not in "ZXTt" and not int(fields[6]) & lifeline.EXITING
        return None if is_starting else False
    return b"resource_tracker import main" in words or words.split(b"\0")[0].endswith(b"/torch_shm_manager")


def signal_one(process: ProcessId, number: int) -> bool:
    """Signal a process; False if it is gone, or became another user's."""
    with contextlib.suppress(PermissionError):
        return process.signal(number)
    return False
