"""Moments that stay in order whatever becomes of the wall clock: it may be set, or jump when a machine wakes up.

Runs in: the supervisor, its forkserver and ranks, which share a machine, and so this clock.

Between them they tell moments by the clock that counts since boot. The supervisor tells everybody else what the wall clock
would have shown, had it not been touched since the run began.
"""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # the first goes on while a laptop sleeps


def now_ns() -> int:
    """Nanoseconds since boot."""
    return time.clock_gettime_ns(_CLOCK)


class _Anchor:
    """By how much the wall clock was ahead of the steady one when a run began."""

    ahead_ns = time.time_ns() - now_ns()


def anchor() -> None:
    """A run begins: take the wall clock as it is now."""
    _Anchor.ahead_ns = time.time_ns() - now_ns()


def as_wall(steady_ns: int) -> int:
    """Nanoseconds since the epoch for a moment of ``now_ns``, also of another process of this machine."""
    return steady_ns + _Anchor.ahead_ns


def wall_ns() -> int:
    """Nanoseconds since the epoch, now."""
    return as_wall(now_ns())
