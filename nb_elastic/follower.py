"""Following one run: what is new in its journal and logs, and whether its supervisor still lives.

Runs in: the kernel or the command line.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from nb_elastic import events, rundir, snapshot
from nb_elastic.model import LogChunk
from nb_elastic.rundir import JournalReader, LogFollower, RunDir
from nb_elastic.snapshot import RunSnapshot

if TYPE_CHECKING:
    from nb_elastic.engines.base import Channel

TICK_S = 0.05
"""Longest wait between two looks at the folder: the dashboard may lag 200 ms."""
ALIVE_CHECK_S = 1.0
"""Time between two looks for the supervisor of a run that somebody else started."""


class Follower:
    """Reads a run's folder as it grows. Safe to use from several threads.

    Args:
        channel: pipes to the supervisor, where this process started it; its lines only wake the
            follower earlier, for the folder has everything already.
    """

    def __init__(self, folder: RunDir, *, channel: Channel | None = None) -> None:
        self._folder = folder
        self._channel = channel
        self._journal = JournalReader(folder.journal)
        self._logs = LogFollower(folder)
        self._snapshot = snapshot.EMPTY
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._checked_alive_s = 0.0
        self._thread: threading.Thread | None = None
        if channel is not None:
            self._thread = threading.Thread(
                target=self._drain_channel, name=f"nb-elastic-channel-{folder.run_id}", daemon=True
            )
            self._thread.start()

    def snapshot(self) -> RunSnapshot:
        """State of the run now, as its journal tells it."""
        with self._lock:
            self._read_journal()
            return self._snapshot

    def look(self) -> RunSnapshot:
        """State of the run now; one whose supervisor is gone without a last word is written down as lost."""
        with self._lock:
            self._read_journal()
            if not self._snapshot.state.is_final and self._is_time_to_look() and self._gone():
                self._read_journal()  # its last word may have come meanwhile
                if text := self._gone():
                    self._write_lost(text)
            return self._snapshot

    def logs(self) -> list[LogChunk]:
        """New bytes of all ranks' logs; empty when all are caught up."""
        with self._lock:
            chunks = self._logs.read()
        if chunks:
            self._wake.set()  # there may be more at once
        return chunks

    def pause(self) -> None:
        """Wait until something may be new, a tick at the longest."""
        self._wake.wait(TICK_S)
        self._wake.clear()

    def close(self) -> None:
        """End the channel, if there is one; the folder can still be read."""
        if self._channel is not None:
            self._channel.close()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def node_of(self, node: int) -> int | None:
        """The node's number where the folder has a level for nodes, else None."""
        return node if (self._folder.path / f"node_{node}").is_dir() else None

    def _read_journal(self) -> None:
        for event in self._journal.read():
            self._snapshot = snapshot.fold(self._snapshot, event)
            if event.kind == "worker_started":
                self._logs.add(
                    rank=event["rank"],
                    local_rank=event["local_rank"],
                    round_number=event["round"],
                    node=self.node_of(event.node),
                )

    def _is_time_to_look(self) -> bool:
        if self._channel is None and time.monotonic() - self._checked_alive_s < ALIVE_CHECK_S:
            return False
        self._checked_alive_s = time.monotonic()
        return True

    def _gone(self) -> str:
        """Why the run is lost, or "" for one that is over, or whose supervisor lives or is out of sight."""
        if self._snapshot.state.is_final:
            return ""
        if self._channel is not None:
            return "" if self._channel.is_alive else "The supervisor ended without a last word."
        looked = snapshot.mark_lost(self._snapshot, now_ns=time.time_ns())
        return looked.text if looked.state.is_final else ""

    def _write_lost(self, text: str) -> None:
        with contextlib.suppress(OSError):
            tail = rundir.read_whole(self._folder.supervisor_log)[-2000:].decode("utf-8", "replace").strip()
            text += f" The end of supervisor.log:\n{tail}" if tail else ""
        event = events.make("run_lost", text=text)
        with contextlib.suppress(OSError):
            journal = rundir.Journal(self._folder.journal)
            journal.append(event)
            journal.close()
            self._read_journal()
        if not self._snapshot.state.is_final:
            self._snapshot = snapshot.fold(self._snapshot, event)

    def _drain_channel(self) -> None:
        if self._channel is not None:
            with contextlib.suppress(ValueError, OSError):  # the pipe was closed under the reader
                for _ in self._channel.lines():
                    self._wake.set()
        self._wake.set()
