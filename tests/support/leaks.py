"""Finds processes and threads that a test left behind, and ends the processes.

Runs in: the tests.

A process is the test's if it descends from pytest, or if it was started with the test's own mark in
its environment: the mark also finds those that lost their parents on the way (a rank whose
supervisor was killed, a detached run).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from nb_elastic.lifeline import ProcessId, children, descendants, stat_fields

STANDING_BY = ("nb_elastic:standby", "nb_elastic:launcher")
MARK = "NBE_TEST_MARK"
"""Environment variable that carries the mark."""

_STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"})
_started = 0


def _count_starts(event: str, _details: object) -> None:
    global _started
    _started += event in _STARTS


sys.addaudithook(_count_starts)


def note_start() -> None:
    """Another process started one for this one."""
    global _started
    _started += 1


def starts() -> int:
    """How many processes this one has started so far; not those of multiprocessing, which are children for long."""
    return _started


def has_children() -> bool:
    """True if this process has any that a test could have started. Looking through all of /proc takes ten times as long."""
    return any(not _is_lasting(pid) for pid in children(os.getpid()))


def processes(mark: str, *, has_standing_by: bool = False) -> set[ProcessId]:
    """Every living process of this pytest or with ``mark`` in the environment it started with.

    Args:
        has_standing_by: what stands by counts, too: its kernel is dead, say.
    """
    pids = set(descendants(os.getpid()))
    needle = f"{MARK}={mark}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if needle in (entry / "environ").read_bytes().split(b"\0"):
                pids.add(int(entry.name))
        except OSError:
            continue
    pids.discard(os.getpid())
    found = {ProcessId.of(pid) for pid in pids if not _is_lasting(pid) and (has_standing_by or not stands_by(pid))}
    return {p for p in found if p is not None}


def threads() -> set[threading.Thread]:
    """Living threads of ours in this process: every one is named ``nb-elastic...``."""
    return {t for t in threading.enumerate() if t.name.startswith(("nb-elastic", "nb_elastic"))}


def describe(process: ProcessId) -> str:
    """Pid and command line, for the failure's text."""
    try:
        words = Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        words = "(gone)"
    return f"{process.pid}: {words.strip()[:200]}"


def end(left: set[ProcessId]) -> None:
    """Kill what was left, so that one leak fails one test and not all that follow."""
    for process in left:
        process.signal(signal.SIGKILL)


def stands_by(pid: int) -> bool:
    """True for a living kernel's launcher and what waits in it for a launch: they come and go, and end with the kernel."""
    if not _words(pid).startswith(STANDING_BY):
        return False
    while _words(pid).startswith("nb_elastic:"):
        fields = stat_fields(pid)
        pid = int(fields[1]) if fields else 0
    return pid > 1


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _is_lasting(pid: int) -> bool:
    """True for what all tests share: what a browser or Ray's raylet starts of itself, the nursery, Python's resource tracker."""
    words = _words(pid)
    shared = ("/ray/_private/workers/default_worker.py", "-m ray.util.client.server", "/nursery_process.py")
    is_stock = words.startswith(("ray::IDLE", "nb_elastic:nursery")) or any(part in words for part in shared)
    return "/chrom" in words.partition(" ")[0] or is_stock or _is_resource_tracker(pid)


def _is_resource_tracker(pid: int) -> bool:
    """True for the standard library's tracker of shared memory.

    Python starts one for each interpreter that touches multiprocessing, keeps it for the
    interpreter's life on purpose, and it ends by itself when its pipe closes: no leak of ours.
    Only pytest's own is let off; one below another process must be gone with that process.
    """
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return False
    return parent == os.getpid() and b"multiprocessing.resource_tracker" in words
