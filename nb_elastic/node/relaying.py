"""Debuggers elsewhere and this node's held ranks: what one says is carried to the other.

Runs in: the node program. A rank that talks without end fills the link no more than its log would.
"""

from __future__ import annotations

import base64
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from nb_elastic import debugwire
from nb_elastic.debugwire_pump import Pump
from nb_elastic.node.outbox import MAX_WAIT_S, line_of
from nb_elastic.rundir import RankDir
from nb_elastic.wakes import Wakes

MOST_TALKS = 64
MOST_PIECES = 16
"""So many pieces of all conversations wait for the link; who has more to say waits, too."""


class Relays:
    """The conversations with this node's ranks; a source of the outbox.

    Args:
        wakes: ends the outbox's wait.
    """

    is_over = False
    wait_s = MAX_WAIT_S

    def __init__(self, token: str, *, wakes: Wakes) -> None:
        self._token = token
        self._wakes = wakes
        self._talks: dict[str, Pump] = {}
        self._pieces: deque[tuple[str, str, bytes]] = deque()
        self._has_room = threading.Condition()

    def heed(self, message: Mapping[str, Any], blob: bytes, folder: Callable[[int, int], RankDir]) -> None:
        """Take what a debugger says.

        Args:
            message: names the conversation (``talk``) and, where it is a new one, the rank.
            folder: where the rank with this round and local rank has its socket.

        Raises:
            KeyError, TypeError, ValueError: if it can't be read.
        """
        talk, run_id = str(message["talk"]), str(message["run_id"])
        if message.get("is_new"):
            place = folder(int(message["round"]), int(message["local_rank"]))
            self._begin(talk, run_id, place)
        if (pump := self._talks.get(talk)) is not None:
            pump.write(blob)
            if message.get("is_over"):
                pump.end()

    def next_line(self) -> bytes | None:
        """See ``outbox.Source``."""
        with self._has_room:
            if not self._pieces:
                return None
            talk, run_id, data = self._pieces.popleft()
            self._has_room.notify_all()
        text = base64.b64encode(data).decode()
        return line_of(self._token, "debug", run_id=run_id, talk=talk, data=text, is_over=not data)

    def _begin(self, talk: str, run_id: str, place: RankDir) -> None:
        def connect() -> tuple[socket.socket, bytes]:
            if len(self._talks) > MOST_TALKS:
                raise BlockingIOError("too many ask")
            return debugwire.connect(place.debug_socket).release()

        try:
            pump = Pump(connect, lambda data: self._carry(talk, run_id, data))
            self._talks[talk] = pump
            pump.start()
        except (OSError, RuntimeError):  # no descriptor or thread is left: the debugger must hear of it
            self._talks.pop(talk, None)
            with self._has_room:
                self._pieces.append((talk, run_id, b""))
            self._wakes.wake()

    def _carry(self, talk: str, run_id: str, data: bytes) -> None:
        """Runs in the conversation's thread."""
        with self._has_room:
            self._has_room.wait_for(lambda: len(self._pieces) < MOST_PIECES)
            self._pieces.append((talk, run_id, data))
        if not data:
            self._talks.pop(talk, None)
        self._wakes.wake()
