"""The kernel's own log, where it may be read: which process the OOM killer ended.

Runs in: the supervisor.
"""

from __future__ import annotations

import os
import re

INIT_PIDS = "pid:[4026531836]"
"""Name of the first pid namespace: only there are the log's pids ours."""

MAX_RECORDS = 20_000
_KILLED = re.compile(r"Killed process (\d+) ")


def oom_line(pid: int, *, since_s: float, path: str = "/dev/kmsg") -> str:
    """The log's line on the OOM killer ending this process, or "".

    Args:
        since_s: leave out what is older (``time.monotonic``): pids are used again.
    """
    try:
        if os.readlink("/proc/self/ns/pid") != INIT_PIDS:
            return ""
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return _search(fd, pid, since_s)
    finally:
        os.close(fd)


def _search(fd: int, pid: int, since_s: float) -> str:
    for _ in range(MAX_RECORDS):
        try:
            record = os.read(fd, 8192).decode("utf-8", "replace")
        except BrokenPipeError:  # it was overwritten meanwhile
            continue
        except OSError:
            return ""
        head, _, text = record.partition(";")
        fields = head.split(",")
        if len(fields) > 2 and fields[2].isdecimal() and int(fields[2]) / 1e6 >= since_s - 1:
            match = _KILLED.search(text)
            if match and int(match[1]) == pid:
                return text.splitlines()[0][:300]
        if not record:
            return ""
    return ""
