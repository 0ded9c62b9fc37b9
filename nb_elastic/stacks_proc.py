"""What Linux tells of a process from outside: what its main thread does, in which call it waits, its children.

Runs in: the kernel or command line, and the supervisor. It only reads, and never raises.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

MAX_CHILDREN = 32
MAX_FAMILY = 200
TICK_NS = 10**9 // (os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A process at a moment.

    Attributes:
        state: of its main thread, as /proc has it: R, S, D, T, t, Z.
        wchan: the kernel's function in which the main thread waits, or "".
        run_ns: CPU time of the main thread.
        delay_ns: time for which the main thread wanted a CPU and had none.
        cpu_ns: CPU time of all its threads.
        switches: how often the main thread gave up the CPU by itself.
        caught: mask of the signals that it handles.
        blocked: mask of those that its main thread blocks.
        pending: mask of those that wait for it.
    """

    state: str
    wchan: str = ""
    run_ns: int = 0
    delay_ns: int = 0
    cpu_ns: int = 0
    switches: int = 0
    caught: int = 0
    blocked: int = 0
    pending: int = 0
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A process that a rank started."""

    pid: int
    name: str
    state: str
    wchan: str


def look(pid: int) -> Look | None:
    """Look at a process; None if it is gone."""
    fields = _stat(f"/proc/{pid}/task/{pid}/stat")
    whole = _stat(f"/proc/{pid}/stat")
    if not fields or not whole or fields[0] in "ZX":
        return None
    status = _status(f"/proc/{pid}/status")
    run_ns, delay_ns = _schedule(pid)
    return Look(
        state=fields[0],
        wchan=wchan(pid),
        run_ns=run_ns if run_ns >= 0 else (int(fields[11]) + int(fields[12])) * TICK_NS,
        delay_ns=delay_ns,
        cpu_ns=(int(whole[11]) + int(whole[12])) * TICK_NS,
        switches=_number(status.get("voluntary_ctxt_switches", "")),
        caught=_mask(status.get("SigCgt", "")),
        blocked=_mask(status.get("SigBlk", "")),
        pending=_mask(status.get("SigPnd", "")) | _mask(status.get("ShdPnd", "")),
        threads=_number(status.get("Threads", "1")),
    )


def wchan(pid: int) -> str:
    """The kernel's function in which a process's main thread waits; "" where it waits in none, or none is told."""
    found = _read(f"/proc/{pid}/wchan", 200).partition(".")[0]
    return "" if found == "0" else found


def children(pid: int) -> list[Child]:
    """The processes that the main thread of a process started, and that live."""
    found = []
    for word in _read(f"/proc/{pid}/task/{pid}/children", 10_000).split()[:MAX_CHILDREN]:
        if word.isdecimal() and (fields := _stat(f"/proc/{word}/stat")):
            name = _read(f"/proc/{word}/comm", 100).strip()
            found.append(Child(pid=int(word), name=name, state=fields[0], wchan=wchan(int(word))))
    return found


def family_cpu_ns(pid: int) -> int:
    """CPU time of a process and of its descendants, so far; of those that ended, what was waited for."""
    total, queue, seen = 0, [pid], set[int]()
    while queue and len(seen) < MAX_FAMILY:
        one = queue.pop()
        seen.add(one)
        if fields := _stat(f"/proc/{one}/stat"):
            total += sum(map(int, fields[11:15])) * TICK_NS
            words = _read(f"/proc/{one}/task/{one}/children", 10_000).split()
            queue += [int(w) for w in words if w.isdecimal() and int(w) not in seen]
    return total


def io_bytes(pid: int) -> int:
    """Bytes that a process read and wrote so far, by files and pipes; 0 where that can't be told."""
    status = _status(f"/proc/{pid}/io")
    return _number(status.get("rchar", "")) + _number(status.get("wchar", ""))


def writes_to(pid: int, path: Path) -> bool:
    """True if a process has this very file open, and it is a plain one."""
    try:
        wanted = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(wanted.st_mode) and any(os.path.samestat(wanted, one) for one in _open_files(pid))


def awaited_file(pid: int) -> str:
    """What the main thread waits to read or write, as /proc/<pid>/fd names it; "" where that can't be told."""
    words = _read(f"/proc/{pid}/syscall", 300).split()
    if len(words) < 2 or not words[0].isdecimal():
        return ""
    number, first = int(words[0]), words[1]
    if number not in _BY_MACHINE.get(os.uname().machine, frozenset()):
        return ""
    try:
        return os.readlink(f"/proc/{pid}/fd/{int(first, 16)}")
    except (OSError, ValueError):
        return ""


# read, write, pread64, readv, recvfrom, recvmsg, accept, accept4, flock: calls whose first argument is a descriptor
_BY_MACHINE = {
    "x86_64": frozenset({0, 1, 17, 19, 43, 45, 47, 73, 288}),
    "aarch64": frozenset({32, 63, 64, 65, 67, 202, 207, 212, 242}),
}


def has_gpu(pid: int) -> bool:
    """True if a process has opened an NVIDIA GPU."""
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{name}").startswith("/dev/nvidia"):
                    return True
    return False


def _open_files(pid: int) -> list[os.stat_result]:
    found: list[os.stat_result] = []
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.append(os.stat(f"/proc/{pid}/fd/{name}"))
    return found


def _schedule(pid: int) -> tuple[int, int]:
    """CPU time and time without a CPU, in ns; -1 and 0 where the kernel does not tell."""
    words = _read(f"/proc/{pid}/task/{pid}/schedstat", 200).split()
    return (int(words[0]), int(words[1])) if len(words) >= 2 and words[0].isdecimal() else (-1, 0)


def _stat(path: str) -> list[str]:
    text = _read(path, 4_000)
    return text[text.rindex(")") + 2 :].split() if ")" in text else []


def _status(path: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in _read(path, 20_000).splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _mask(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0


def _read(path: str, size: int) -> str:
    try:
        with open(path, "rb") as f:
            return f.read(size).decode("utf-8", "replace")
    except OSError:
        return ""
