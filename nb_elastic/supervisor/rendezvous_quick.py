"""Has torch's dynamic rendezvous look often, and at the state as it is, while nodes wait for each other.

Runs in: the supervisor.

As it stands, a node waits for a random time first (up to 0.3 s), then looks once a second at a state that may be a second
old, and before each of its words reads the source of all callers, for a record that nobody keeps: forming a group takes
two seconds, of which ours takes 50 ms. torch asks its own module for the pause and the record, so that is where they are
changed: the pause only while a node waits.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

from torch.distributed.elastic.rendezvous import dynamic_rendezvous

MODULE_NAMES = ("_delay", "get_method_name")
HOLDER_NAMES = ("_cache_duration",)
"""Private names of torch that this needs; a test tells when torch moves them. Without them the group forms at torch's pace."""

POLL_S = 0.02
POLL_A_NODE_S = 0.0005
"""Of many nodes each looks less often, so that one store has to answer 2,000 looks a second at most."""
CROWD = 32
"""So many nodes come apart by torch's random delay: else most of their first words meet another's, and are said again."""


@contextlib.contextmanager
def quick(holder: Any, *, nodes: int) -> Iterator[None]:
    """Have a DynamicRendezvousHandler look often for the time being. One at a time in a process.

    Args:
        holder: of the handler's state.
        nodes: that there may be at most.
    """
    if not can_be_quick(holder):
        yield
        return
    names = vars(dynamic_rendezvous)
    pause_s = max(POLL_S, POLL_A_NODE_S * nodes)

    def delay(seconds: float | tuple[float, float]) -> None:
        if not isinstance(seconds, tuple):
            time.sleep(min(seconds, pause_s))
        elif nodes >= CROWD:
            time.sleep(random.uniform(*seconds))  # noqa: S311  there is nothing to guess

    torchs = names["_delay"]
    names.update(_delay=delay, get_method_name=_name_of_caller)
    try:
        with fresh(holder):
            yield
    finally:
        names.update(_delay=torchs)


def _name_of_caller(depth: int = 2) -> str:
    """What torch's finds by way of ``inspect.stack``, which takes 10 ms a call, also for each keep-alive."""
    try:
        return sys._getframe(depth).f_code.co_name  # noqa: SLF001  the quick way to it
    except ValueError:
        return "no_method_name"


@contextlib.contextmanager
def fresh(holder: Any) -> Iterator[None]:
    """Have the holder of the group's state ask the store each time, where torch gives its copy a second."""
    fields = vars(holder) if hasattr(holder, "__dict__") else {}
    before = fields.get("_cache_duration")
    if before is None:
        yield
        return
    fields["_cache_duration"] = 0
    try:
        yield
    finally:
        fields["_cache_duration"] = before


def can_be_quick(holder: Any) -> bool:
    """True while torch has the private names that this needs."""
    has_all = all(hasattr(dynamic_rendezvous, name) for name in MODULE_NAMES)
    return has_all and all(name in getattr(holder, "__dict__", ()) for name in HOLDER_NAMES)
