"""Supervisors without a second of imports each: forked from a process that has torch already, as the launcher forks them.

Runs in: the tests (``Child``), and a process of its own for each pytest (``python -m tests.support.nursery FD``).
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import select
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
MESSAGE_BYTES = 1 << 18
HIGH_FD = 500
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
            [sys.executable, "-m", "tests.support.nursery", str(theirs.fileno())],
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


# -- the process -------------------------------------------------------------------------------


def _serve(sock: socket.socket) -> None:
    from nb_elastic import lifeline
    from nb_elastic.supervisor import starting
    from nb_elastic.worker import set_title

    starting.import_own()
    set_title("nb_elastic:nursery")  # who names processes looks for the environment's place before that is changed
    lifeline.become_subreaper()  # a supervisor's orphans stay below pytest, which looks for what is left
    wakes, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    forked: set[int] = set()
    while True:
        ready, _, _ = select.select([sock, wakes], [], [])
        if wakes in ready:
            os.read(wakes, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if pid in forked:
                forked.discard(pid)
                sock.send(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}).encode())
        if sock in ready:
            data, fds, _, _ = socket.recv_fds(sock, MESSAGE_BYTES, 16)
            if not data:
                return
            words = json.loads(data)
            pid = os.fork()
            if not pid:
                _become(words, fds)
            for fd in fds:
                os.close(fd)
            forked.add(pid)
            sock.send(json.dumps({"pid": pid}).encode())


def _become(words: dict[str, Any], fds: Sequence[int]) -> None:
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, HIGH_FD) for fd in fds]
        os.closerange(3, HIGH_FD)
        for fd, target in zip(high, words["targets"], strict=True):
            os.dup2(fd, target)
            os.close(fd)
        os.environ.clear()
        os.environ.update(words["env"])
        os.chdir(words["cwd"])
        from nb_elastic.supervisor import __main__ as supervisor
        from nb_elastic.worker import set_title

        set_title("nb_elastic:supervisor")  # until it knows its run
        code = supervisor.main()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
