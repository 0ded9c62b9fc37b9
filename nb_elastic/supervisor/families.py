"""How much CPU and memory each rank uses, its children included, from /proc alone.

Runs in: the supervisor.

A rank leads a session, and its children (data loaders, say) stay in it: they are found by that, or by a parent already
known. CPU is the time of all of them, with that of children which ended. Memory is the rank's resident set, and of each
child what it has alone: a forked data loader shares most pages with its rank, and counting them again would show
several times what the machine holds. Only the kernel's walk over a child's pages tells these (smaps_rollup), which may
take long, so it is done rarely (``WALK_SHARE``) and the change of the child's resident set is added in between.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from nb_elastic.lifeline import ProcessId

WALK_SHARE = 0.005
"""Share of one CPU that walks over children's pages may take."""

WALK_S = 10.0
"""How old the last walk over a child's pages must be for the next one."""

FIRST_WALKS_S = 0.02
"""CPU time that the first walks may take at once."""


@dataclass(frozen=True, slots=True)
class FamilyUsage:
    """What one rank and its children use. ``cpu_percent``: 100 is one CPU."""

    cpu_percent: float
    memory_bytes: int


@dataclass(slots=True)
class _Process:
    """A process that is watched; ``own_bytes`` is what it had alone when its resident set was ``walked_bytes``."""

    pid: int
    leader: int
    start_ticks: bytes
    ticks: int = 0
    resident_bytes: int = 0
    own_bytes: int | None = None
    walked_bytes: int = 0
    walked_at: float = float("-inf")


@dataclass(slots=True)
class _Family:
    ticks: int
    members: dict[int, _Process] = field(default_factory=dict)


class Families:
    """The processes of some ranks.

    Args:
        leaders: pids of the ranks.
        adopters: processes that adopt what ranks leave behind: their other children are ours, too, but no rank's.
        proc: where the kernel tells of processes.
        clock: seconds, as ``time.monotonic``.
    """

    def __init__(
        self,
        leaders: Iterable[int],
        *,
        adopters: Iterable[int] = (),
        proc: Path = Path("/proc"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._proc = os.fspath(proc)
        self._clock = clock
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._families: dict[int, _Family] = {}
        self._leader_of: dict[int, int] = {}
        self._adopters = frozenset(adopters)
        self._strays: dict[int, int] = {}
        self._foreign: set[str] = set()
        self._began = self._last = clock()
        self._walks_s = 0.0
        for pid in leaders if sys.platform == "linux" else ():
            if stat := self._stat(pid):
                self._families[pid] = _Family(_ticks(stat))
                self._adopt(pid, pid, stat)

    def pids(self) -> dict[int, tuple[int, ...]]:
        """Living processes of each rank, by the rank's pid."""
        return {leader: tuple(family.members) for leader, family in self._families.items()}

    def known(self) -> set[ProcessId]:
        """Every process that was there at the last sample: the ranks, what they started, what they left behind."""
        members = {ProcessId(p.pid, int(p.start_ticks)) for f in self._families.values() for p in f.members.values()}
        return members | {ProcessId(pid, ticks) for pid, ticks in self._strays.items()}

    def sample(self) -> dict[int, FamilyUsage]:
        """What each living rank used since the last sample, by its pid."""
        now = self._clock()
        passed_s, self._last = max(now - self._last, self._tick_s), now
        self._find_children()
        found: dict[int, FamilyUsage] = {}
        for leader, family in list(self._families.items()):
            for process in list(family.members.values()):
                self._look(process, family)
            if leader not in family.members:
                self._drop(leader)
                continue
            ticks = sum(p.ticks for p in family.members.values())
            used_s = max(0, ticks - family.ticks) * self._tick_s
            family.ticks = ticks
            found[leader] = FamilyUsage(round(100 * used_s / passed_s, 1), self._memory_bytes(leader, family))
        self._walk(now)
        return found

    def _find_children(self) -> None:
        """Adopt new processes of the sessions. Who was not ours once never will be, so each is looked at once."""
        names = {name for name in os.listdir(self._proc) if name.isdecimal()}
        self._foreign &= names
        self._strays = {p: t for p, t in self._strays.items() if (s := self._stat(p)) and int(s[19]) == t}
        new = sorted(map(int, names - self._foreign - {str(pid) for pid in (*self._leader_of, *self._strays)}))
        for pid in new:
            stat = self._stat(pid)
            leader = self._leader_of.get(int(stat[3])) or self._leader_of.get(int(stat[1])) if stat else None
            if leader in self._families and stat:
                self._adopt(pid, leader, stat)
            elif stat and int(stat[1]) in (self._adopters | self._strays.keys()):
                self._strays[pid] = int(stat[19])
            else:
                self._foreign.add(str(pid))

    def _adopt(self, pid: int, leader: int, stat: list[bytes]) -> None:
        self._families[leader].members[pid] = _Process(pid, leader, stat[19])
        self._leader_of[pid] = leader

    def _look(self, process: _Process, family: _Family) -> None:
        stat = self._stat(process.pid)
        if not stat or stat[19] != process.start_ticks:
            del family.members[process.pid], self._leader_of[process.pid]
            return
        process.ticks = _ticks(stat)
        process.resident_bytes = int(stat[21]) * self._page_bytes

    def _drop(self, leader: int) -> None:
        for pid in self._families.pop(leader).members:
            del self._leader_of[pid]

    def _memory_bytes(self, leader: int, family: _Family) -> int:
        rank = family.members[leader].resident_bytes
        return rank + sum(_own(p, rank) for p in family.members.values() if p.pid != leader)

    def _walk(self, now: float) -> None:
        """Walk over children's pages, the longest not walked first, as far as the share allows."""
        children = [p for leader, f in self._families.items() for p in f.members.values() if p.pid != leader]
        for process in sorted(children, key=lambda p: p.walked_at):
            allowed_s = FIRST_WALKS_S + (now - self._began) * WALK_SHARE
            if now - process.walked_at < WALK_S or self._walks_s >= allowed_s:
                return
            start = time.thread_time()
            process.walked_at = now
            process.own_bytes = self._own_bytes(process.pid)
            process.walked_bytes = process.resident_bytes
            self._walks_s += time.thread_time() - start

    def _own_bytes(self, pid: int) -> int | None:
        """Memory that no other process maps; None where the kernel does not tell."""
        with contextlib.suppress(OSError, ValueError):
            lines = self._read(f"{pid}/smaps_rollup").split(b"\n")
            return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(b"Private_"))
        return None

    def _stat(self, pid: int) -> list[bytes]:
        """Fields of its stat file from the state on; empty if it is gone. A zombie's time is not lost: its parent gets it."""
        try:
            text = self._read(f"{pid}/stat")
        except OSError:
            return []
        fields = text[text.rfind(b")") + 2 :].split()
        return fields if len(fields) > 21 else []

    def _read(self, name: str) -> bytes:
        fd = os.open(f"{self._proc}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 1 << 16)
        finally:
            os.close(fd)


def _ticks(stat: list[bytes]) -> int:
    """CPU time of a process and of its children that were waited for."""
    return sum(map(int, stat[11:15]))


def _own(child: _Process, rank_bytes: int) -> int:
    """What a child has alone, as far as known: before the first walk, what it has more than its rank."""
    if child.own_bytes is None:
        return max(0, child.resident_bytes - rank_bytes)
    return max(0, child.own_bytes + child.resident_bytes - child.walked_bytes)
