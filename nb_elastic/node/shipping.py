"""Ships one run's folder to the driver: the events in order, and of each file what it has grown by, or all of it anew.

Runs in: the node program; the outbox's thread alone asks for lines, so nothing is read that can't be sent.

A rank's files are looked at once its ``worker_started`` was sent. ``done`` is sent when the run is over and all files are.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nb_elastic import events
from nb_elastic.node.outbox import line_of
from nb_elastic.node.shipping_files import GrowingFile, ReplacedFile, ShippedFile
from nb_elastic.rundir import RunDir
from nb_elastic.wakes import Wakes

PAUSE_S = 0.01
"""Least time between two looks at all files: a look takes up to a millisecond for each eight ranks."""
PAUSE_A_RANK_S = 0.0002
"""Of a run with many ranks each node looks less often, so that the driver gets 5,000 pieces of logs a second at most."""
TICK_S = 1.0
UNSURE_S = 0.03
"""The same where the system tells of no growth."""
NODE_FILES = 4
FILTERED = ("filtered_stdout.log", "filtered_stderr.log")
"""Files of a round that torch's ``--duplicate-*-filters`` ask for."""


def pause_s(ranks: int) -> float:
    """Least time between two looks at all files, in a run of so many ranks."""
    return max(PAUSE_S, PAUSE_A_RANK_S * ranks)


class Shipment:
    """What one run has to send; a source of the outbox.

    Args:
        folder: of the run on this node.
        node: index of this node, the level of the ranks' folders.
        wakes: ends the outbox's wait.
    """

    def __init__(self, folder: RunDir, *, node: int, token: str, wakes: Wakes) -> None:
        self.run_id = folder.run_id
        self.is_over = False
        self._folder = folder
        self._node = node
        self._root = folder.node(node)
        self._token = token
        self._wakes = wakes
        self._head = b'{"from":"%s","type":"event","run_id":%s,"event":' % (
            token.encode(), json.dumps(self.run_id).encode(),
        )  # fmt: skip
        self._events: deque[bytes] = deque()
        self._outcome: Mapping[str, Any] | None = None
        self._told = threading.Event()
        self._folders: list[Path] = []
        self._files: list[ShippedFile] = []
        self._old: list[ShippedFile] = []
        self._busy: deque[ShippedFile] = deque()
        self._round = -1
        self._pause_s = PAUSE_S
        self._look_at = self._tick_at = 0.0
        self._is_dirty = True
        for path in (folder.supervisor_log, folder.usage(node), folder.growth(node), folder.processes(node)):
            self._files.append(GrowingFile(path, path.name))  # NODE_FILES of them

    # -- from the run's thread ---------------------------------------------------------------

    def add_event(self, line: bytes) -> None:
        """Send a line of the run's journal."""
        self._events.append(line)
        self._wakes.wake()

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """The run is over: send what is left of its files, then ``done`` with this."""
        if self._outcome is None:
            self._outcome = outcome
            self._wakes.wake()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until ``done`` was given to be sent; False if it wasn't in time."""
        return self._told.wait(timeout_s)

    # -- from the outbox's thread ------------------------------------------------------------

    @property
    def wait_s(self) -> float:
        """See ``outbox.Source``."""
        due = self._look_at if self._is_dirty else self._tick_at
        return max(0.0, min(due - time.monotonic(), TICK_S if self._wakes.is_sure else UNSURE_S))

    def next_line(self) -> bytes | None:
        """See ``outbox.Source``: events first, then the files in turn, a piece of each."""
        if self.is_over:
            return None
        has_ended = self._outcome is not None  # read first: what was written before it is seen by the look after it
        if self._events:
            return self._event(self._events.popleft())
        if (line := self._piece()) is not None:
            return line
        now = time.monotonic()
        if has_ended or now >= self._look_at:
            self._look(now, is_last=has_ended)
            if (line := self._piece()) is not None:
                return line
            if has_ended and not self._events:
                self.is_over = True
                return self._done()
        else:
            self._is_dirty = True  # what woke us is seen by the next look
        return None

    def _event(self, line: bytes) -> bytes:
        event = events.decode(line)
        if event is not None and event.kind == "worker_started":
            self._begin_rank(event.get("round"), event.get("local_rank"))
        elif event is not None and event.kind == "rendezvous_finished" and isinstance(event.get("world_size"), int):
            self._pause_s = pause_s(event["world_size"])
        return b"%s%s}\n" % (self._head, line.rstrip(b"\n"))

    def _begin_rank(self, number: Any, local_rank: Any) -> None:
        if type(number) is not int or type(local_rank) is not int:
            return
        if number != self._round:
            self._round = number
            self._old += self._files[NODE_FILES:]
            del self._files[NODE_FILES:]
            self._folders = [self._folder.round(number, node=self._node)]
            for name in FILTERED:
                self._files.append(GrowingFile(self._folders[0] / name, f"round_{number}/{name}"))
        folder = self._folder.rank(number, local_rank, node=self._node)
        level = f"round_{number}/{local_rank}"
        for path in (folder.stdout, folder.stderr, folder.metrics, folder.outputs, folder.stacks):
            self._files.append(GrowingFile(path, f"{level}/{path.name}"))
        for path in (folder.worker_json, folder.failure_json, folder.result, folder.pulled, folder.held_json):
            self._files.append(ReplacedFile(path, f"{level}/{path.name}"))
        self._folders.append(folder.path)
        for watched in (self._root, *self._folders):
            self._wakes.watch_folder(watched)
        self._look_at = 0.0

    def _look(self, now: float, *, is_last: bool) -> None:
        """See which files have something to send; those of former rounds are looked at once a second."""
        is_tick = is_last or now >= self._tick_at
        if is_tick:
            self._tick_at = now + TICK_S
            for folder in (self._root, *self._folders):
                self._wakes.watch_folder(folder)
        self._is_dirty = False
        for one in (*self._files, *self._old) if is_tick else self._files:
            if one.is_unwatched and one.is_growing:  # then look: what comes in between is told of
                self._wakes.watch(one.path)
                one.is_unwatched = False
            if one.look():
                self._is_dirty = True
                if not one.is_busy:
                    one.is_busy = True
                    self._busy.append(one)
        self._look_at = now + (self._pause_s if self._wakes.is_sure else max(UNSURE_S, self._pause_s))

    def _piece(self) -> bytes | None:
        while self._busy:
            one = self._busy[0]
            if (line := one.next_piece(self._token, self.run_id)) is not None:
                self._busy.rotate(-1)
                return line
            one.is_busy = False
            self._busy.popleft()
        return None

    def _done(self) -> bytes:
        for one in (*self._files, *self._old):
            one.close()
        self._told.set()
        return line_of(self._token, "done", run_id=self.run_id, **(self._outcome or {}))
