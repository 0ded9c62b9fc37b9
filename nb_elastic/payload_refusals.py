"""What never travels between processes: which types and modules, why, and what to do instead.

Runs in: the kernel or command line, and the worker.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import sys
import threading
import types
import weakref
from typing import Any

_MAKE_IN_THE_RANK = "create it inside the function or the cell, so that each rank makes its own"


class Refusal(pickle.PicklingError):
    """An object that can't travel.

    Args:
        what: what it is, as in "a lock belongs to one process".
        advice: what to do instead.
        is_for_results: the advice is for what a rank gives back.
    """

    def __init__(self, what: str, advice: str = _MAKE_IN_THE_RANK, *, is_for_results: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.advice = advice
        self.is_for_results = is_for_results


def refusals() -> dict[type, tuple[str, str]]:
    """Types whose objects never travel, with the reason and the way out."""

    def generator() -> Any:
        yield

    async def coroutine() -> None: ...

    async def async_generator() -> Any:
        yield

    running = coroutine()
    running.close()
    found: dict[type, tuple[str, str]] = {
        type(threading.Lock()): ("a lock belongs to one process", _MAKE_IN_THE_RANK),
        type(threading.RLock()): ("a lock belongs to one process", _MAKE_IN_THE_RANK),
        threading.local: ("thread-local data belongs to a thread of one process", _MAKE_IN_THE_RANK),
        threading.Thread: ("a running thread belongs to one process", "start it inside the function or the cell"),
        socket.socket: ("a socket is a connection of one process", "connect inside the function or the cell"),
        type(generator()): (
            "a generator is half-run code, which can't be copied",
            "capture the function that makes it and call that in the rank, or list(...) it first",
        ),
        type(async_generator()): ("an async generator is half-run code, which can't be copied", _MAKE_IN_THE_RANK),
        type(running): (
            "a coroutine is half-run code, which can't be copied",
            "await it first, or call its function in the rank",
        ),
        types.FrameType: ("a frame is running code of one process", "leave it behind"),
        types.TracebackType: (
            "a traceback holds running code of one process",
            "capture its text (traceback.format_exc())",
        ),
        weakref.ReferenceType: (
            "a weak reference can't keep alive what it points to in another process",
            "capture the object itself",
        ),
        weakref.ProxyType: (
            "a weak reference can't keep alive what it points to in another process",
            "capture the object itself",
        ),
        weakref.CallableProxyType: (
            "a weak reference can't keep alive what it points to in another process",
            "capture the object itself",
        ),
    }
    return found


class Importable:
    """Tells whether a fresh process with this ``sys.path`` finds a module; asks each name once."""

    def __init__(self) -> None:
        self._known: dict[str, bool] = {"__main__": True, "__mp_main__": True}

    def check(self, name: str) -> None:
        """Refuse what a rank can't import.

        Raises:
            Refusal: if no finder on ``sys.meta_path`` knows the module.
        """
        if not self._find(name):
            raise Refusal(
                f"its module {name!r} can't be imported by the ranks: no finder on sys.path knows it",
                "put its folder on sys.path, or define it in a cell",
            )

    def _find(self, name: str) -> bool:
        if name not in self._known:
            self._known[name] = self._look(name)
        return self._known[name]

    def _look(self, name: str) -> bool:
        parent, _, tail = name.rpartition(".")
        where = None
        if parent:
            if not self._find(parent):
                return False
            where = getattr(sys.modules.get(parent), "__path__", None)
            if where is None:  # no package, yet it has submodules (six.moves): importing it makes them
                return True
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            with contextlib.suppress(ImportError, ValueError, AttributeError, OSError):
                if find is not None and find(name, where) is not None:
                    return True
        return bool(parent) and isinstance(getattr(sys.modules.get(parent), tail, None), types.ModuleType)
