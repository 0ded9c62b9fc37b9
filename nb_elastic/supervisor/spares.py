"""Processes forked ahead of a launch: each waits for the rank it is to be.

Runs in: the forkserver, and the children it forks here.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from nb_elastic import lifeline, wire, worker
from nb_elastic.knell import Knell
from nb_elastic.lifeline import ProcessId
from nb_elastic.model import WorkerSpec, from_json
from nb_elastic.supervisor import rehearsal
from nb_elastic.supervisor.channel import FrameDecoder

CALM_S = 0.05
"""A spare rehearses when nobody has wanted it for so long."""


@dataclass(frozen=True, slots=True)
class _Spare:
    identity: ProcessId
    sock: socket.socket


class Spares:
    """The spare processes of a forkserver. None of them has touched a file, a GPU or the network.

    Args:
        leave: called in each child, first thing: closes what only the forkserver needs.
        can_fork: whether ranks run in the forked state (see ``worker.begin``).
        knell: what ranks hold (see ``worker.begin``).

    Attributes:
        missing: how many are still to be forked.
    """

    def __init__(self, *, leave: Callable[[], None], can_fork: bool, knell: Knell | None = None) -> None:
        self._leave = leave
        self._can_fork = can_fork
        self._knell = knell
        self._waiting: list[_Spare] = []
        self.missing = 0

    @property
    def pids(self) -> set[int]:
        """Pids of those that wait."""
        return {one.identity.pid for one in self._waiting}

    def fork(self, *, is_calm: bool) -> None:
        """Fork one of those that are missing; where the system refuses, those there are must do.

        Args:
            is_calm: no launch is under way: there is time to rehearse.
        """
        parent = os.getpid()
        self.missing -= 1
        ours, theirs = socket.socketpair()
        try:
            with lifeline.blocked_signals(signal.SIGCHLD):
                pid = os.fork()
                if pid == 0:
                    self._become_spare(theirs, parent, is_calm=is_calm)
        except OSError:
            ours.close()
            self.missing = 0
            return
        finally:
            theirs.close()
        if identity := ProcessId.of(pid):
            self._waiting.append(_Spare(identity, ours))

    def take(self, spec: Mapping[str, Any], *, buffers_fd: int) -> ProcessId | None:
        """Make one of them the rank of this spec; None where there is none left."""
        while self._waiting:
            one = self._waiting.pop(0)
            if lifeline.is_doomed(one.identity.pid):  # the OOM killer takes what is idle and large
                one.sock.close()
                continue
            try:
                wire.send(one.sock, {"spec": spec}, [buffers_fd] if buffers_fd >= 0 else [])
            except OSError:  # it is dead
                continue
            finally:
                one.sock.close()
            return one.identity
        return None

    def dismiss(self) -> None:
        """Let the rest go; they end by themselves."""
        for one in self._waiting:
            one.sock.close()
        self._waiting.clear()
        self.missing = 0

    def forget(self, pid: int) -> bool:
        """Drop one that died; False if it is none of ours."""
        for one in self._waiting:
            if one.identity.pid == pid:
                one.sock.close()
                self._waiting.remove(one)
                return True
        return False

    def _become_spare(self, sock: socket.socket, parent: int, *, is_calm: bool) -> NoReturn:
        try:
            self.dismiss()  # here: the other ends of those before us
            self._leave()
            lifeline.die_with_parent(parent=parent)
            if is_calm and not _is_wanted(sock):
                rehearsal.play(rehearsal.rank(), sock)
            if spec := _receive(sock):
                sock.close()
                worker.begin(spec, can_fork=self._can_fork, knell=self._knell)
        finally:
            os._exit(0)


def _is_wanted(sock: socket.socket) -> bool:
    """True if a launch comes at once: it needs the CPU more than a rehearsal does."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(CALM_S * 1000))


def _receive(sock: socket.socket) -> WorkerSpec | None:
    """Wait for the rank to be; None if there will be none."""
    decoder = FrameDecoder()
    buffers_fd = -1
    with contextlib.suppress(OSError):
        while True:
            data, fds, _, _ = socket.recv_fds(sock, 1 << 18, 1)
            if fds:
                buffers_fd = fds[0]
                os.set_inheritable(buffers_fd, False)
            for message in decoder.feed(data):
                return replace(from_json(WorkerSpec, message["spec"]), buffers_fd=buffers_fd)
            if not data:
                return None
    return None
