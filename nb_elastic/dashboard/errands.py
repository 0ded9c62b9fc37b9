"""What pages ask for that takes its time: each in a thread of its own, so many at a time at most, never in the board's.

Runs in: the kernel. Whatever goes wrong is told to the page that asked.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any

from nb_elastic.dashboard import messages
from nb_elastic.dashboard.view import Door
from nb_elastic.model import StackReport
from nb_elastic.rundir import RunDir

MAX_STOPS = 16
"""Stops under way at a time."""
MAX_STACKS = 4
"""Takings of stacks under way at a time: each holds files of all ranks open, and signals them."""


class Errands:
    """Starts threads and knows which of them are under way. Called in the board's thread alone."""

    def __init__(self) -> None:
        self._stops: list[threading.Thread] = []
        self._stacks: list[threading.Thread] = []

    def stop(self, door: Door, folder: RunDir, grace_s: float, to: dict[str, str]) -> None:
        """Ask a run to stop; where too many are being asked, nothing happens."""
        self._stops = _living(self._stops)
        if len(self._stops) < MAX_STOPS:
            self._stops.append(_started("nb-elastic-stop", lambda: _stop(door, folder, grace_s, to)))

    def stacks(self, door: Door, folder: RunDir, to: dict[str, str]) -> None:
        """Take the stacks of a run's ranks."""
        self._stacks = _living(self._stacks)
        if len(self._stacks) < MAX_STACKS:
            self._stacks.append(_started("nb-elastic-stacks-ask", lambda: _take_stacks(door, folder, to)))
            return
        text = f"The stacks of {MAX_STACKS} runs are being taken just now: ask again in a moment."
        _send(door, {**to, "type": "stacks", "ok": False, "text": text, "report": None})

    def end(self) -> None:
        """Forget what is done; nobody waits for what is not, which counts on when the board begins again."""
        self._stops, self._stacks = _living(self._stops), _living(self._stacks)


def _living(threads: list[threading.Thread]) -> list[threading.Thread]:
    return [t for t in threads if t.is_alive()]


def _started(name: str, call: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=call, name=name, daemon=True)
    thread.start()
    return thread


def _stop(door: Door, folder: RunDir, grace_s: float, to: dict[str, str]) -> None:
    """Ask a run to stop, and say what came of it."""
    try:
        if door.stop is None:
            said = {"ok": False, "text": "This dashboard can only look."}
        else:
            door.stop(folder, grace_s)
            after = f"SIGTERM follows after {grace_s:g} s" if grace_s else "SIGTERM follows at once"
            said = {"ok": True, "text": f"The ranks are asked to stop (SIGINT); {after}."}
    except Exception as e:  # noqa: BLE001  a thread's border: whatever went wrong, the page must hear of it
        said = {"ok": False, "text": f"{type(e).__name__}: {e}"}
    _send(door, {**to, "type": "stopping", **said})


def _take_stacks(door: Door, folder: RunDir, to: dict[str, str]) -> None:
    """Take the stacks, and tell where the ranks are."""
    try:
        said = messages.stacks((door.stacks or _report)(folder))
    except Exception as e:  # noqa: BLE001  a thread's border: as above
        said = {"ok": False, "text": f"{type(e).__name__}: {e}", "report": None}
    _send(door, {**to, "type": "stacks", **said})


def _report(folder: RunDir) -> StackReport:
    """Imported when it is wanted: a kernel whose pages never ask does without."""
    stacks: Any = importlib.import_module("nb_elastic.stacks")
    report: StackReport = stacks.report(folder)
    return report


def _send(door: Door, message: dict[str, Any]) -> None:
    try:
        door.send(message, [])
    except Exception:  # noqa: BLE001  a border: the comm may be closed by now
        return
