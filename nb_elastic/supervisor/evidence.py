"""What the machine itself knows about the end of ranks: OOM kills, memory used and left, places that are full.

Runs in: the supervisor.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nb_elastic import lifeline, opening, rundir
from nb_elastic.errors import DescriptorsError
from nb_elastic.rundir import RankDir
from nb_elastic.supervisor import kernel_log

CGROUPS = Path("/sys/fs/cgroup")
SHM = "/dev/shm"  # noqa: S108  a place that is only looked at
HISTORY_BYTES = 256_000
RISE_S = 10.0
"""A rise of memory is told over at most so many of the last seconds."""

LOOK_S = 0.1
"""How often one looks at few ranks; more of them are looked at less often."""

FULL = 0.002
"""A place with less than this part of it free counts as full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a rank's end beside its own words. Counts are since the round began.

    Attributes:
        oom_kills: processes that the OOM killer ended in the rank's memory cgroup; None where nobody counts.
        machine_oom_kills: the same for the whole machine.
        oom_line: the kernel's own log line that names the rank's process, or "".
        group: the rank's memory cgroup, or "".
        is_largest: no other rank used more memory.
        memory: (time_ns, bytes) of the rank and its children, rising in time.
        limit_bytes: most memory that the rank's cgroup, or the machine, has; 0 if unknown.
        available_bytes: least memory that the machine had available, or -1.
        full: places without free space at some time, in words.
        tail: last lines of its stderr.
        is_gone: its folder was deleted, and what it told there went with that.
    """

    oom_kills: int | None = None
    machine_oom_kills: int | None = None
    oom_line: str = ""
    group: str = ""
    is_largest: bool = False
    memory: tuple[tuple[int, int], ...] = ()
    limit_bytes: int = 0
    available_bytes: int = -1
    full: tuple[str, ...] = ()
    tail: str = ""
    is_gone: bool = False


NOTHING = Evidence()


class Witness:
    """Sees what the machine counts while a round lasts. Only the main thread may use it."""

    def __init__(self) -> None:
        self._began_ns = time.time_ns()
        self._began_s = time.monotonic()
        self._machine = machine_oom_kills()
        self._groups: dict[int, Path] = {}
        self._counted: dict[Path, int] = {}
        self._available = available_bytes()
        self._is_shm_full = is_full(SHM)
        self._next_s = 0.0
        if own := memory_group(os.getpid()):
            self._counted[own] = oom_kills(own) or 0

    def look(self, pids: Iterable[int]) -> None:
        """See in which memory cgroup each living rank is: a program may move itself, or be moved."""
        if (now_s := time.monotonic()) < self._next_s:
            return
        pids = tuple(pids)
        self._next_s = now_s + LOOK_S * (1 + len(pids) / 16)
        for pid in pids:
            if (group := memory_group(pid)) is None:
                continue
            self._groups[pid] = group
            if group not in self._counted:
                is_new = _made_ns(group) >= self._began_ns
                self._counted[group] = 0 if is_new else oom_kills(group) or 0
        now = available_bytes()
        self._available = now if self._available < 0 else min(self._available, now) if now >= 0 else self._available
        self._is_shm_full = self._is_shm_full or is_full(SHM)

    def count(self, pid: int) -> int | None:
        """OOM kills in a rank's memory cgroup since the round began; None where nobody counts."""
        group = self._groups.get(pid)
        now = oom_kills(group) if group else None
        return None if now is None or group is None else max(0, now - self._counted.get(group, 0))

    def machine_count(self) -> int | None:
        """OOM kills on the whole machine since the round began; None where nobody counts."""
        now = machine_oom_kills()
        return None if now is None or self._machine is None else max(0, now - self._machine)

    def evidence(self, folder: RankDir, *, pid: int, local_rank: int, round_number: int, tail: str = "") -> Evidence:
        """All that is known of one rank."""
        group = self._groups.get(pid)
        machine = self.machine_count()
        history = memory_history(folder.path.parent.parent / "usage.jsonl", round_number)
        mine = history.get(local_rank, ())
        last = {rank: one[-1][1] for rank, one in history.items()}
        full = [SHM] if self._is_shm_full or is_full(SHM) else []
        full += [place for place in (str(folder.path), "/tmp") if is_full(place)]  # noqa: S108  only looked at
        return Evidence(
            oom_kills=self.count(pid),
            machine_oom_kills=machine,
            oom_line=kernel_log.oom_line(pid, since_s=self._began_s) if machine else "",
            group=str(group) if group else "",
            is_largest=bool(mine) and last[local_rank] == max(last.values()),
            memory=mine,
            limit_bytes=limit_bytes(group),
            available_bytes=self._available,
            full=tuple(full),
            tail=tail,
            is_gone=opening.is_gone(folder.path),
        )


