"""Moments that other nodes wrote into the state of a c10d rendezvous, as they are by the own clock.

Runs in: the supervisor.

torch compares each node's keep-alives, and the end of the last call, with the clock of whoever reads them: nodes whose clocks
are some seconds apart take each other for dead, and never form a group. Here a moment that can't be true counts from
when it was first seen, and is handed on as it was written. A wall clock that jumps changes nothing, either.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

NEAR_S = 1.0
"""So far from now a keep-alive may lie that is taken as it was written: clocks that agree, and one that was read at once."""
JUMP_S = 0.25
"""So much the wall clock may drift from the steady one before moments are told anew."""
DEADLINE = "deadline"


@dataclass(slots=True)
class _Moment:
    """One that was written by another clock, or by ours.

    Attributes:
        written: as it stands in the state.
        at_s: when that was, by the steady clock.
        told: what torch was told last.
    """

    written: datetime
    at_s: float
    told: datetime


class Moments:
    """What one node knows of the moments in its group's state.

    Args:
        last_call_s: how long a group that has nodes enough waits for more, seconds.
    """

    def __init__(self, last_call_s: float) -> None:
        self._last_call_s = last_call_s
        self._known: dict[Any, _Moment] = {}
        self._ahead_s = _wall_s() - time.monotonic()

    def localise(self, state: Any) -> None:
        """Put a state that was read into the own clock."""
        now_s = time.monotonic()
        if abs(_wall_s() - now_s - self._ahead_s) > JUMP_S:
            self._ahead_s = _wall_s() - now_s
        state.last_heartbeats = {node: self._own(node, at, now_s) for node, at in state.last_heartbeats.items()}
        state.deadline = state.deadline and self._own(DEADLINE, state.deadline, now_s)
        for gone in self._known.keys() - state.last_heartbeats.keys() - {DEADLINE}:
            del self._known[gone]

    def restore(self, state: Any) -> None:
        """Put a state that is to be written into the clocks of those who wrote its moments."""
        now_s = time.monotonic()
        state.last_heartbeats = {node: self._as_written(node, at, now_s) for node, at in state.last_heartbeats.items()}
        state.deadline = state.deadline and self._as_written(DEADLINE, state.deadline, now_s)

    def _own(self, key: Any, written: datetime, now_s: float) -> datetime:
        known = self._known.get(key)
        if known is None or known.written != written:
            late_s = now_s + self._ahead_s - written.timestamp()
            if key == DEADLINE:
                at_s = now_s - late_s if -self._last_call_s - NEAR_S < late_s < NEAR_S else now_s + self._last_call_s
            else:
                at_s = now_s - late_s if abs(late_s) < NEAR_S else now_s
            known = self._known[key] = _Moment(written, at_s, written)
        found = datetime.fromtimestamp(known.at_s + self._ahead_s, timezone.utc)
        if abs(found - known.told) > timedelta(seconds=JUMP_S / 2):
            known.told = found
        return known.told

    def _as_written(self, key: Any, told: datetime, now_s: float) -> datetime:
        known = self._known.get(key)
        if known is not None and known.told == told:
            return known.written
        self._known[key] = _Moment(told, now_s + (told.timestamp() - _wall_s()), told)  # a new one, of our own
        return told


def _wall_s() -> float:
    return time.time()
