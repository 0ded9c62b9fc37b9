"""How a rank came to its end, in one phrase: what it was sent, and what it did then.

Runs in: the supervisor.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence

BY_ITSELF = "left by itself"
SAVED = "saved and left by itself"
BY_AGENT = "ended by the agent"
GONE_BEFORE = "gone before"
UNSEEN = "nobody saw its end"


def way_to_end(sent: Sequence[tuple[int, int]], *, exit_code: int | None, time_ns: int, is_stop: bool) -> str:
    """Tell the way.

    Args:
        sent: (signal, nanoseconds since the epoch) of each signal that it was sent, the first one first.
        exit_code: its code, -N for death by signal N, None where nobody saw it.
        time_ns: when its end was seen.
        is_stop: the run was being stopped; else the group ended, by a failure or to form anew.
    """
    if exit_code is None:
        return UNSEEN
    before = [(number, at_ns) for number, at_ns in sent if at_ns < time_ns]
    died_of = -exit_code if exit_code < 0 else 0
    if not before:
        return f"died of {_name(died_of)}" if died_of else (GONE_BEFORE if is_stop else BY_ITSELF)
    last, first_ns = before[-1][0], before[0][1]
    if died_of == signal.SIGKILL and last == signal.SIGKILL:
        return f"killed after {_seconds((time_ns - first_ns) / 1e9)} s"
    if died_of and died_of not in {number for number, _ in before}:
        return f"died of {_name(died_of)} after {_name(last)}"
    if not is_stop:
        return BY_AGENT
    if last == signal.SIGINT:
        return f"ended after {_name(last)}" if died_of else SAVED
    return f"ended after {_name(signal.SIGTERM)}"


def _seconds(seconds: float) -> str:
    return f"{round(seconds)}" if seconds >= 1.95 else f"{seconds:.1f}"


def _name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
