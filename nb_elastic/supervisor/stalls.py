"""Ranks that stand still while others move: tells where all stand. No run is ended for it: those that move may be what the rest waits for.

Runs in: the supervisor, in the hang watch's thread.

Whether a rank stands is read from the kernel alone, without a signal: its main thread was in one wait all the time, nothing that it
started works, and it tells nothing. A stack is taken only of what is to be told.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nb_elastic import stacks_judge, stacks_proc
from nb_elastic.model import StackReport
from nb_elastic.stacks_nouns import RankStack, Target
from nb_elastic.supervisor.hang_words import MOVING

PEEKS = 4
"""So many times, in the time after which ranks count as standing still, the kernel is asked."""
CALM_SHARE = 0.02
"""More than this much of a CPU, used by a main thread, is work."""
CALM_SWITCHES = 2
"""A main thread that slept oftener than this, all in all, was not in one wait."""
FAMILY_SHARE = 0.2
"""More than this much of a CPU, used by a rank and what it started, is work."""
IO_BYTES = 1 << 20


class Take(Protocol):
    """Takes the stacks of ranks."""

    def __call__(self, targets: Sequence[Target], *, is_gentle: bool = False) -> list[RankStack]:
        """One for each target; a gentle look sends no signal."""


class Tell(Protocol):
    """Tells what was found."""

    def __call__(self, kind: str, report: StackReport | None = None, *, ranks: Sequence[int] = ()) -> None:
        """Write an event; ``ranks`` are those that stand still, where no report says so."""


@dataclass(slots=True)
class _Stance:
    """What the kernel counts of a rank.

    Attributes:
        moved_at: when (``time.monotonic``) its main thread was last seen to move.
        switches: of the main thread, when it began to stand.
        used: (when, CPU time of the main thread, of all its family, bytes read and written) at the last look.
    """

    moved_at: float
    switches: int = 0
    used: tuple[float, int, int, int] = (0.0, 0, 0, 0)

    def look(self, pid: int, now: float) -> None:
        """See whether it moved."""
        found = stacks_proc.look(pid)
        before = self.used
        self.used = (now, found.run_ns if found else 0, stacks_proc.family_cpu_ns(pid), stacks_proc.io_bytes(pid))
        if found is None or not before[0] or self._has_worked(before) or found.switches - self.switches > CALM_SWITCHES:
            self.moved_at, self.switches = now, found.switches if found else 0

    def forgive(self, pid: int) -> None:
        """Whoever took its stack woke it."""
        if found := stacks_proc.look(pid):
            self.switches = found.switches

    def _has_worked(self, before: tuple[float, int, int, int]) -> bool:
        seconds, own, family, moved = (new - old for new, old in zip(self.used, before, strict=True))
        return own > CALM_SHARE * seconds * 1e9 or family > FAMILY_SHARE * seconds * 1e9 or moved >= IO_BYTES


class Stalls:
    """Watches the ranks of one round.

    Args:
        after_s: how long some must stand still.
        is_driven: the driver takes the stacks: only who stands is told.
    """

    def __init__(self, *, take: Take, tell: Tell, after_s: float, is_driven: bool) -> None:
        self._take = take
        self._tell = tell
        self._after_s = after_s
        self._is_driven = is_driven
        self._stances: dict[int, _Stance] = {}
        self._told: set[int] = set()
        self._next = 0.0
        self._tell_at = 0.0

    def look(self, alive: Sequence[Target], told_at: Mapping[int, float]) -> None:
        """Look, where it is time to.

        Args:
            told_at: when each rank last told something that counts.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._after_s / PEEKS
        for one in alive:
            self._stance(one, now).look(one.pid, now)
        still = {one.rank for one in alive if self._since(one, told_at) <= now - self._after_s}
        if not still:
            self._go_on()
        elif still != self._told and len(still) < len(alive) and now >= self._tell_at:
            self._found(alive, still)

    def release(self) -> None:
        """Begin anew: somebody holds the ranks."""
        self._stances.clear()

    def forget(self) -> None:
        """All ranks stand still: that was told."""
        self._told.clear()

    def _stance(self, one: Target, now: float) -> _Stance:
        return self._stances.setdefault(one.rank, _Stance(moved_at=now))

    def _since(self, one: Target, told_at: Mapping[int, float]) -> float:
        return max(self._stances[one.rank].moved_at, told_at[one.rank])

    def _go_on(self) -> None:
        if self._told:
            self._told.clear()
            self._tell("hang_over")

    def _found(self, alive: Sequence[Target], still: set[int]) -> None:
        if self._is_driven:
            self._told = still
            self._tell("stall_found", ranks=sorted(still))
            return
        standing = [one for one in alive if one.rank in still]
        stacks = self._take(standing)
        for one in standing:
            self._stances[one.rank].forgive(one.pid)
        stacks += self._take([one for one in alive if one.rank not in still], is_gentle=True)
        self._tell_at = time.monotonic() + self._after_s
        if found := standing_still(stacks, still):
            self._told = still
            self._tell("stall_found", report(stacks, found))


def standing_still(stacks: Iterable[RankStack], ranks: set[int]) -> set[int]:
    """Those of some ranks that stand still by what their stacks tell, too."""
    return {one.rank for one in stacks if one.rank in ranks and one.state not in MOVING}


def report(stacks: Sequence[RankStack], still: set[int]) -> StackReport:
    """Where the ranks are while some of them stand still."""
    ordered = sorted(stacks, key=lambda one: one.rank)
    return stacks_judge.judge(ordered, cause="stall", time_ns=time.time_ns(), still=still)
