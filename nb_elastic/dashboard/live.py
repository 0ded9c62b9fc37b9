"""One run as all its views see it: journal, state and files, each looked at once however many views there are.

Runs in: the kernel, in the board's thread.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nb_elastic import snapshot as snapshots
from nb_elastic import untrusted
from nb_elastic.dashboard import messages
from nb_elastic.dashboard.files import RunFiles
from nb_elastic.rundir import JournalReader, RunDir
from nb_elastic.snapshot import RunSnapshot, fold

ALIVE_CHECK_S = 1.0


class LiveRun:
    """Reads a run's folder as it grows."""

    def __init__(self, folder: RunDir) -> None:
        self.folder = folder
        self.files = RunFiles(folder)
        self.snapshot: RunSnapshot = snapshots.EMPTY
        self._journal = JournalReader(folder.journal)
        self._checked_s = 0.0
        self._has_looked_last = False
        self._json: tuple[RunSnapshot | None, dict[str, Any]] = (None, {})

    @property
    def is_over(self) -> bool:
        """True when nothing more will happen."""
        return self.snapshot.state.is_final

    @property
    def can_stop(self) -> bool:
        """True where a stop would reach the run from here."""
        return not self.is_over and self.snapshot.host in {"", socket.gethostname()}

    def look(self, watch: Callable[[Path], None] | None = None, *, is_whole: bool = False) -> None:
        """Read what is new in the journal, and see how large the files are.

        Args:
            watch: asked to wake the board when a file grows.
            is_whole: leave no file out, though the run be over.
        """
        if watch is not None and not self.is_over:
            watch(self.folder.journal)
        for event in self._journal.read():
            self.snapshot = fold(self.snapshot, event)
            if event.kind == "worker_started":
                self.files.add(
                    rank=untrusted.integer(event.get("rank"), -1),
                    local_rank=untrusted.integer(event.get("local_rank"), -1),
                    round_number=untrusted.integer(event.get("round"), -1),
                    node=event.node,
                )
        if not self.is_over and time.monotonic() - self._checked_s > ALIVE_CHECK_S:
            self._checked_s = time.monotonic()
            self.snapshot = snapshots.mark_lost(self.snapshot, self.folder, now_ns=time.time_ns())
        if is_whole or not (self.is_over and self._has_looked_last):
            self._has_looked_last = self.is_over
            self.files.look(None if self.is_over else watch, is_last=is_whole or self.is_over)

    def state(self) -> dict[str, Any]:
        """The snapshot as JSON, made once for all views."""
        if self._json[0] is not self.snapshot:
            self._json = (self.snapshot, messages.snapshot_json(self.snapshot))
        return self._json[1]
