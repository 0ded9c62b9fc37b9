"""One dashboard in one page, as the kernel sees it: what it was sent, what it acknowledged, what it gets next.

Runs in: the kernel, in the board's thread. Nothing here waits: a view whose page is slow or gone just gets nothing more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nb_elastic.dashboard import messages
from nb_elastic.dashboard.cursor import TAKE_BYTES, Cursor
from nb_elastic.dashboard.live import LiveRun
from nb_elastic.dashboard.messages import EVERYBODY
from nb_elastic.model import StackReport
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot

WINDOW = 20
"""So many messages are on their way to a page at most."""
STATE_S = 0.2
BEAT_S = 1.0
SILENT_S = 30.0
"""A view unheard so long is dropped; its page opens again if it lives."""
BLIND_BYTES_S = 2_000_000.0
"""What is sent to pages that can't be heard, which may be none at all."""
BLIND_LEAST_BYTES = 32 << 10
BLIND_STARTS_S = (1.0, 3.0, 8.0, 20.0, 60.0)
"""When such sending begins, and begins anew: a page's script may come late, and then knows nothing of what was before.
Most pages are heard before it begins at all."""
BLIND_AGAIN_BYTES = 8 << 20
"""What has grown larger is not sent again."""


@dataclass(slots=True, kw_only=True, eq=False)
class Door:
    """A way to pages: one comm, behind which there may be several.

    Attributes:
        send: gives a message and its buffers to all pages behind the door; may raise, then the page is gone.
        find: the folder of a run by its id ("" for the door's own), or None for what is not to be seen through this door.
        stop: asks a run to stop; called in a thread of its own.
        stacks: takes the stacks of a run's ranks, in a thread of its own; None for the usual way.
        on_list: called in the board's thread when a page wants the list of runs.
        charts: the script that draws the charts, for pages that were not sent it at once.
    """

    send: Callable[[dict[str, Any], list[bytes]], None]
    find: Callable[[str], RunDir | None]
    stop: Callable[[RunDir, float], None] | None = None
    stacks: Callable[[RunDir], StackReport] | None = None
    on_list: Callable[[], None] | None = None
    charts: bytes = b""

    def send_charts(self, view: str) -> None:
        """Send a view that script."""
        if self.charts:
            self.send({"view": view, "type": "asset", "name": messages.CHARTS}, [self.charts])


