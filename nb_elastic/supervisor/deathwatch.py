"""When each rank of this node died, by the locks that the kernel marks at once.

Runs in: the supervisor, in a thread of its own while ranks run.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from nb_elastic import lifeline, steady
from nb_elastic.knell import MOST, OWNER_DIED, STOP, Knell, WokenClock

EXITING = 0x4
"""PF_EXITING in the flags of /proc/<pid>/stat."""

NEXT_NS = 1_000
"""Deaths of two looks lie so far apart at least, so that those of one look can be put in an order in between."""

NOTE_S = 0.02
"""Most time that a death is waited for that the kernel marked and the thread did not note."""


class DeathWatch:
    """Knows when ranks died. Where the system can't tell, it knows nothing."""

    def __init__(self, knell: Knell | None) -> None:
        self._knell = knell
        self._thread: threading.Thread | None = None
        self._places: dict[int, int] = {}
        self._words: dict[int, int] = {}
        self._spans: dict[int, tuple[int, int]] = {}
        self._is_noted = threading.Condition()
        self._given = 0

    def begin(self, pids: Mapping[int, int]) -> None:
        """Watch the ranks of a round, which all hold their locks by now.

        Args:
            pids: local rank -> pid.
        """
        self.end()
        knell, self._spans, self._given = self._knell, {}, 0
        if knell is None or max(pids, default=MOST) >= MOST:
            return
        self._places = {pid: place for place, pid in pids.items()}
        self._words = {place: knell.word(place) for place, pid in pids.items() if knell.is_held(place, pid)}
        if self._words:
            knell.stop(is_over=False)
            with lifeline.blocked_signals():
                self._thread = threading.Thread(
                    target=self._watch, args=(knell,), name="nb_elastic-deaths", daemon=True
                )
                self._thread.start()

    def span(self, pid: int) -> tuple[int, int] | None:
        """From when to when (nanoseconds since the epoch) a dead rank may have died; None if nobody saw it.

        Spans of two ranks that were seen to die one after the other don't overlap. Of ranks that were found at one look,
        the one that is asked for first gets the earlier end.
        """
        place = self._places.get(pid, STOP)
        if self._knell is not None and self._knell.word(place) & OWNER_DIED:
            with self._is_noted:  # the thread was woken, and may still wait for a CPU
                self._is_noted.wait_for(lambda: place not in self._words, NOTE_S)
        span = self._spans.get(pid)
        self._given += 1
        return (span[0], span[1] + min(self._given, NEXT_NS - 1)) if span else None

    def end(self) -> None:
        """Let the thread go and wait for it."""
        if self._thread is not None and self._knell is not None:
            self._knell.stop(is_over=True)
            self._thread.join()
            self._thread = None

    def _watch(self, knell: Knell) -> None:
        """Note deaths until the last one, or until told to stop."""
        knell.hurry()
        clock = WokenClock()
        since_ns = steady.wall_ns()
        while self._words:
            clock.mark()
            if not knell.wait([*self._words.items(), (STOP, 0)]) or knell.word(STOP):
                break
            early_ns = max(since_ns, clock.woken_ns())
            found = {place: now for place, word in self._words.items() if (now := knell.word(place)) != word}
            late_ns = max(early_ns, steady.wall_ns())
            self._note(found, early_ns, late_ns)
            since_ns = late_ns + NEXT_NS
        with self._is_noted:
            self._words = {}
            self._is_noted.notify()

    def _note(self, found: Mapping[int, int], early_ns: int, late_ns: int) -> None:
        """Note who died at one look. Whose word changed in any other way is let go."""
        pids = {place: pid for pid, place in self._places.items()}
        dead = [pids[place] for place, word in found.items() if word & OWNER_DIED and _is_ending(pids[place])]
        with self._is_noted:
            self._spans.update((pid, (early_ns, late_ns if len(dead) > 1 else early_ns)) for pid in dead)
            self._words = {place: word for place, word in self._words.items() if place not in found}
            self._is_noted.notify()


def _is_ending(pid: int) -> bool:
    """False for a rank that became another program: it let its lock go, too, and lives."""
    fields = lifeline.stat_fields(pid)
    return not fields or fields[0] in "ZX" or bool(int(fields[6]) & EXITING)
