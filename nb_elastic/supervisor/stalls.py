"""Ranks that stand still while others move: tells where all stand. No run is ended for it: those that move may be what the rest waits for.

Runs in: the supervisor, in the hang watch's thread.

Whether a rank stands is read from the kernel alone, without a signal: its main thread was in one wait all the time, nothing that it
started works, and it tells nothing. A stack is taken only of what is to be told.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

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
ASKED_SWITCHES = 4
"""So often between two looks somebody may have woken it who asked for its stack, once it was told to stand."""
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


class Used(NamedTuple):
    """What a rank has used so far.

    Attributes:
        at: when that was read (``time.monotonic``); 0 where it was not.
        switches: how often its main thread slept.
        own_ns: CPU time of its main thread.
        family_ns: CPU time of it and of what it started.
        io_bytes: read and written.
    """

    at: float = 0.0
    switches: int = 0
    own_ns: int = 0
    family_ns: int = 0
    io_bytes: int = 0

    @classmethod
    def of(cls, pid: int) -> Used:
        """Read it; nothing of a process that is gone."""
        if (found := stacks_proc.look(pid)) is None:
            return cls()
        family_ns, moved = stacks_proc.family_cpu_ns(pid), stacks_proc.io_bytes(pid)
        return cls(time.monotonic(), found.switches, found.run_ns, family_ns, moved)


UNREAD = Used()


@dataclass(slots=True)
class _Stance:
    """What the kernel counts of a rank.

    Attributes:
        moved_at: when (``time.monotonic``) its main thread was last seen to move.
        switches: of the main thread, since it began to stand.
        taken: those of them, since the last look, that taking its stack cost.
        used: at the last look.
    """

    moved_at: float
    switches: int = 0
    taken: int = 0
    used: Used = UNREAD

    def look(self, pid: int, now: float, *, is_told: bool) -> None:
        """See whether it moved.

        Args:
            is_told: it is known to stand, so that somebody may ask why.
        """
        before, self.used = self.used, Used.of(pid)
        woken, self.taken = self.used.switches - before.switches - self.taken, 0
        self.switches += 0 if is_told and woken <= ASKED_SWITCHES else woken
        is_known = bool(before.at and self.used.at)
        if not is_known or self.switches > CALM_SWITCHES or self._has_worked(before):
            self.moved_at, self.switches = now, 0

    def _has_worked(self, before: Used) -> bool:
        ns = (self.used.at - before.at) * 1e9
        return (
            self.used.own_ns - before.own_ns > CALM_SHARE * ns
            or self.used.family_ns - before.family_ns > FAMILY_SHARE * ns
            or self.used.io_bytes - before.io_bytes >= IO_BYTES
        )


class Stalls:
    """Watches the ranks of one round.

    Args:
        after_s: how long some must stand still.
        is_driven: the driver takes the stacks: only who stands is told.
    """

    def __init__(self, *, take: Take, tell: Tell, after_s: float, is_driven: bool) -> None:
        self._take_all = take
        self._tell = tell
        self._after_s = after_s
        self._is_driven = is_driven
        self._stances: dict[int, _Stance] = {}
        self._told: set[int] = set()
        self._next = 0.0
        self._tell_at = 0.0
        self._rest_s = after_s

    def take(self, targets: Sequence[Target], *, is_gentle: bool = False) -> list[RankStack]:
        """Take stacks; that these ranks wake for it is no movement."""
        before = {one.rank: stacks_proc.look(one.pid) for one in targets}
        stacks = self._take_all(targets, is_gentle=is_gentle)
        for one in targets:
            stance, was, now = self._stances.get(one.rank), before[one.rank], stacks_proc.look(one.pid)
            if stance is not None and was is not None and now is not None:
                stance.taken += now.switches - was.switches
        return stacks

    def look(self, alive: Sequence[Target], told_at: Mapping[int, float], *, may_tell: bool) -> None:
        """Look, where it is time to.

        Args:
            told_at: when each rank last told something that counts.
            may_tell: else it may only be seen that those move that were told.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._after_s / PEEKS
        for one in alive:
            stance = self._stances.setdefault(one.rank, _Stance(moved_at=now))
            stance.look(one.pid, now, is_told=one.rank in self._told)
        since = {one.rank: max(self._stances[one.rank].moved_at, told_at[one.rank]) for one in alive}
        still = {rank for rank, at in since.items() if at <= now - self._after_s}
        if not still:
            self._go_on()
        elif (
            may_tell
            and still != self._told
            and len(still) < len(alive)
            and (still < self._told or now >= self._tell_at)
        ):
            self._found(alive, still)

    def release(self) -> None:
        """Begin anew: somebody holds the ranks."""
        self._stances.clear()

    def forget(self) -> None:
        """All ranks stand still: that was told."""
        self._told.clear()

    def _go_on(self) -> None:
        if self._told:
            self._told.clear()
            self._tell("hang_over")

    def _found(self, alive: Sequence[Target], still: set[int]) -> None:
        if self._is_driven:
            self._told = still
            self._tell("stall_found", ranks=sorted(still))
            return
        stacks = self.take([one for one in alive if one.rank in still])
        stacks += self.take([one for one in alive if one.rank not in still], is_gentle=True)
        # What comes again and again, as when one rank saves and the others wait, is not told each time.
        self._tell_at, self._rest_s = time.monotonic() + self._rest_s, self._rest_s * 2
        if found := standing_still(stacks, still):
            self._told = still
            ordered = sorted(stacks, key=lambda one: one.rank)
            self._tell("stall_found", stacks_judge.judge(ordered, cause="stall", time_ns=time.time_ns(), still=found))
        else:
            self._go_on()


def standing_still(stacks: Iterable[RankStack], ranks: set[int]) -> set[int]:
    """Those of some ranks that stand still by what their stacks tell, too."""
    return {one.rank for one in stacks if one.rank in ranks and one.state not in MOVING}
