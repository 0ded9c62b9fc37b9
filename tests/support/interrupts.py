"""Interrupts a call at one moment after another, and says what it left behind each time.

Runs in: a kernel of the tests.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import comm

from nb_elastic.dashboard import board

PATIENCE_S = 10.0


class _At:
    """A profile function that interrupts when so many calls were made and returned from."""

    def __init__(self, moment: int) -> None:
        self.moment, self.count, self.where = moment, 0, ""

    def __call__(self, frame: Any, event: str, _arg: Any) -> None:
        self.count += 1
        if self.count == self.moment:
            self.where = f"{frame.f_code.co_filename}:{frame.f_lineno} ({event})"
            signal.raise_signal(signal.SIGINT)


def moments(call: Callable[[], object]) -> int:
    """How many moments there are."""
    never = _At(-1)
    _called(call, never)
    return never.count


def left(call: Callable[[], object], *, at: range) -> Iterator[str]:
    """What each interrupted call left beyond the comms that were there before, or raised; nothing where all is well."""
    comms = len(comm.get_comm_manager().comms)
    for moment in at:
        interrupt = _At(moment)
        raised = _called(call, interrupt)
        deadline = time.monotonic() + PATIENCE_S
        while (found := _found(comms)) and time.monotonic() < deadline:
            time.sleep(0.002)
        if found or not isinstance(raised, (KeyboardInterrupt, type(None))):
            yield f"interrupted in {interrupt.where}: {raised!r}, left {found}"
            return


def _called(call: Callable[[], object], interrupt: _At) -> BaseException | None:
    try:
        sys.setprofile(interrupt)
        call()
    except BaseException as e:  # noqa: BLE001  what comes is what the test is about
        return e
    finally:
        sys.setprofile(None)
    return None


def _found(comms: int) -> list[str]:
    threads = [t.name for t in threading.enumerate() if t.name == "nb-elastic-board"]
    more = len(comm.get_comm_manager().comms) - comms
    return [*threads, *(["comm"] * more), *(["view"] * len(board.shared()._views))]
