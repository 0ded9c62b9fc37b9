"""Has the engine open, grow and close, in a thread that lasts as long as the nodes it starts.

Runs in: the driver.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from nb_elastic.driver import log
from nb_elastic.driver.desk import Desk
from nb_elastic.engines.base import Engine, Order


class Hiring:
    """The engine and its thread.

    Args:
        order: of the nodes that are wanted at once.
        on_failed: told, in the main thread, why nodes can't be had.
        on_grow_failed: the same for more nodes.
    """

    def __init__(
        self,
        engine: Engine,
        order: Order,
        desk: Desk,
        *,
        on_failed: Callable[[str], None],
        on_grow_failed: Callable[[str], None],
        grow_s: float,
    ) -> None:
        self.is_open = False
        self._engine = engine
        self._order = order
        self._desk = desk
        self._on_failed, self._on_grow_failed = on_failed, on_grow_failed
        self._grow_s = grow_s
        self._missing = 0
        self._changed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nb_elastic-engine", daemon=True)
        self._thread.start()

    def want(self, missing: int) -> None:
        """Have the engine look for so many more nodes, now and again."""
        if missing != self._missing:
            self._missing = missing
            self._changed.set()

    def close(self, timeout_s: float) -> bool:
        """End all nodes; False if the engine takes longer."""
        self._order.is_over.set()
        self._changed.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            log.write(f"opens {self._order.nodes} node(s)")
            self._engine.open(self._order)
        except Exception as e:  # noqa: BLE001  border: an engine may be a third party's, and fail in any way
            if not self._order.is_over.is_set():
                self._desk.call(self._on_failed, _words(e))
        else:
            self.is_open = True
            self._grow()
        self._order.is_over.wait()
        try:
            self._engine.close()
        except Exception as e:  # noqa: BLE001  border, as above
            log.write(f"the engine can't be closed: {_words(e)}")

    def _grow(self) -> None:
        has_told = False
        while not self._order.is_over.is_set():
            self._changed.wait(self._grow_s if self._missing > 0 else None)
            self._changed.clear()
            if self._missing > 0 and not self._order.is_over.is_set():
                try:
                    self._engine.grow(replace(self._order, nodes=self._missing))
                    has_told = False
                except Exception as e:  # noqa: BLE001  border, as above
                    if not has_told:
                        self._desk.call(self._on_grow_failed, _words(e))
                    has_told = True


def _words(error: Exception) -> str:
    return str(error) if type(error).__module__.startswith("nb_elastic.") else f"{type(error).__name__}: {error}"
