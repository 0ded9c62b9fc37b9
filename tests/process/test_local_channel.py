"""The pipes of a launch, before and after a supervisor has them: whatever goes wrong there, the cell comes to an end.

A user would lose: the notebook. A cell that waits for a supervisor which never comes can't even be interrupted.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nb_elastic.engines import local
from nb_elastic.engines.local import LocalChannel
from nb_elastic.engines.seat import Seat
from nb_elastic.engines.warm import Offer
from nb_elastic.lifeline import ProcessId
from tests.support.until import until

ECHO = """
import os, struct, sys
head = os.read(0, 8)
left = sum(struct.unpack(">II", head))
while left:
    left -= len(os.read(0, left))
print('{"event":"note"}', flush=True)
"""
"""Reads one frame, as a supervisor does, and says something."""


class Opened:
    """A channel whose launcher has not answered yet."""

    def __init__(self, folder: Path) -> None:
        (stdin_r, stdin_w), (stdout_r, stdout_w) = os.pipe(), os.pipe()
        self.log = folder / "supervisor.log"
        self.writer = os.dup(stdout_w)  # as a child of the notebook's own would have it
        ours, self.launcher = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.left: list[Offer] = []
        self.channel = LocalChannel(
            Seat(log=self.log, env=dict(os.environ)),
            ends=local._Ends(stdin=stdin_r, stdout=stdout_w, log=os.open(self.log, os.O_CREAT | os.O_WRONLY)),
            stdin=open(stdin_w, "wb"),
            stdout=open(stdout_r, "rb"),
            offer=Offer(ours),
            on_close=lambda: None,
            on_leave=self.left.append,
            on_silence=lambda: None,
        )
        self.lines: list[bytes] = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.channel.lines()), daemon=True)

    def take(self) -> list[int]:
        """Do what a supervisor of the launcher does first; returns its descriptors."""
        identity = ProcessId.of(os.getpid())
        assert identity is not None
        self.launcher.send(b'{"pid": %d, "start_ticks": %d}' % (identity.pid, identity.start_ticks))
        return socket.recv_fds(self.launcher, 100, 4)[1]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """A channel, closed at the end."""
    found = Opened(tmp_path)
    yield found
    os.close(found.writer)
    found.launcher.close()
    found.channel.close()
    for offer in found.left:
        offer.close()
    if found.reader.ident:
        found.reader.join(30)
        assert not found.reader.is_alive()


def refuse(*_args: object, **_more: object) -> None:
    """What the system does at the limit of processes."""
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_where_no_process_is_to_be_had_the_channel_is_over_and_its_log_says_why(opened: Opened, monkeypatch):
    monkeypatch.setattr(local, "HELLO_S", 0.2)
    monkeypatch.setattr(local.subprocess, "Popen", refuse)
    assert opened.channel.is_alive
    opened.reader.start()
    until(lambda: not opened.channel.is_alive, 30)
    assert opened.log.read_text() == "The supervisor can't be started: Resource temporarily unavailable.\n"
    opened.channel.send({"type": "stop", "grace_s": 5.0})  # and a stop harms nobody


@pytest.mark.parametrize("size", [100_000, 3_000_000], ids=["fits a larger pipe", "fits none"])
def test_a_launch_of_any_size_is_sent_while_nobody_reads_yet(opened: Opened, monkeypatch, size: int):
    """An environment of 31 kB was enough to stop the kernel for ever: the frame has it twice."""
    monkeypatch.setattr(local, "HELLO_S", 0.5)
    monkeypatch.setattr(local, "COMMAND", ("-c", ECHO))
    sender = threading.Thread(
        target=opened.channel.send, args=({"type": "launch", "env": {"BIG": "x" * size}},), daemon=True
    )
    sender.start()
    sender.join(60)
    assert not sender.is_alive()
    opened.reader.start()
    until(lambda: opened.lines == [b'{"event":"note"}\n'], 60)


def test_a_pipe_that_somebody_else_holds_keeps_no_cell_waiting(opened: Opened):
    """A child that the notebook forked in that moment has the supervisor's end of it, too, and lives on."""
    opened.reader.start()
    os.write(opened.writer, b'{"event":"note"}\n')
    for fd in opened.take():
        os.close(fd)
    opened.launcher.send(b"taken")
    until(lambda: opened.lines, 30)
    closing = threading.Thread(target=opened.channel.close, daemon=True)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()
    until(lambda: not opened.reader.is_alive(), 30)
    assert opened.lines == [b'{"event":"note"}\n']


def test_a_supervisor_that_does_not_end_after_a_stop_is_killed_at_last(opened: Opened, monkeypatch):
    """It hangs in native code, before anybody there listens: no interrupt of the cell would ever end it."""
    monkeypatch.setattr(local, "OVERDUE_S", 0.3)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        identity = ProcessId.of(process.pid)
        assert identity is not None
        opened.launcher.send(b'{"pid": %d, "start_ticks": %d}' % (identity.pid, identity.start_ticks))
        opened.reader.start()
        for fd in socket.recv_fds(opened.launcher, 100, 4)[1]:
            os.close(fd)
        opened.launcher.send(b"taken")
        opened.channel.send({"type": "stop", "grace_s": 0.2})
        until(lambda: opened.channel.is_alive and process.poll() is not None, 30)
        assert process.returncode == -signal.SIGKILL
    assert opened.log.read_text().startswith("The supervisor was killed: ")