class View:
    """Sends one view what it has not got yet, a message at a time.

    Args:
        run: shared by all views of the run.
        have: how far the page already received each file.

    Attributes:
        sent: bytes of files.
        is_over: all of a finished run was sent.
        is_gone: the page, or the way to it, is no more.
    """

    def __init__(
        self,
        name: str,
        *,
        door: Door,
        run: LiveRun,
        have: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.door, self.run = name, door, run
        self._clock = clock
        self._cursor = Cursor(run.files, have or {})
        self._seq = self._acked = self.sent = 0
        self._shown: RunSnapshot | None = None
        now_s = clock()
        self._heard_s = self._filled_s = now_s
        self._state_s = -STATE_S
        self._beat_s = now_s
        self._room = BLIND_BYTES_S * STATE_S
        self._has_hello = False
        self._starts_s = [now_s + s for s in BLIND_STARTS_S] if self.is_blind else []
        self.is_over = False
        self.is_gone = False

    @property
    def is_behind(self) -> bool:
        """True if there is more that the page has not got."""
        return self._cursor.is_behind

    @property
    def is_blind(self) -> bool:
        """True for the view that stands for pages nobody has heard."""
        return self.name == EVERYBODY

    def hear(self, seq: int = 0) -> None:
        """The page lives, and got all messages up to ``seq``."""
        self._heard_s = self._clock()
        self._acked = max(self._acked, min(seq, self._seq))

    def step(self) -> bool:
        """Send what is due; True if there is more that could go at once."""
        now_s = self._clock()
        if self.is_over or self.is_gone:
            self.is_gone = self.is_gone or now_s - self._heard_s > SILENT_S
            return False
        if not self.is_blind and now_s - self._heard_s > SILENT_S:
            self.is_gone = True
            return False
        if self.is_blind and not self._begin_blindly(now_s):
            return False
        if not self._has_hello:
            self._has_hello = True
            self._tell(messages.hello(self.run.folder, now_ns=time.time_ns(), can_stop=self._can_stop))
            if self.is_blind:
                self.door.send_charts(self.name)  # these pages can't ask
        if not self._has_room:
            return False
        if self._shown is not self.run.snapshot and now_s - self._state_s >= STATE_S:
            self._state_s, self._shown = now_s, self.run.snapshot
            self._count({"type": "state", "snapshot": self.run.state()})
        self._send_chunks(now_s)
        if self._cursor.is_behind:
            return self._has_room and not self.is_blind
        if self.run.is_over and self._has_room:
            if self._shown is not self.run.snapshot:
                self._shown = self.run.snapshot
                self._count({"type": "state", "snapshot": self.run.state()})
            self._count({"type": "beat", "is_over": True})
            self.is_over = True
        elif now_s - self._beat_s >= BEAT_S and self._has_room:
            self._beat_s = now_s
            self._count({"type": "beat", "is_over": False})
        return False

    def due_s(self) -> float:
        """Seconds until something is due though nothing new is seen."""
        now_s = self._clock()
        if self.is_over or not self._has_room:  # what the page says wakes the board
            return max(0.0, self._heard_s + SILENT_S - now_s)
        if self.is_blind and not self._has_hello:
            return max(0.0, self._starts_s[0] - now_s)
        if self._shown is not self.run.snapshot or self._cursor.is_behind:
            return STATE_S / 4
        return max(0.0, self._beat_s + BEAT_S - now_s)

    def answer(self, message: Mapping[str, Any], buffers: Sequence[bytes] = ()) -> None:
        """Send a message that is not numbered."""
        self._tell(message, buffers)

    @property
    def _can_stop(self) -> bool:
        return self.door.stop is not None and self.run.can_stop

    @property
    def _has_room(self) -> bool:
        return self.is_blind or self._seq - self._acked < WINDOW

    def _begin_blindly(self, now_s: float) -> bool:
        """Begin (anew) when it is time to; False before the first time."""
        if self._starts_s and now_s >= self._starts_s[0]:
            if not self._has_hello or self.sent < BLIND_AGAIN_BYTES:
                self._has_hello, self._shown, self._seq, self.sent = False, None, 0, 0
                self._cursor = Cursor(self.run.files, {})
            del self._starts_s[0]
            return True
        return self._has_hello

    def _send_chunks(self, now_s: float) -> None:
        limit = TAKE_BYTES
        if self.is_blind:
            self._room = min(float(TAKE_BYTES), self._room + (now_s - self._filled_s) * BLIND_BYTES_S)
            self._filled_s, limit = now_s, int(self._room)
            if limit < BLIND_LEAST_BYTES:
                return
        if not self._has_room or not self._cursor.is_behind:
            return
        chunks, pieces = self._cursor.take(limit)
        if chunks:
            size = sum(map(len, pieces))
            self.sent += size
            self._room -= size
            self._count({"type": "chunks", "chunks": chunks}, [b"".join(pieces)])

    def _count(self, message: Mapping[str, Any], buffers: Sequence[bytes] = ()) -> None:
        self._seq += 1
        self._tell({**message, "seq": self._seq, "time_ns": time.time_ns()}, buffers)

    def _tell(self, message: Mapping[str, Any], buffers: Sequence[bytes] = ()) -> None:
        if self.is_gone:
            return
        try:
            self.door.send({"view": self.name, "run": self.run.folder.run_id, **message}, list(buffers))
        except Exception:  # noqa: BLE001  a border: the comm belongs to a front end that may close it at any time
            self.is_gone = True
