"""The process that forks, watches and ends the ranks: one thread, torch imported, CUDA never touched.

Runs in: the forkserver, a child of the supervisor. ``ForkServer`` in ``crew.py`` is its other end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from nb_elastic import killing, lifeline, seals, steady, wire, worker
from nb_elastic.knell import Knell
from nb_elastic.lifeline import ProcessId
from nb_elastic.model import WorkerSpec, from_json
from nb_elastic.supervisor.channel import FrameDecoder
from nb_elastic.supervisor.exit_order import ExitOrder
from nb_elastic.supervisor.spares import Spares

SWEEPS = 20
"""Most looks for descendants that fork while they are being killed."""


@dataclass(frozen=True, slots=True)
class _Exit:
    pid: int
    exit_code: int
    steady_ns: int


def serve(
    sock: socket.socket,
    *,
    can_fork: bool,
    title: str = "",
    spares: int = 0,
    is_calm: bool = False,
    knell: Knell | None = None,
) -> NoReturn:
    """Serve the supervisor at the other end of ``sock`` until it is gone; then end everything.

    Args:
        title: what ps shows.
        can_fork: False where forking this process's state is not safe; every rank is then executed anew.
        spares: how many processes to fork ahead of the launch.
        is_calm: no launch is under way yet.
        knell: shared with the supervisor; ranks hold it.
    """
    with contextlib.suppress(PermissionError):
        os.setsid()  # what is sent to the supervisor's group must not end both: each sweeps what the other leaves
    lifeline.become_subreaper()
    seals.forget_all()
    if title:
        worker.set_title(title)
    for number in lifeline.DEATH_SIGNALS:  # the supervisor decides when ranks end
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # the pipe to whoever started the supervisor must end with the supervisor
    os.close(null)
    code = 1
    try:
        _Server(sock, can_fork=can_fork, spares=spares, is_calm=is_calm, knell=knell).run()
        code = 0
    finally:
        os._exit(code)


class _Server:
    """The forkserver's loop. Every pid in ``_alive`` is a child that was not reaped yet, so it is safe to signal."""

    def __init__(self, sock: socket.socket, *, can_fork: bool, spares: int, is_calm: bool, knell: Knell | None) -> None:
        self._sock = sock
        self._buffers_fd = -1
        self._can_fork = can_fork
        self._knell = knell
        self._alive: dict[int, WorkerSpec] = {}
        self._decoder = FrameDecoder()
        self._order = ExitOrder()
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_w, False)
        os.set_blocking(self._wake_r, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        self._spares = Spares(leave=self._leave, can_fork=can_fork, knell=knell)
        self._spares.missing = spares
        self._is_calm = is_calm

    def run(self) -> None:
        """Serve until the supervisor says goodbye or is gone."""
        poll = select.poll()  # not epoll: it would be one more descriptor to free in every rank
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        try:
            while True:
                ready = {fd for fd, _ in poll.poll(0 if self._spares.missing else None)}
                if not ready and self._spares.missing:
                    self._spares.fork(is_calm=self._is_calm)
                if self._wake_r in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_r, 4096)
                self._reap()
                if self._sock.fileno() in ready:
                    data, fds, _, _ = socket.recv_fds(self._sock, 1 << 16, 2)
                    if not data:
                        return
                    if fds:  # they come with "adopt"
                        self._adopt(fds)
                    for message in self._decoder.feed(data):
                        if message["type"] == "shutdown":
                            return
                        self._obey(message)
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            self._end_all()

    def _obey(self, message: dict[str, Any]) -> None:
        if message["type"] == "start":
            self._start(message["workers"])
        elif message["type"] == "adopt":
            worker.set_title(message["title"])
        elif message["type"] == "signal":
            pids = [pid for pid in message["pids"] if pid in self._alive]
            if message["signal"] == signal.SIGKILL:
                self._kill(pids)
            else:
                for pid in pids:
                    self._signal(pid, message["signal"], has_session=message["session"])
        elif message["type"] == "sweep":
            self._send({"type": "swept", "count": self._sweep_orphans()})

    def _send(self, message: dict[str, Any]) -> None:
        self._sock.sendall(wire.encode(message))

    def _adopt(self, fds: list[int]) -> None:
        os.dup2(fds[0], 2)
        os.close(fds[0])
        if len(fds) > 1:
            self._buffers_fd = fds[1]
            os.set_inheritable(self._buffers_fd, False)

    def _spec(self, told: dict[str, Any]) -> WorkerSpec:
        spec = from_json(WorkerSpec, told)
        return replace(spec, buffers_fd=self._buffers_fd) if self._buffers_fd >= 0 else spec

    def _start(self, specs: list[dict[str, Any]]) -> None:
        started: list[dict[str, int]] = []
        for told in specs:
            fd = self._buffers_fd if self._buffers_fd >= 0 else int(told["buffers_fd"])
            try:
                identity = self._spares.take(told, buffers_fd=fd) or self._fork(self._spec(told))
            except OSError as e:
                self._kill([one["pid"] for one in started])
                self._send({"type": "refused", "local_rank": told["local_rank"], "errno": e.errno, "text": e.strerror})
                break
            started.append({"local_rank": told["local_rank"], "pid": identity.pid, "start_ticks": identity.start_ticks})
        else:
            self._spares.dismiss()
            self._send({"type": "started", "workers": started})
        for told, one in zip(specs, started, strict=False):
            self._alive[one["pid"]] = self._spec(told)
            self._order.add(one["pid"])

    def _fork(self, spec: WorkerSpec) -> ProcessId:
        """Fork one rank; signals wait until it can take them, so that none is lost."""
        parent = os.getpid()
        with lifeline.blocked_signals(signal.SIGCHLD):
            pid = os.fork()
            if pid == 0:
                self._become_rank(spec, parent)
        return ProcessId.of(pid) or ProcessId(pid, 0)

    def _become_rank(self, spec: WorkerSpec, parent: int) -> NoReturn:
        try:
            self._spares.dismiss()
            self._leave()
            lifeline.die_with_parent(parent=parent)
            worker.begin(spec, can_fork=self._can_fork, knell=self._knell)
        finally:
            os._exit(1)

    def _leave(self) -> None:
        """In a child: close what only the forkserver needs."""
        signal.set_wakeup_fd(-1)
        self._order.close()
        self._sock.close()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _kill(self, pids: Sequence[int]) -> None:
        """End ranks and all that they started, at once: what frees their shared memory waits for the last that uses it."""
        below = lifeline.descendants(*pids)
        killing.kill_pids(dict.fromkeys((*pids, *below, *session_members(set(pids)))))

    def _signal(self, pid: int, number: int, *, has_session: bool) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        members = session_members({pid}) if has_session else []
        killing.kill_pids(members, number)
        if number in lifeline.DEATH_SIGNALS:  # who is stopped (SIGSTOP, a Ctrl-Z) could heed nothing
            killing.kill_pids([p for p in (pid, *members) if _is_stopped(p)], signal.SIGCONT)

    def _reap(self) -> None:
        """See every exit at once, tell it, end what the dead left behind, and only then reap them.

        While a dead rank is not reaped, its pid, and so its session's number, can't be used again.
        """
        while True:
            dead = self._dead()
            for one in dead:
                self._send({"type": "exit", "pid": one.pid, "exit_code": one.exit_code, "steady_ns": one.steady_ns})
            self._order.forget([one.pid for one in dead])
            gone = [self._alive.pop(one.pid) for one in dead]
            if dead:
                members = session_members({one.pid for one in dead})
                strays = self._strays(gone) if self._alive else self._orphans()
                killing.kill_pids(dict.fromkeys((*members, *strays)))
            if gone and self._alive:
                self._end_strays(gone)
            for one in dead:
                os.waitpid(one.pid, 0)
            if dead and not self._alive:
                self._sweep_orphans()
            if not self._reap_one_orphan():
                return

    def _dead(self) -> list[_Exit]:
        """Ranks found dead, in the order of their deaths, each later than the one before."""
        now = steady.now_ns()
        found = {e.pid: e for e in (_look(pid, now) for pid in self._alive) if e}
        pids = self._order.sort(list(found)) if len(found) > 1 else list(found)
        return [replace(found[pid], steady_ns=now + number) for number, pid in enumerate(pids)]

    def _reap_one_orphan(self) -> bool:
        """Reap an adopted process, if one is dead. True if somebody is dead and another look is due."""
        try:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        if info is None:
            return False
        if info.si_pid not in self._alive:
            self._spares.forget(info.si_pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(info.si_pid, os.WNOHANG)
        return True

    def _end_strays(self, gone: list[WorkerSpec]) -> None:
        """Kill what dead ranks started in sessions of its own, while other ranks live."""
        for _ in range(SWEEPS):
            if not (strays := self._strays(gone)):
                return
            killing.kill_pids(strays)

    def _strays(self, gone: Sequence[WorkerSpec]) -> list[int]:
        """What dead ranks started, in sessions of its own, too, and what that started.

        We adopted it, as we adopt what a living rank's double fork leaves: the rank's own marks tell them
        apart. What carries none waits for the round's end.
        """
        below = lifeline.descendants(os.getpid())
        adopted = [p for p in below if p not in self._alive and _parent_of(p) == os.getpid()]
        strays = [p for p in adopted if any(_belongs_to(p, spec) for spec in gone)]
        return [*strays, *lifeline.descendants(*strays)]

    def _orphans(self) -> list[int]:
        """All descendants that belong to no living rank."""
        ours = (*self._alive, *self._spares.pids)
        kept = {*ours, *lifeline.descendants(*ours)}
        return [d for d in lifeline.descendants(os.getpid()) if d not in kept]

    def _sweep_orphans(self) -> int:
        """Kill all that belongs to no living rank, and reap those adopted."""
        count = 0
        for _ in range(SWEEPS):
            if not (orphans := self._orphans()):
                break
            killing.kill_pids(orphans)
            count += len(orphans)
            deadline = time.monotonic() + 1.0
            while any(lifeline.ProcessId.of(p) for p in orphans) and time.monotonic() < deadline:
                time.sleep(0.001)
            if not self._alive:
                with contextlib.suppress(ChildProcessError):
                    while os.waitpid(-1, os.WNOHANG)[0]:
                        pass
        return count

    def _end_all(self) -> None:
        self._kill(list(self._alive))
        self._alive.clear()
        self._spares.dismiss()
        self._sweep_orphans()


def _look(pid: int, now_ns: int) -> _Exit | None:
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if info is None:
        return None
    code = info.si_status if info.si_code == os.CLD_EXITED else -info.si_status
    return _Exit(pid, code, now_ns)


def session_members(leaders: set[int]) -> list[int]:
    """Pids of all other living processes in the sessions of these leaders."""
    found: list[int] = []
    for name in os.listdir("/proc") if sys.platform == "linux" else []:
        if name.isdecimal() and int(name) not in leaders and (fields := lifeline.stat_fields(int(name))):
            if int(fields[3]) in leaders and fields[0] not in "ZX":
                found.append(int(name))
    return found


def _parent_of(pid: int) -> int:
    fields = lifeline.stat_fields(pid)
    return int(fields[1]) if fields else 0


def _is_stopped(pid: int) -> bool:
    return lifeline.stat_fields(pid)[:1] == ["T"]


def _belongs_to(pid: int, spec: WorkerSpec) -> bool:
    """True if a process still has a rank's environment, or writes into its files."""
    name = "NB_ELASTIC_METRICS_FILE"  # of one rank in one round
    mark = os.fsencode(f"{name}={spec.env.get(name, '')}")
    try:
        with open(f"/proc/{pid}/environ", "rb") as f:
            if spec.env.get(name) and mark in f.read().split(b"\0"):
                return True
    except OSError:
        return False
    for fd in (1, 2):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/{fd}") in {spec.stdout, spec.stderr}:
                return True
    return False


if __name__ == "__main__":  # started anew because the supervisor's own state can't be forked safely
    serve(socket.socket(fileno=int(sys.argv[1])), can_fork=False)
