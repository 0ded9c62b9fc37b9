"""Takes debuggers to the held ranks of other machines: to them, the run's folder has a socket for all of its ranks.

Runs in: the driver: a thread waits for debuggers, one for each of them carries what it says; the main thread brings the answers.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nb_elastic import debugwire, untrusted
from nb_elastic.debugwire import Peer
from nb_elastic.debugwire_pump import Pump
from nb_elastic.driver import log
from nb_elastic.driver.roster import Roster
from nb_elastic.driver.verdict import Member
from nb_elastic.rundir_paths import RunDir

WHERE_S = 10.0
"""So long a debugger may take to say whom it wants."""

ACCEPT_S = 0.1
MOST_TALKS = 256


@dataclass(slots=True, eq=False)
class _Talk:
    """One debugger, and the node to which it was taken."""

    name: str
    pump: Pump | None = None
    member: Member | None = None

    def end(self) -> None:
        """Hang up."""
        if self.pump is not None:
            self.pump.end()


class Relaying:
    """The debuggers of one run.

    Args:
        note: tells the user that held ranks can't be reached.
    """

    def __init__(self, folder: RunDir, roster: Roster, *, note: Callable[[str], None]) -> None:
        self._run_id = folder.run_id
        self._path = folder.debug_socket
        self._roster = roster
        self._talks: dict[str, _Talk] = {}
        self._listener: socket.socket | None = None
        self._stop_r, self._stop_w = os.pipe()
        self._thread = threading.Thread(target=self._listen, name="nb_elastic-debuggers", daemon=True)
        try:
            self._listener = debugwire.listen(self._path)
        except OSError as e:
            note(f"Held ranks can't be looked at: {self._path} can't be listened at ({e.strerror or e}).")
        self._thread.start()

    def take(self, member: Member, message: Mapping[str, Any]) -> None:
        """Bring a debugger what its rank says; nonsense is passed over."""
        talk = self._talks.get(untrusted.word(message.get("talk"), limit=40))
        if talk is None or talk.pump is None or talk.member is not member:
            return
        with contextlib.suppress(binascii.Error, ValueError):
            talk.pump.write(base64.b64decode(untrusted.text(message.get("data"), limit=1 << 16), validate=True))
        if message.get("is_over") is True:
            talk.pump.end()

    def hang_up(self, member: Member) -> None:
        """A node can't be heard any more."""
        for talk in list(self._talks.values()):
            if talk.member is member:
                talk.end()

    def close(self) -> None:
        """The run is over: nobody is held any more."""
        os.write(self._stop_w, b"x")
        self._thread.join()
        os.close(self._stop_w)
        os.close(self._stop_r)
        if self._listener is not None:
            self._listener.close()
            with contextlib.suppress(OSError):
                self._path.unlink()
        for talk in list(self._talks.values()):
            talk.end()

    # -- in the threads ----------------------------------------------------------------------

    def _listen(self) -> None:
        listener = self._listener
        fds = [self._stop_r] if listener is None else [self._stop_r, listener.fileno()]
        while self._stop_r not in debugwire.readable(fds, None):
            if listener is not None and (peer := debugwire.accept(listener)) is not None:
                self._begin(peer)
            elif debugwire.readable([self._stop_r], ACCEPT_S):  # no descriptor is left: do not ask again at once
                return

    def _begin(self, peer: Peer) -> None:
        talk = _Talk(os.urandom(16).hex())
        self._talks[talk.name] = talk
        try:
            if len(self._talks) > MOST_TALKS:
                raise OSError("too many debuggers")
            talk.pump = Pump(lambda: self._meet(talk, peer), lambda data: self._carry(talk, data))
            talk.pump.start()
        except (OSError, RuntimeError) as e:
            log.write(f"a debugger is sent away: {e}")
            del self._talks[talk.name]
            peer.close()

    def _meet(self, talk: _Talk, peer: Peer) -> tuple[socket.socket, bytes]:
        """Hear whom a debugger wants, and tell the node of it.

        Raises:
            OSError, ValueError: if nobody is there of that name.
        """
        try:
            where = peer.wait(WHERE_S) or {}
            talk.member = next((m for m in self._roster.members if m.index == where.get("node")), None)
            place = {key: untrusted.integer(where.get(key), -1) for key in ("round", "local_rank")}
            is_there = talk.member is not None and talk.member.is_active  # asked now: it may have been lost meanwhile
            if not is_there or min(place.values()) < 0:
                raise ConnectionRefusedError("nobody is there of that name")
            sock, rest = peer.release()
        except BaseException:
            peer.close()
            raise
        self._send(talk, b"", is_new=True, **place)
        return sock, rest

    def _carry(self, talk: _Talk, data: bytes) -> None:
        if not data:
            self._talks.pop(talk.name, None)
        self._send(talk, data, is_over=not data)

    def _send(self, talk: _Talk, data: bytes, **more: Any) -> None:
        if talk.member is not None:
            talk.member.node.urge({"type": "debug", "run_id": self._run_id, "talk": talk.name, **more}, data)
