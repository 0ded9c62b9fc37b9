"""Watches whether the ranks of a round move, and tells once when all stand still: where each stands, and who waits for whom.

Runs in: the supervisor, in a thread of its own.

A rank moves when it tells something (logs, ``report``, outputs), when its collectives go on, when its code comes to another line, or
when what it waits for works: its children, the disk, the network. Stacks are taken only when every rank has told nothing for a while.

A thread that only says "I live" must not hide a hang. So ranks that talk are asked now and then, by their bell alone, where their main
threads stand. One that can only wait for others does not move, whatever its threads say; and where such a one talks, no words count.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nb_elastic import stacks, stacks_frames, stacks_judge
from nb_elastic.lifeline import ProcessId
from nb_elastic.model import StackReport, to_json
from nb_elastic.rundir import RunDir
from nb_elastic.stacks_nouns import RankStack, Target
from nb_elastic.supervisor.channel import EventLog
from nb_elastic.supervisor.hang_words import BUSY_TIMES, BY_HANG, MOVING
from nb_elastic.supervisor.stalls import CALM_SWITCHES, FAMILY_SHARE, IO_BYTES, PEEKS, UNREAD, Stalls, Take, Tell, Used
from nb_elastic.supervisor.stopping import GRACE_S, Stopper

if TYPE_CHECKING:
    from nb_elastic.supervisor.pulse import Subject

LOOKS = 8
"""So many looks, and at most so many stacks, in the time after which ranks count as hanging."""
MAX_PAUSE_S = 2.0
CALM_PAUSE_S = 15.0
"""Longest time between two looks at ranks that are known to hang."""

SWITCHES_A_SECOND = 50
WITH_FAMILY = frozenset({"child", "queue", "dataloader", "thread", "lock", "socket", "start", ""})
WITH_SWITCHES = frozenset({"socket", "file", "start", ""})
JOIN_S = 8.0


@dataclass(slots=True, kw_only=True)
class _Rank:
    """What is known of one rank.

    Attributes:
        moved_at: when (``time.monotonic``) its main thread was last seen to move, or what it waits for to work.
        told_at: when it last told something.
        sizes: of the files in which it tells something.
        key: where it stood at the last look, or None.
        seen: the places where it was seen computing since it last moved otherwise.
        used: at the last look.
        waits_since: from when on it was seen in one wait that only other ranks can end, or None.
    """

    target: Target
    moved_at: float
    told_at: float
    files: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    key: object = None
    seen: set[object] = field(default_factory=set)
    used: Used = UNREAD
    waits_since: float | None = None

    @property
    def only_talks(self) -> bool:
        """True if it told something while its main thread could only wait for others: another thread did."""
        return self.waits_since is not None and self.told_at > self.waits_since

    @property
    def words_at(self) -> float:
        """When it last told something that counts: words prove nothing of a main thread that can only wait for others."""
        return self.told_at if self.waits_since is None else self.moved_at

    def still_since(self, *, heeds_words: bool) -> float:
        """From when on it does not move."""
        is_talk_idle = self.waits_since is not None or not heeds_words
        return self.moved_at if is_talk_idle else max(self.moved_at, self.told_at)

    def listen(self, now: float, *, heeds_words: bool) -> None:
        """Look whether it told something."""
        sizes = tuple(map(_size, self.files))
        before, self.sizes = self.sizes, sizes
        if sizes != before:
            self.told_at = now
            if heeds_words:
                self.seen.clear()

    def see(self, stack: RankStack, now: float, *, heeds_words: bool) -> None:
        """Look where it stands."""
        before, used_before = self.key, self.used
        has_moved = self._has_moved(stack)
        # Who sleeps again and again, and talks, may be who talks.
        woken = self.used.switches - used_before.switches
        if has_moved or (woken and stack.kind == "sleep" and not heeds_words):
            self.moved_at = now
        if not (stack.is_for_others and stack.flight and stack.flight.counts):
            self.waits_since = None
        elif self.waits_since is None or self.key != before or woken > CALM_SWITCHES:
            self.waits_since = now

    def release(self, now: float) -> None:
        """Begin anew: somebody holds the ranks."""
        self.moved_at, self.key, self.waits_since = now, None, None
        self.seen.clear()

    def _has_moved(self, stack: RankStack) -> bool:
        """True if it stands elsewhere than at the last look, or if what it waits for works."""
        counts = tuple(sorted(stack.flight.counts.items())) if stack.flight else ()
        key = (stack.state, stack.kind, stack.places, counts)
        before, self.key = self.key, key
        used_before, self.used = self.used, Used.of(self.target.pid)
        if stack.state == "busy" and stack.places:
            is_new = stack.places not in self.seen
            self.seen.add(stack.places)
            return is_new
        return key != before or _works(stack, used_before, self.used)


class HangWatch:
    """Watches the ranks of a node, round after round.

    Args:
        after_s: how long all must stand still.
        is_stop: ask for the run's end then.
        has_others: there are ranks on other nodes, which can't be seen.
        is_driven: the driver, which hears all nodes' watches, decides what is a hang.

    Attributes:
        text: why it asked for the run's end, or "".
    """

    def __init__(
        self,
        run: RunDir,
        *,
        log: EventLog,
        stopper: Stopper,
        after_s: float,
        is_stop: bool,
        has_others: bool,
        is_driven: bool = False,
    ) -> None:
        self.text = ""
        self._run = run
        self._log = log
        self._stopper = stopper
        self._after_s = after_s
        self._stop_after_s = after_s if is_stop and not is_driven else None
        self._has_others = has_others
        self._is_driven = is_driven
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, number: int, subjects: Sequence[Subject]) -> None:
        """Watch the ranks of a round that were just started."""
        self.close()
        self._over = over = threading.Event()
        watched = _Round(
            number,
            [_rank(s) for s in subjects],
            take=self._take,
            tell=lambda kind, report=None, *, ranks=(): (
                None if over.is_set() else self._tell(number, kind, report, ranks)
            ),
            after_s=self._after_s,
            is_driven=self._is_driven,
        )
        run = lambda: self._watch(watched, over)  # noqa: E731
        self._thread = threading.Thread(target=run, name="nb_elastic-hangs", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """The round is over; waits for nobody."""
        self._over.set()

    def close(self) -> None:
        """End, and wait for the thread; one that does not come back is left to itself."""
        self.end()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(JOIN_S)

    def _watch(self, watched: _Round, over: threading.Event) -> None:
        while not over.wait(watched.pause_s):
            if self._stopper.is_requested:
                return
            found = watched.look(time.monotonic())
            if found is not None and self._is_to_stop(watched, found) and not over.is_set():
                self.text = found.headline
                self._stopper.request(by=BY_HANG, grace_s=GRACE_S, is_timeout=True)
                return

    def _is_to_stop(self, watched: _Round, found: StackReport) -> bool:
        if self._stop_after_s is None:
            return False
        is_unsure = self._has_others or watched.only_talks or any(g.state == "busy" for g in found.groups)
        return watched.still_s >= self._stop_after_s * (BUSY_TIMES if is_unsure else 1)

    def _take(self, targets: Sequence[Target], *, is_gentle: bool = False) -> list[RankStack]:
        return stacks.take(targets, texts=stacks_frames.texts_of(self._run), is_gentle=is_gentle)

    def _tell(self, number: int, kind: str, report: StackReport | None, ranks: Sequence[int]) -> None:
        what: dict[str, Any] = {"ranks": list(ranks)} if ranks else {}
        if report is not None:
            what["report"] = to_json(stacks_judge.shortened(report))
        self._log.tell(kind, round=number, **what)


class _Round:
    """The ranks of one round: are they moving?"""

    def __init__(
        self,
        number: int,
        ranks: Sequence[_Rank],
        *,
        take: Take,
        tell: Tell,
        after_s: float,
        is_driven: bool,
    ) -> None:
        self.number = number
        self.still_s = 0.0
        self._ranks = list(ranks)
        self._tell = tell
        self._after_s = after_s
        self._is_driven = is_driven
        self._stalls = Stalls(take=take, tell=tell, after_s=after_s, is_driven=is_driven)
        self._take = self._stalls.take
        self._found: StackReport | None = None
        self._next_stacks = 0.0
        self._next_peek = time.monotonic() + after_s / PEEKS

    @property
    def pause_s(self) -> float:
        """How long to wait before the next look."""
        return min(MAX_PAUSE_S, self._after_s / LOOKS)

    def look(self, now: float) -> StackReport | None:
        """Look once; returns where the ranks stand while they hang, else None."""
        is_held = any(os.path.lexists(r.target.folder.held_json) for r in self._ranks)
        heeds_words = not self.only_talks
        for rank in self._ranks:
            rank.listen(now, heeds_words=heeds_words)
            if is_held:
                rank.release(now)
                self._stalls.release()
        alive = [r for r in self._ranks if _is_alive(r)]
        is_still = self._still_s(alive, now) >= self._after_s / 3
        if is_still:
            if now >= self._next_stacks:
                self._look_closer(alive)
        else:
            self._go_on()
            if now >= self._next_peek and not is_held:
                self._peek(alive)
        told_at = {r.target.rank: r.words_at for r in alive}
        self._stalls.look([r.target for r in alive], told_at, may_tell=not is_still)
        return self._found

    @property
    def only_talks(self) -> bool:
        """True if a rank still talks whose main thread can only wait for others."""
        return any(r.only_talks for r in self._ranks)

    def _still_s(self, alive: Sequence[_Rank], now: float) -> float:
        heeds_words = not self.only_talks
        return min((now - r.still_since(heeds_words=heeds_words) for r in alive), default=0.0)

    def _peek(self, alive: Sequence[_Rank]) -> None:
        """Ask ranks that talk where they stand, without a signal: only who has a process group can wait for others."""
        now = time.monotonic()
        self._next_peek = now + self._after_s / PEEKS
        talking = [r for r in alive if now - r.told_at < self._after_s / 3]
        if not talking or not all(os.path.lexists(r.target.folder.bell) for r in alive):
            return
        heeds_words = not self.only_talks
        found = self._take([r.target for r in alive], is_gentle=True)
        now = time.monotonic()
        for rank, stack in zip(alive, found, strict=True):
            if stack.frames:
                rank.see(stack, now, heeds_words=heeds_words)

    def _look_closer(self, alive: Sequence[_Rank]) -> None:
        """Take stacks: who moves without a word?"""
        found = self._take([r.target if r in alive else replace(r.target, ended="succeeded") for r in self._ranks])
        now, heeds_words = time.monotonic(), not self.only_talks
        pause_s = self._after_s / LOOKS if self._found is None else min(CALM_PAUSE_S, self._after_s / 4)
        self._next_stacks = now + max(pause_s, 0.1)
        for rank, stack in zip(self._ranks, found, strict=True):
            if rank in alive and stack.state != "gone":
                rank.see(stack, now, heeds_words=heeds_words)
        self.still_s = self._still_s(alive, now)
        if self.still_s < self._after_s:
            self._go_on()
        elif self._found is None and (self._is_driven or not all(s.state in MOVING for s in found)):
            told = [_with_talk(s) if r.only_talks else s for r, s in zip(self._ranks, found, strict=True)]
            self._found = stacks_judge.judge(told, cause="hang", time_ns=time.time_ns())
            self._tell("hang_found", self._found)
            self._stalls.forget()

    def _go_on(self) -> None:
        if self._found is not None:
            self._found = None
            self._tell("hang_over")


def _rank(subject: Subject) -> _Rank:
    identity = ProcessId.of(subject.pid)
    folder = subject.folder
    told = (folder.stdout, folder.stderr, folder.metrics, folder.outputs, folder.worker_json)
    target = Target(
        rank=subject.rank,
        local_rank=subject.local_rank,
        pid=subject.pid,
        start_ticks=identity.start_ticks if identity else 0,
        folder=folder,
    )
    now = time.monotonic()
    return _Rank(target=target, moved_at=now, told_at=now, files=tuple(map(str, told)))


def _with_talk(stack: RankStack) -> RankStack:
    return replace(stack, notes=(*stack.notes, "Another thread of it still tells something; its main thread stands."))


def _is_alive(rank: _Rank) -> bool:
    return ProcessId(rank.target.pid, rank.target.start_ticks).is_alive


def _size(path: str) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return -1


def _works(stack: RankStack, before: Used, now: Used) -> bool:
    """True if a rank that stands at the same place waits for something that works, or works without Python."""
    seconds, switches = now.at - before.at, now.switches - before.switches
    if not before.at or seconds <= 0:
        return False
    if stack.is_for_others:  # messages between two ranks are not counted by their group
        return stack.kind == "p2p" and switches > CALM_SWITCHES
    if now.io_bytes - before.io_bytes >= IO_BYTES:
        return True
    if stack.kind in WITH_SWITCHES and switches / seconds >= SWITCHES_A_SECOND:
        return True
    is_bare = not stack.frames  # of a program without Python, a little work is all that can be seen
    share = (now.family_ns - before.family_ns) / (seconds * 1e9)
    return share >= (FAMILY_SHARE / 10 if is_bare else FAMILY_SHARE) and (is_bare or stack.kind in WITH_FAMILY)
