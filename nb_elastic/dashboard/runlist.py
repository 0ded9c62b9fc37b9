"""The list of runs that the lab panel shows: the newest of this machine, read from their folders as cheaply as it goes.

Runs in: the kernel.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nb_elastic import opening, private, rundir
from nb_elastic import snapshot as snapshots
from nb_elastic.dashboard import messages
from nb_elastic.errors import DescriptorsError
from nb_elastic.rundir import JournalReader, RunDir
from nb_elastic.snapshot import RunSnapshot

ROWS = 50
HOME_LOOK_S = 10.0
"""A home whose time of change is the same is listed anew so often all the same: file systems may be coarse."""


class RunList:
    """Keeps rows of runs; only journals of runs that are not over are read again.

    Args:
        is_own: tells of a run id whether this kernel launched it.
    """

    def __init__(self, is_own: Callable[[str], bool] = lambda _: False) -> None:
        self._is_own = is_own
        self._folders: list[RunDir] = []
        self._home: tuple[str, int] = ("", 0)
        self._listed_s = -HOME_LOOK_S
        self._known: dict[Path, tuple[JournalReader, RunSnapshot]] = {}

    def rows(self) -> list[dict[str, Any]]:
        """The newest runs, newest first."""
        self._list()
        self._known = {f.path: self._look(f) for f in self._folders}
        here = {"", socket.gethostname()}
        return [
            messages.run_row(
                now := self._known[folder.path][1],
                folder,
                is_own=self._is_own(folder.run_id),
                is_here=now.host in here,
            )
            for folder in self._folders
        ]

    def _list(self) -> None:
        home = rundir.home()
        try:
            stamp = (os.fspath(home), home.stat().st_mtime_ns)
        except OSError:
            stamp = (os.fspath(home), 0)
        if stamp != self._home or time.monotonic() - self._listed_s > HOME_LOOK_S:
            self._home, self._listed_s = stamp, time.monotonic()
            self._folders = rundir.all_runs()[:ROWS]

    def _look(self, folder: RunDir) -> tuple[JournalReader, RunSnapshot]:
        reader, now = self._known.get(folder.path) or (JournalReader(folder.journal), snapshots.EMPTY)
        if not now.state.is_final:
            try:
                now = snapshots.catch_up(now, reader, folder, now_ns=time.time_ns(), limit_bytes=rundir.LOOK_BYTES)
            except DescriptorsError:
                reader = JournalReader(
                    folder.journal
                )  # it may be beyond what was folded; an event told twice does no harm
        return reader, now


def by_id(run_id: str) -> RunDir | None:
    """The folder of the run with exactly this id, or None; nothing else can be named, whatever a page sends."""
    if not run_id or run_id.startswith(".") or Path(run_id).name != run_id:
        return None
    found = RunDir(rundir.home() / run_id)
    try:
        if not opening.is_there(found.run_json):
            path = rundir.read_json(rundir.home() / f"{run_id}.json").get("dir")
            found = RunDir(Path(path)) if isinstance(path, str) and path else found
        is_run = private.is_ours(found.path) and opening.is_there(found.run_json)
        return found if is_run and found.run_id == run_id else None
    except (OSError, ValueError):  # a name too long for any file
        return None