def memory_group(pid: int) -> Path | None:
    """Folder of a process's memory cgroup, as far as it can be seen from here; None for one that is ending."""
    fields = lifeline.stat_fields(pid)
    if not fields or int(fields[6]) & lifeline.EXITING:  # it stands in no cgroup (of version 1) any more
        return None
    for line in _read(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        if not controllers:
            # in a container the path is often the host's, and what is mounted is the container's own
            places = [f"{CGROUPS}{path}", f"{CGROUPS}/unified{path}", str(CGROUPS)]
            file = "memory.events"
        elif "memory" in controllers.split(","):
            places = [f"{CGROUPS}/memory{path}", f"{CGROUPS}/memory"]
            file = "memory.oom_control"
        else:
            continue
        for place in places:
            if os.path.exists(f"{place}/{file}"):
                return Path(os.path.normpath(place))
    return None


def oom_kills(group: Path) -> int | None:
    """How often the OOM killer struck in a memory cgroup; None where it does not say."""
    text = _read(group / "memory.events") or _read(group / "memory.oom_control")
    return _number(r"^oom_kill (\d+)", text)


def machine_oom_kills() -> int | None:
    """How often the OOM killer struck on this machine."""
    return _number(r"^oom_kill (\d+)", _read("/proc/vmstat"))


def available_bytes() -> int:
    """Memory that programs could still get; -1 if unknown."""
    found = _number(r"^MemAvailable: +(\d+) kB", _read("/proc/meminfo"))
    return -1 if found is None else found * 1024


def limit_bytes(group: Path | None) -> int:
    """Most memory that a cgroup (or one above it) lets its processes have, at most the machine's; 0 if unknown."""
    limits = [(_number(r"^MemTotal: +(\d+) kB", _read("/proc/meminfo")) or 0) * 1024]
    while group is not None and CGROUPS in group.parents:
        text = (_read(group / "memory.max") or _read(group / "memory.limit_in_bytes")).strip()
        if text.isdecimal():
            limits.append(int(text))
        group = group.parent
    return min((one for one in limits if one), default=0)


def memory_history(usage: Path, round_number: int) -> dict[int, tuple[tuple[int, int], ...]]:
    """What each rank (by local rank) used lately, as the pulse wrote it."""
    try:
        size = usage.lstat().st_size
    except OSError:
        return {}
    found: dict[int, list[tuple[int, int]]] = {}
    data = b""
    with contextlib.suppress(DescriptorsError):
        data = rundir.read_at(usage, max(0, size - HISTORY_BYTES), HISTORY_BYTES)
    for line in data.splitlines():
        try:
            record = json.loads(line)
            if record["round"] == round_number:
                for one in record["ranks"]:
                    found.setdefault(one["local_rank"], []).append((record["time_ns"], one["memory_bytes"]))
        except (ValueError, KeyError, TypeError):
            continue
    return {rank: tuple(one) for rank, one in found.items()}


def is_full(place: str) -> bool:
    """True if a file system has no space left for us."""
    try:
        now = os.statvfs(place)
    except OSError:
        return False
    return now.f_blocks > 0 and now.f_bavail <= now.f_blocks * FULL


def memory_words(rank: int, found: Evidence) -> str:
    """``rank 3 was at 61.0 of 64.0 GiB, rising 2.0 GiB/s``; "" where nobody looked in time."""
    if not found.memory:
        return ""
    last_ns, last = found.memory[-1]
    of = f" of {gib(found.limit_bytes)}" if found.limit_bytes else ""
    words = f"Rank {rank} used {gib(last)}{of} when it was last looked at"
    first_ns, first = next(one for one in found.memory if last_ns - one[0] <= RISE_S * 1e9)
    per_s = (last - first) / max(1e-9, (last_ns - first_ns) / 1e9) if last_ns > first_ns else 0.0
    return f"{words}, rising {gib(per_s)}/s." if per_s > 10 * 2**20 else f"{words}."


def gib(size: float) -> str:
    """A size in words."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _made_ns(group: Path) -> int:
    try:
        return group.stat().st_ctime_ns
    except OSError:
        return 0


def _number(pattern: str, text: str) -> int | None:
    match = re.search(pattern, text, re.MULTILINE)
    return int(match[1]) if match else None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
