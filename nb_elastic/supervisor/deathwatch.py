"""When each rank of this node died, by the locks that the kernel marks at once.

Runs in: the supervisor, in threads of its own while ranks run: one for each rank, up to ``MOST_THREADS``. A thread that had to
wait for a CPU knows when it was woken, but not by whom: of two ranks that it watches it could not tell which was first.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping, Sequence

from nb_elastic import lifeline, steady
from nb_elastic.knell import MOST, OWNER_DIED, STOP, WAITERS, Knell, WokenClock

MOST_THREADS = 16
"""Of a node with more ranks than that, a thread watches several."""

NEXT_NS = 1_000
"""Deaths of two looks lie so far apart at least, so that those of one look can be put in an order in between."""

UNSURE_NS = 500_000
"""By so much a thread is woken later than another, often: a CPU that slept must wake up first."""

BLUR_NS = 50_000_000
"""By so much later may a death be seen, on busy CPUs."""

NOTE_S = 0.02
"""Most time that a death is waited for that the kernel marked and its thread did not note."""


class DeathWatch:
    """Knows when ranks died. Where the system can't tell, it knows nothing."""

    def __init__(self, knell: Knell | None) -> None:
        self._knell = knell
        self._threads: list[threading.Thread] = []
        self._pids: dict[int, int] = {}
        self._watched: set[int] = set()
        self._seen_ns: dict[int, int] = {}
        self._alive_ns: dict[int, int] = {}
        self._dead_by: dict[int, tuple[int, int]] = {}
        self._spans: dict[int, tuple[int, int]] = {}
        self._is_noted = threading.Condition()
        self._given = 0

    def begin(self, pids: Mapping[int, int]) -> None:
        """Watch the ranks of a round, which were just started: each is watched as soon as it holds its lock.

        Args:
            pids: local rank -> pid.
        """
        self.end()
        knell, self._spans, self._seen_ns, self._alive_ns, self._dead_by, self._given = self._knell, {}, {}, {}, {}, 0
        self._watched.clear()
        if knell is None or max(pids, default=MOST) >= MOST:
            return
        self._pids = dict(pids)
        knell.stop(is_over=False)
        places = sorted(pids)
        with lifeline.blocked_signals(), contextlib.suppress(RuntimeError):  # no thread can be had: then without
            for first in range(min(MOST_THREADS, len(places))):
                self._start(knell, places[first::MOST_THREADS])

    def _start(self, knell: Knell, places: Sequence[int]) -> None:
        thread = threading.Thread(target=self._watch, args=(knell, places), name="nb_elastic-deaths", daemon=True)
        with self._is_noted:
            self._watched.update(places)
        try:
            thread.start()
        except RuntimeError:
            with self._is_noted:
                self._watched.difference_update(places)
            raise
        self._threads.append(thread)

    def look(self) -> None:
        """Look who lives: no thread, however long it was kept from its CPU, puts a death before that."""
        if self._knell is None:
            return
        for place, pid in self._pids.items():
            now_ns = steady.wall_ns()
            if self._knell.is_held(place, pid):
                self._seen_ns[place] = now_ns

    def span(self, pid: int) -> tuple[int, int] | None:
        """From when to when (nanoseconds since the epoch) a dead rank may have died; None if nobody saw it.

        Spans of two ranks that were seen to die one after the other don't overlap. Of ranks that were found at one look,
        the one that is asked for first gets the earlier end.
        """
        place = next((place for place, one in self._pids.items() if one == pid), STOP)
        if self._knell is not None and self._knell.word(place) & OWNER_DIED:
            with self._is_noted:  # its thread was woken, and may still wait for a CPU
                self._is_noted.wait_for(lambda: place not in self._watched, NOTE_S)
        span = self._spans.get(place)
        self._given += 1
        return (span[0], span[1] + min(self._given, NEXT_NS - 1)) if span else None

    def end(self) -> None:
        """Let the threads go and wait for them; the ranks they watched are dead, or nobody asks for them any more."""
        if self._threads and self._knell is not None:
            self._knell.stop(is_over=True)
            for thread in self._threads:
                thread.join()
            self._threads = []
            self._knell.clear(self._pids)

    def _watch(self, knell: Knell, places: Iterable[int]) -> None:
        """Note the deaths of these until the last one, or until told to stop."""
        knell.hurry()
        clock = WokenClock()
        words = dict.fromkeys(places, 0)
        while words:
            if not knell.wait([*words.items(), (STOP, 0)], first=clock.mark) or knell.word(STOP):
                break
            woken_ns = clock.woken_ns()
            found = {place: now for place, word in words.items() if (now := knell.word(place)) != word}
            words |= found
            gone = {place: now for place, now in found.items() if now not in self._words_of(place)}
            if gone:
                self._note(gone, woken_ns, max(woken_ns, steady.wall_ns()))
            for place in gone:
                del words[place]
        with self._is_noted:
            self._watched -= words.keys()
            self._is_noted.notify_all()

    def _words_of(self, place: int) -> tuple[int, ...]:
        """What stands in a lock's word before its rank holds it, while it takes it, and until the rank dies."""
        pid = self._pids[place]
        return 0, pid, pid | WAITERS

    def _note(self, found: Mapping[int, int], woken_ns: int, now_ns: int) -> None:
        """Note who died at one look. Whose word changed in any other way is let go."""
        dead = [place for place, word in found.items() if word & OWNER_DIED and _is_ending(self._pids[place])]
        with self._is_noted:
            for place in dead:
                self._spans[place] = self._span_of(place, woken_ns, now_ns if len(dead) > 1 else woken_ns)
            self._watched -= found.keys()
            self._look_at_others(min(found), woken_ns)
            self._is_noted.notify_all()

    def _span_of(self, place: int, woken_ns: int, late_ns: int) -> tuple[int, int]:
        """It died after the last moment at which it was seen alive; else only its thread tells, which may have been woken late."""
        seen_ns, other_ns = self._dead_by.get(place, (late_ns, late_ns))
        if woken_ns > seen_ns:  # another thread saw it dead before
            is_first = woken_ns - seen_ns > UNSURE_NS  # so late comes most likely who began to wait for a CPU first
            woken_ns = late_ns = other_ns - NEXT_NS if is_first else seen_ns
        alive_ns = self._alive_ns.get(place, 0)
        early_ns = alive_ns + NEXT_NS if alive_ns else woken_ns - BLUR_NS
        early_ns = max(early_ns, self._seen_ns.get(place, 0) + NEXT_NS)
        return early_ns, max(early_ns, late_ns)

    def _look_at_others(self, noted: int, woken_ns: int) -> None:
        """A death was just noted: who lives still will die later, and whose thread has not come to it yet is dead by now."""
        if self._knell is None:
            return
        for place in self._watched:
            now_ns = steady.wall_ns()
            if self._knell.is_held(place, self._pids[place]):
                self._alive_ns[place] = now_ns
            elif (
                self._knell.word(place) & OWNER_DIED and (place - noted) % MOST_THREADS
            ):  # else this thread comes to it
                self._dead_by.setdefault(place, (steady.wall_ns(), woken_ns))


def _is_ending(pid: int) -> bool:
    """False for a rank that became another program: it let its lock go, too, and lives."""
    fields = lifeline.stat_fields(pid)
    return not fields or fields[0] in "ZX" or bool(int(fields[6]) & lifeline.EXITING)
