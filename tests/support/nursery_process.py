"""Forks supervisors and agents for the tests: one for each message, with the environment and descriptors that come with it.

A message is a JSON object: ``env``; ``targets``, the numbers that its descriptors get; ``cwd``; for a ``lone_agent`` its
words (``agent``) and a process of the pretended machine that it is to be on (``machine_pid``, or 0).

Runs in: a process of its own, started by ``nursery``. It imports nothing of the tests, which would be there in ranks, too.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

MESSAGE_BYTES = 1 << 18
HIGH_FD = 500


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
        if pid := words.get("machine_pid"):
            _enter(pid)
        os.chdir(words["cwd"])
        code = _run_agent(words["agent"]) if "agent" in words else _run_supervisor()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _run_supervisor() -> int:
    from nb_elastic.supervisor import __main__ as supervisor
    from nb_elastic.worker import set_title

    set_title("nb_elastic:supervisor")  # until it knows its run
    return supervisor.main()


def _run_agent(asked: str) -> int:
    os.setsid()
    from nb_elastic.worker import set_title
    from tests.support import lone_agent

    set_title("tests.support.lone_agent")
    return lone_agent.run(asked)


def _enter(pid: int) -> None:
    """Be on the machine of a process, as nsenter does it."""
    for kind in ("net", "uts", "mnt"):
        fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(fd, 0):
            raise OSError(ctypes.get_errno(), f"can't enter {kind} of {pid}")
        os.close(fd)


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file
    _serve(socket.socket(fileno=int(sys.argv[1])))
