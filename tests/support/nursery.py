"""Supervisors and agents without a second of imports each: forked from a process that has torch already, as the launcher forks.

Runs in: the tests. ``nursery_process`` is the process, one for each pytest.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support import leaks

ROOT = Path(__file__).parents[2]
PROCESS = Path(__file__).with_name("nursery_process.py")
MESSAGE_BYTES = 1 << 18
CHANGING = ("NB_ELASTIC_", "PYTEST_", leaks.MARK)
"""Variables that nothing reads while it is imported: they may differ from those of the nursery."""


class Child:
    """A forked process, with what the tests use of a Popen; it has no pipes where its output goes elsewhere."""

    def __init__(self, pid: int, nursery: _Nursery, *, stdin: int = -1, stdout: int = -1) -> None:
        self.pid = pid
        self.stdin = open(stdin, "wb") if stdin >= 0 else None  # noqa: SIM115
        self.stdout = open(stdout, "rb") if stdout >= 0 else None  # noqa: SIM115
        self._nursery = nursery

    @property
    def returncode(self) -> int | None:
        """Exit code, or the signal's number below zero; None while it runs."""
        return self._nursery.ended.get(self.pid)

    def poll(self) -> int | None:
        """See ``returncode``."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: if it does not come in time.
        """
        with self._nursery.changed:
            if not self._nursery.changed.wait_for(lambda: self.returncode is not None, timeout):
                raise subprocess.TimeoutExpired(["forked process"], timeout or 0.0)
        return int(self.returncode or 0)

    def send_signal(self, number: int) -> None:
        """Signal it while it runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)


class _Nursery:
    """The process, as pytest sees it."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.ended: dict[int, int] = {}
        self.changed = threading.Condition()
        self._pids: list[int] = []
        self._turn = threading.Lock()
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, str(PROCESS), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            env=dict(env),
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        threading.Thread(target=self._read, name="supervise-nursery", daemon=True).start()
        atexit.register(self._sock.close)

    @property
    def is_alive(self) -> bool:
        """True while it can fork."""
        return self._process.poll() is None

    def fork(self, env: Mapping[str, str], fds: Mapping[int, int], **words: Any) -> int:
        """Fork a process; returns its pid.

        Args:
            fds: what it has open: the number there -> the descriptor here.
            words: see ``nursery_process``.
        """
        data = json.dumps({"env": dict(env), "targets": list(fds), **words}).encode()
        with self._turn:
            socket.send_fds(self._sock, [data], list(fds.values()))
            with self.changed:
                assert self.changed.wait_for(lambda: self._pids, 120), "the nursery forks nothing"
                pid = self._pids.pop()
        leaks.note_start()
        return pid

    def _read(self) -> None:
        while data := self._sock.recv(MESSAGE_BYTES):
            told = json.loads(data)
            with self.changed:
                if "code" in told:
                    self.ended[told["pid"]] = told["code"]
                else:
                    self._pids.append(told["pid"])
                    self.ended.pop(told["pid"], None)
                self.changed.notify_all()


_nurseries: dict[tuple[int, str], _Nursery] = {}


def fork(env: Mapping[str, str], *, cwd: str, log: int, pass_fds: Sequence[int] = ()) -> Child | None:
    """Fork a supervisor with this environment; None where one that is started anew might be another one."""
    nursery = _nursery("supervisor", env)
    if nursery is None:
        return None
    (their_in, our_in), (our_out, their_out) = os.pipe(), os.pipe()
    try:
        pid = nursery.fork(env, {0: their_in, 1: their_out, 2: log, **{fd: fd for fd in pass_fds}}, cwd=cwd)
    finally:
        os.close(their_in)
        os.close(their_out)
    return Child(pid, nursery, stdin=our_in, stdout=our_out)


def fork_agent(env: Mapping[str, str], asked: str, *, out: int, err: int, machine_pid: int = 0) -> Child | None:
    """Fork a ``lone_agent``; see there and ``fork``.

    Args:
        asked: its command line.
        machine_pid: a process on the pretended machine that it is to be on, or 0.
    """
    nursery = _nursery("agent", env)
    if nursery is None:
        return None
    with open(os.devnull, "rb") as nothing:
        fds = {0: nothing.fileno(), 1: out, 2: err}
        pid = nursery.fork(env, fds, cwd=str(ROOT), agent=asked, machine_pid=machine_pid)
    return Child(pid, nursery)


def _nursery(kind: str, env: Mapping[str, str]) -> _Nursery | None:
    key = os.getpid(), kind
    nursery = _nurseries.get(key)
    if nursery is None or not nursery.is_alive:
        nursery = _nurseries[key] = _Nursery(env)
    return nursery if _lasting(env) == _lasting(nursery.env) else None


def _lasting(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if not name.startswith(CHANGING)}
