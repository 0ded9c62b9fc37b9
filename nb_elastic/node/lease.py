"""The two clocks of a node program: for how long it was told nothing, and how long its end takes.

Runs in: the node program, in a thread of its own, so that nothing that hangs keeps ranks alive without their driver.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from nb_elastic import reap

LEASE_S = 15.0
"""Without a frame for so long the driver is taken for gone; it takes this node for gone by then, too."""
END_S = 4.2
"""An orderly end that takes longer is cut short: everything must have ended within five seconds."""
LOOK_S = 0.2


class Lease:
    """The thread.

    Args:
        on_expired: called in it once, when nothing was heard for too long.
    """

    def __init__(self, lease_s: float, *, on_expired: Callable[[], None]) -> None:
        self._lease_s = lease_s
        self._on_expired = on_expired
        self._heard_at = time.monotonic()
        self._end_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="nb_elastic-node-lease", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def renew(self) -> None:
        """Something was heard."""
        self._heard_at = time.monotonic()

    def begin_end(self) -> None:
        """The end has begun, and must not take too long; safe to call from a signal's handler."""
        if self._end_at is None:
            self._end_at = time.monotonic() + END_S

    def _run(self) -> None:
        while True:
            time.sleep(LOOK_S)
            now = time.monotonic()
            if self._end_at is None and now - self._heard_at > self._lease_s:
                self.begin_end()
                self._on_expired()
            if self._end_at is not None and now > self._end_at:
                reap.end_below()
                os._exit(1)
