"""A supervisor forked ahead of its launch: it has its forkserver and spare ranks, and waits.

Runs in: the supervisor, forked from the launcher.

It says hello over its socket (a JSON object with pid and start_ticks), then waits for one message with the launch's
stdin, stdout and log as descriptors, and the payload's buffers where there are any. The socket stays open while
the supervisor lives: its end tells the kernel that the supervisor is gone.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import NoReturn

import psutil

from nb_elastic import lifeline
from nb_elastic.lifeline import ProcessId
from nb_elastic.supervisor import rehearsal, starting
from nb_elastic.supervisor.crew import ForkServer
from nb_elastic.worker import set_title

IDLE_S = 600.0
"""Nobody launches for so long: the memory goes back."""

LOOK_S = 20.0
"""How often a waiting supervisor looks whether memory is short."""

MOST_SPARES = 16
"""More ranks than these are forked when they are needed: they would wait for the CPU anyway."""

SPARE_BYTES = 32 << 20
"""What one spare process may come to cost."""

ROOM_BYTES = 1 << 30
"""Memory that must stay available to others for processes to wait in it."""


def begin(
    sock: socket.socket, *, spares: int, is_calm: bool, parent: int, born: Mapping[str, str], leave: Callable[[], None]
) -> NoReturn:
    """Make the process just forked a supervisor that waits; never returns. Signals are blocked.

    Args:
        spares: processes to fork ahead.
        is_calm: no launch is under way: there is time to rehearse.
        parent: pid of the launcher.
        born: the environment that the launcher's interpreter started with.
        leave: closes what only the launcher needs.
    """
    code = starting.NOT_STARTED
    try:
        os.setsid()
        leave()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        lifeline.die_with_parent(parent=parent)
        lifeline.become_subreaper()
        set_title("nb_elastic:standby")
        spares = min(spares, MOST_SPARES) if has_room(spares) else 0
        server = ForkServer(can_fork=True, title="nb_elastic:standby", spares=spares, is_calm=is_calm, close=sock.close)
        if (buffers_fd := _wait(sock, server, spares, is_calm=is_calm)) is not None:
            code = starting.serve(starting.Warmth(server=server, buffers_fd=buffers_fd, born=born))
    except BaseException:  # noqa: BLE001  the border of the process
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def has_room(spares: int) -> bool:
    """True unless memory is short."""
    available: int = psutil.virtual_memory().available
    return available >= ROOM_BYTES + spares * SPARE_BYTES


def _wait(sock: socket.socket, server: ForkServer, spares: int, *, is_calm: bool) -> int | None:
    """Wait for the launch and take its pipes; returns the descriptor of its buffers (-1 without), None if there is none."""
    identity = ProcessId.of(os.getpid())
    hello = {"pid": os.getpid(), "start_ticks": identity.start_ticks if identity else 0}
    try:
        sock.sendall(json.dumps(hello).encode())
    except OSError:  # whoever asked for us is gone
        server.close()
        return None
    if is_calm:
        rehearsal.play(rehearsal.supervisor(spares), sock)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    until = time.monotonic() + IDLE_S
    while not poll.poll(LOOK_S * 1000 if spares else IDLE_S * 1000):
        if time.monotonic() >= until or (spares and not has_room(0)):
            server.close()
            return None
    data, fds, _, _ = socket.recv_fds(sock, 1 << 12, 4)
    lifeline.die_with_nobody()  # from here on the end of stdin tells, or, detached, nothing
    try:
        sock.sendall(b"taken" if data else b"")
    except OSError:  # it was taken back, and somebody else has the pipes
        data = b""
    if not data:
        server.close()
        return None
    for number, fd in enumerate(fds[:3]):
        os.dup2(fd, number, inheritable=True)
        os.close(fd)
    buffers_fd = fds[3] if len(fds) > 3 else -1
    signal.pthread_sigmask(signal.SIG_BLOCK, lifeline.DEATH_SIGNALS)
    return buffers_fd
