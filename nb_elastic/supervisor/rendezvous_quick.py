"""Has torch's dynamic rendezvous look often, and at the state as it is, while nodes wait for each other.

Runs in: the supervisor.

As it stands, a node waits for a random time first (up to 0.3 s), then looks once a second at a state that may be a second
old: forming a group takes a second or two, of which ours takes 50 ms. torch asks its own module for the pause, so that is
where it is changed, and only while a node waits.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from typing import Any

from torch.distributed.elastic.rendezvous import dynamic_rendezvous

MODULE_NAMES = ("_delay",)
HOLDER_NAMES = ("_cache_duration",)
"""Private names of torch that this needs; a test tells when torch moves them. Without them the group forms at torch's pace."""

POLL_S = 0.02
POLL_A_NODE_S = 0.0005
"""Of many nodes each looks less often, so that one store has to answer 2,000 looks a second at most."""
CROWD = 32
"""So many nodes come apart by torch's random delay: else most of their first words meet another's, and are said again."""


@contextlib.contextmanager
def quick(handler: Any) -> Iterator[None]:
    """Have a DynamicRendezvousHandler look often for the time being. One at a time in a process."""
    if not can_be_quick(handler):
        yield
        return
    module: Any = dynamic_rendezvous
    nodes = handler.settings.max_nodes
    pause_s = max(POLL_S, POLL_A_NODE_S * nodes)

    def delay(seconds: float | tuple[float, float]) -> None:
        if not isinstance(seconds, tuple):
            time.sleep(min(seconds, pause_s))
        elif nodes >= CROWD:
            time.sleep(random.uniform(*seconds))  # noqa: S311  there is nothing to guess

    torchs = module._delay
    module._delay = delay
    try:
        with fresh(handler._state_holder):
            yield
    finally:
        module._delay = torchs


@contextlib.contextmanager
def fresh(holder: Any) -> Iterator[None]:
    """Have the holder of the group's state ask the store each time, where torch gives its copy a second."""
    before = getattr(holder, "_cache_duration", None)
    if before is None:
        yield
        return
    holder._cache_duration = 0
    try:
        yield
    finally:
        holder._cache_duration = before


def can_be_quick(handler: Any) -> bool:
    """True while torch has the private names that this needs."""
    holder = getattr(handler, "_state_holder", None)
    return all(hasattr(dynamic_rendezvous, n) for n in MODULE_NAMES) and all(hasattr(holder, n) for n in HOLDER_NAMES)
