"""Keeps the time-outs of process groups from firing while a rank is held.

Runs in: a worker of a run with ``--hold``, or whose cell has a breakpoint; torch is not imported here, but changed when it is.

What can't be kept: a time-out given to a single operation (``work.wait(timeout)``, ``monitored_barrier(timeout)``), a store or
group that the user's code makes by torch's own classes, and whatever waits outside of torch.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

PATIENCE = timedelta(days=7)
"""Torch counts milliseconds in 32 bits in places: 24 days would be the most."""

ENV = {
    "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": str(int(PATIENCE.total_seconds())),
    "TORCH_NCCL_ENABLE_MONITORING": "0",
}
"""NCCL's own watchdog ends a process whose peers stand still."""

MAKERS = ("init_process_group", "new_group", "new_subgroups", "new_subgroups_by_enumeration", "split_group")
HOMES = ("torch.distributed", "torch.distributed.distributed_c10d", "torch.distributed.device_mesh")


def _change_c10d(module: Any) -> None:
    """Whatever makes a group gives it the longest time, also where the user's code names a shorter one."""
    for name in MAKERS:
        plain = getattr(module, name, None)
        if plain is None:
            continue
        patient = _patient(plain)
        for home in {module, *(sys.modules[h] for h in HOMES if h in sys.modules)}:
            if getattr(home, name, None) is plain:
                setattr(home, name, patient)


def _patient(plain: Callable[..., Any]) -> Callable[..., Any]:
    known = inspect.signature(plain)

    @functools.wraps(plain)
    def make(*args: Any, **kwargs: Any) -> Any:
        try:
            given = known.bind(*args, **kwargs)
        except TypeError:
            return plain(*args, **kwargs)  # it says best itself what is wrong
        given.arguments["timeout"] = _longer(given.arguments.get("timeout"))
        return plain(*given.args, **given.kwargs)

    return make


def _longer(given: Any) -> Any:
    return max(given, PATIENCE) if isinstance(given, timedelta) else PATIENCE if given is None else given


CHANGES: Mapping[str, Callable[[Any], None]] = {"torch.distributed.distributed_c10d": _change_c10d}
