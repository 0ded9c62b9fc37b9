"""Looks after the run folder while a run lasts: its disk is full, it was deleted, somebody left a stop there.

Runs in: the supervisor and the driver, in a thread that looks once a second.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from types import TracebackType
from typing import Protocol

from nb_elastic import opening
from nb_elastic.rundir import RunDir
from nb_elastic.supervisor.channel import EventLog
from nb_elastic.supervisor.stopping import GRACE_S

LOOK_S = 1.0
TOUCH_S = 20.0
JOIN_S = 2.0
"""A file system that hangs must not keep the run from its end."""
LOW_BYTES = 64 << 10
"""A disk with less room is full: what the ranks write comes in pieces of such a size."""
GONE_LOOKS = 2
"""So often in a row the folder must be missing: a network's file system may be away for a moment."""

FULL_TEXT = (
    "The disk of the run folder ({path}) is full. The run goes on, but logs, results and metrics that find no room are lost, "
    "and a rank that prints fails with 'No space left on device'. Free some room, or choose another place with --log-dir."
)


class Ender(Protocol):
    """Who ends the run when its folder asks for that."""

    def request(self, *, by: str, grace_s: float) -> None:
        """Ask for the end."""

    def heed(self) -> None:
        """Look for a stop that another process left in the run folder."""


class Upkeep:
    """The thread; runs while the context lasts.

    Args:
        is_alone: no other node writes into the same journal.
    """

    def __init__(self, folder: RunDir, log: EventLog, stopper: Ender, *, is_alone: bool) -> None:
        self._folder = folder
        self._log = log
        self._stopper = stopper
        self._is_alone = is_alone
        self._over = threading.Event()
        self._missing = 0
        self._has_told = False
        self._thread = threading.Thread(target=self._run, name="nb_elastic-upkeep", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(JOIN_S)

    def _run(self) -> None:
        touch_at = time.monotonic() + TOUCH_S
        while True:
            if self._is_alone:
                self._log.reserve()
            if self._over.wait(LOOK_S):
                return
            self._log.retry()
            self._see_disk()
            self._see_folder()
            self._stopper.heed()  # somebody who can't signal us: in another container, or on another machine
            if time.monotonic() >= touch_at:
                touch_at = time.monotonic() + TOUCH_S
                self._log.touch()

    def _see_disk(self) -> None:
        if self._has_told:
            return
        with contextlib.suppress(OSError):
            info = os.statvfs(self._folder.path)
            if self._log.is_full or info.f_bavail * info.f_frsize < LOW_BYTES:
                self._has_told = True
                self._log.note(FULL_TEXT.format(path=self._folder.path), level="warning")

    def _see_folder(self) -> None:
        """Nobody can ever see a run whose folder was deleted: it ends, and its ranks may save elsewhere."""
        self._missing = self._missing + 1 if self._log.is_unlinked or opening.is_gone(self._folder.journal) else 0
        if self._missing == GONE_LOOKS:
            self._stopper.request(by="the loss of its folder, which was deleted", grace_s=GRACE_S)
