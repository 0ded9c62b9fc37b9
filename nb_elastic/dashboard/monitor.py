"""The kernel's comm for the lab panel: opened with the extension, light until a page speaks over it.

Runs in: the kernel. The kernel opens it, so that a front end without our extension hears of a target it does not know at most
a few times, and a page that is reloaded finds it by asking the kernel for its comms.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nb_elastic.dashboard.panel import Panel
    from nb_elastic.rundir import RunDir

TARGET = "nb_elastic.monitor"
UNHEARD_TRIES = 3
"""So often the comm is opened again after a front end closed it, if no page ever spoke over it."""


class Monitor:
    """Owns the comm; what pages say goes to a panel, which is made when the first one speaks.

    Args:
        stop: asks a run to stop.
        is_own: tells of a run id whether this kernel launched it.
    """

    def __init__(self, *, stop: Callable[[RunDir, float], None], is_own: Callable[[str], bool]) -> None:
        self._stop, self._is_own = stop, is_own
        self._lock = threading.Lock()
        self._panel: Panel | None = None
        self._comm: Any = None
        self._tries = 0

    def open(self) -> None:
        """Open the comm if it is not open. Cheap: called after each cell, too, since a page may have closed it."""
        if self._comm is not None or (self._tries > UNHEARD_TRIES and self._panel is None):
            return
        from comm import create_comm

        self._tries += 1
        comm = create_comm(target_name=TARGET, data={"version": 1})
        unroute(comm)
        comm.on_msg(self._heard)
        comm.on_close(self._closed)
        self._comm = comm

    def close(self) -> None:
        """Close the comm, and end its views."""
        with self._lock:
            panel, self._panel = self._panel, None
        if panel is not None:
            panel.close()
        comm, self._comm = self._comm, None
        if comm is not None:
            comm.close()

    def send(self, message: dict[str, Any], buffers: list[bytes]) -> None:
        """Send to all pages.

        Raises:
            ConnectionError: if a front end has closed the comm.
        """
        comm = self._comm
        if comm is None:
            raise ConnectionError("the front end has closed the comm")
        comm.send(data=message, buffers=buffers or None)

    def _heard(self, message: Mapping[str, Any]) -> None:
        """In whatever thread the kernel hears pages in: a subshell's, or the main one."""
        from nb_elastic.dashboard.panel import Panel

        with self._lock:
            if self._panel is None:
                self._panel = Panel(send=self.send, stop=self._stop, is_own=self._is_own)
            panel = self._panel
        content = message.get("content")
        panel.hear(content.get("data") if isinstance(content, Mapping) else None)

    def _closed(self, _message: object) -> None:
        self._comm = None


def unroute(comm: Any) -> None:
    """Have what a page says heard while a cell is busy.

    ipykernel 7.4 sends what the browser says over a comm to where the comm last published from, which
    is the busy main shell; without its note it sends it to the comm's own subshell, as 7.0 to 7.3 do.
    """
    if comm is not None and hasattr(type(comm), "_reply_subshell_for"):
        comm._reply_subshell_for = None  # noqa: SLF001
