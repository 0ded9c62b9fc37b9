"""What the lab panel is told: the list of runs whenever it changes, and views of any run of this machine.

Runs in: the kernel, in the board's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nb_elastic.dashboard import board as boards
from nb_elastic.dashboard import runlist
from nb_elastic.dashboard.view import Door
from nb_elastic.rundir import RunDir

LIST_S = 1.0
QUIET_S = 5.0
"""Time between two looks at the runs when no page spoke for a while."""
ATTENTIVE_S = 60.0
GONE_S = 300.0
"""Pages ask for the list anew now and then; when none did for so long, there is none, and nobody is told any more."""


class Panel:
    """The door behind which the pages of JupyterLab are, however many.

    Args:
        send: gives a message and its buffers to all of them.
        stop: asks a run to stop.
        is_own: tells of a run id whether this kernel launched it.
    """

    def __init__(
        self,
        *,
        send: Callable[[dict[str, Any], list[bytes]], None],
        stop: Callable[[RunDir, float], None],
        is_own: Callable[[str], bool],
    ) -> None:
        self._board = boards.shared()
        self._door = Door(send=send, find=runlist.by_id, stop=stop, on_list=self._on_list)
        self._runs = runlist.RunList(is_own)
        self._told: list[dict[str, Any]] | None = None
        self._asked_s = 0.0
        self._due_s = 0.0
        self._is_closed = False

    def hear(self, content: Any) -> None:
        """A page has said something; called in any thread."""
        self._asked_s = time.monotonic()
        self._board.hear(self._door, content)

    def close(self) -> None:
        """End all views."""
        self._is_closed = True  # a list may be on its way just now
        self._board.leave(self._door)

    def _on_list(self) -> None:
        """A page wants the list, and news of it from now on."""
        self._told, self._due_s = None, 0.0
        self._board.keep(self._door, self._tell)

    def _tell(self) -> float:
        """Tell the list if it is time to and it changed; returns the seconds until the next look.

        Raises:
            ConnectionError: if there is nobody to be told.
        """
        now_s = time.monotonic()
        if self._is_closed or now_s - self._asked_s > GONE_S:
            raise ConnectionError("no page asks any more")
        if now_s < self._due_s:
            return self._due_s - now_s
        pause_s = LIST_S if now_s - self._asked_s < ATTENTIVE_S else QUIET_S
        self._due_s = now_s + pause_s
        if (rows := self._runs.rows()) != self._told:
            self._told = rows
            self._door.send({"type": "runs", "runs": rows}, [])
        return pause_s
