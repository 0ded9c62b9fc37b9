"""What a process forked from a warm one sheds, so that a user's code finds an interpreter that has just started.

Runs in: a worker that was forked.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import weakref
from collections.abc import Mapping

from nb_elastic import ambient, pools


def begin(before: Mapping[str, str]) -> None:
    """Settle this process into its environment, which it already has. Imports nothing: it would take time.

    Args:
        before: the environment of the process that forked this one.
    """
    ambient.heed(before)
    _draw_seeds()
    _take_identity()
    _leave_the_dead_to_others()
    pools.find().size(os.environ)
    if torch_distributed := sys.modules.get("torch.distributed"):
        if torch_distributed.is_available() and before.get("TORCH_DISTRIBUTED_DEBUG") != os.environ.get(
            "TORCH_DISTRIBUTED_DEBUG"
        ):
            torch_distributed.set_debug_level_from_env()


def _draw_seeds() -> None:
    """Forked from one state, ranks would draw the same numbers and believe each other's messages."""
    random.seed()
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()
    if process := sys.modules.get("multiprocessing.process"):
        process.current_process().authkey = os.urandom(32)


def _leave_the_dead_to_others() -> None:
    """What libraries want done at the exit of the process that imported them is not for its children to do.

    It may delete that process's files; and torch takes 30 ms to take back its operators one by one.
    """
    for one in list(weakref.finalize._registry):  # type: ignore[attr-defined]  # noqa: SLF001
        one.atexit = False


def _take_identity() -> None:
    """Python's main thread remembers the number of the thread that forked it."""
    if hasattr(main := threading.main_thread(), "_set_native_id"):
        main._set_native_id()  # noqa: SLF001
