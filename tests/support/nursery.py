"""Supervisors without a second of imports each: forked from a process that has torch already, as the launcher forks them.

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

from tests.support import leaks

ROOT = Path(__file__).parents[2]
PROCESS = Path(__file__).with_name("nursery_process.py")
MESSAGE_BYTES = 1 << 18
CHANGING = ("NB_ELASTIC_", "PYTEST_", leaks.MARK)
"""Variables that nothing reads while it is imported: they may differ from those of the nursery."""


class Child:
    """A forked supervisor, with what the tests use of a Popen."""

    def __init__(self, pid: int, stdin: int, stdout: int, nursery: _Nursery) -> None:
        self.pid = pid
        self.stdin, self.stdout = open(stdin, "wb"), open(stdout, "rb")  # noqa: SIM115
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
                raise subprocess.TimeoutExpired(["forked supervisor"], timeout or 0.0)
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

    def fork(self, env: Mapping[str, str], *, cwd: str, log: int, pass_fds: Sequence[int]) -> Child:
        """Fork a supervisor."""
        (their_in, our_in), (our_out, their_out) = os.pipe(), os.pipe()
        fds = [their_in, their_out, log, *pass_fds]
        words = {"env": dict(env), "cwd": cwd, "targets": [0, 1, 2, *pass_fds]}
        try:
            with self._turn:
                socket.send_fds(self._sock, [json.dumps(words).encode()], fds)
                with self.changed:
                    assert self.changed.wait_for(lambda: self._pids, 120), "the nursery forks nothing"
                    pid = self._pids.pop()
        finally:
            os.close(their_in)
            os.close(their_out)
        leaks.note_start()
        return Child(pid, our_in, our_out, self)

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


_nurseries: dict[int, _Nursery] = {}


def fork(env: Mapping[str, str], *, cwd: str, log: int, pass_fds: Sequence[int] = ()) -> Child | None:
    """Fork a supervisor with this environment; None where one that is started anew might be another one."""
    nursery = _nurseries.get(os.getpid())
    if nursery is None or not nursery.is_alive:
        nursery = _nurseries[os.getpid()] = _Nursery(env)
    if _lasting(env) != _lasting(nursery.env):
        return None
    return nursery.fork(env, cwd=cwd, log=log, pass_fds=pass_fds)


def _lasting(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if not name.startswith(CHANGING)}
