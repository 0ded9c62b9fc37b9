"""The supervisor's handle on its forkserver: start ranks, signal them, hear of every exit.

Runs in: the supervisor.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nb_elastic import killing, lifeline, steady, wire
from nb_elastic.errors import LaunchError
from nb_elastic.knell import Knell
from nb_elastic.model import WorkerSpec, to_json
from nb_elastic.supervisor import forkserver
from nb_elastic.supervisor.channel import FrameDecoder
from nb_elastic.supervisor.deathwatch import DeathWatch

ANSWER_S = 60.0
"""How long the forkserver may take to fork all ranks of a node."""

BLUR_NS = 50_000_000
"""By so much a death may be older than the forkserver's word of it: the kernel first frees the memory of a torch process."""


class ForkServerLostError(LaunchError):
    """The forkserver died: its ranks died with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A rank that was started."""

    local_rank: int
    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """A rank's end.

    Attributes:
        exit_code: its code, or -N for death by signal N.
        time_ns: when it was seen, nanoseconds since the epoch.
        early_ns: since when it may have been dead.
        found_ns: when the forkserver found it dead; what it had been sent by then may have ended it.
    """

    pid: int
    exit_code: int
    time_ns: int
    early_ns: int
    found_ns: int

    @classmethod
    def unseen(cls, pid: int) -> Exit:
        """An end that nobody saw; it went with the forkserver just now."""
        now_ns = steady.wall_ns()
        return cls(pid=pid, exit_code=-signal.SIGKILL, time_ns=now_ns, early_ns=now_ns, found_ns=now_ns)


class ForkServer:
    """Starts and drives the forkserver. Only the main thread may use it, save ``abandon``.

    The forkserver must be started before the supervisor's first thread.
    """

    def __init__(
        self,
        *,
        can_fork: bool,
        title: str = "",
        pass_fds: Sequence[int] = (),
        spares: int = 0,
        is_calm: bool = False,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the forkserver.

        Args:
            can_fork: fork this very process (torch imported, one thread, no CUDA); else execute a new one.
            title: what ps shows.
            pass_fds: descriptors that the ranks need.
            spares: processes to fork ahead, of which the first round's ranks are made.
            is_calm: no launch is under way yet.
            close: called in the forkserver: closes what only the supervisor needs.
        """
        ours, theirs = socket.socketpair()
        gc.freeze()  # what was imported stays for ever: collections need not walk it, nor copy its pages in each rank
        gc.enable()
        knell = Knell.of_this_system() if can_fork else None
        if can_fork:
            self.pid = os.fork()
            if self.pid == 0:
                try:
                    ours.close()
                    close()
                    forkserver.serve(theirs, can_fork=True, title=title, spares=spares, is_calm=is_calm, knell=knell)
                finally:
                    os._exit(1)
        else:
            os.set_inheritable(theirs.fileno(), True)
            root = str(Path(__file__).parents[2])
            process = subprocess.Popen(
                [sys.executable, "-m", "nb_elastic.supervisor.forkserver", str(theirs.fileno())],
                pass_fds=(theirs.fileno(), *pass_fds),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
                },
            )
            self.pid = process.pid
            process.returncode = 0  # reaped in ``close``: Popen must not warn of it
        theirs.close()
        self._sock = ours
        self._deaths = DeathWatch(knell)
        self._decoder = FrameDecoder()
        self._exits: list[Exit] = []
        self._answers: list[dict[str, Any]] = []
        self._is_reaped = False

    def adopt(self, *, title: str, buffers_fd: int) -> None:
        """Give a forkserver that stood by what it needs of the run it is to serve: name, log and payload's buffers.

        Raises:
            ForkServerLostError: if it is gone, or about to go.
        """
        if lifeline.is_doomed(self.pid):
            raise self._lost()
        try:
            wire.send(self._sock, {"type": "adopt", "title": title}, [2, buffers_fd] if buffers_fd >= 0 else [2])
        except OSError as e:
            raise self._lost() from e

    def start(self, specs: Sequence[WorkerSpec]) -> list[Started]:
        """Start one process for each spec.

        Raises:
            LaunchError: if the system refuses one; none is left then.
            ForkServerLostError: if the forkserver is gone.
        """
        self._send({"type": "start", "workers": [to_json(s) for s in specs]})
        answer = self._answer("started", "refused")
        if answer["type"] == "refused":
            raise LaunchError(
                f"The system refused to start rank {answer['local_rank']} of {len(specs)} ({answer['text']}). "
                "Fewer ranks (--nproc-per-node), or a higher process limit (ulimit -u), would help."
            )
        return [Started(**w) for w in answer["workers"]]

    def watch_deaths(self, ranks: Iterable[Started]) -> None:
        """See the deaths of a round's ranks, which were just started, in the moment; until ``ignore_deaths``."""
        self._deaths.begin({one.local_rank: one.pid for one in ranks})

    def ignore_deaths(self) -> None:
        """The round is over."""
        self._deaths.end()

    def signal(self, pids: Sequence[int], number: int, *, has_session: bool = False) -> None:
        """Signal ranks that live; with ``has_session`` all processes of their sessions, too."""
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)  # somebody may have stopped it: nobody else ends the ranks
            self._send({"type": "signal", "signal": number, "pids": list(pids), "session": has_session})

    def sweep(self) -> int:
        """End all that dead ranks left behind; returns how many processes that were."""
        self._send({"type": "sweep"})
        return int(self._answer("swept")["count"])

    def wait(self, timeout_s: float) -> None:
        """Wait until there is an exit to take (or the forkserver is gone), at most ``timeout_s``. Reads nothing."""
        if not self._exits:
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            poll.poll(max(0, int(timeout_s * 1000)))

    def exits(self) -> list[Exit]:
        """Take the exits that were seen since the last call; does not wait.

        Raises:
            ForkServerLostError: if the forkserver is gone and there is nothing left to take.
        """
        self._deaths.look()
        while not self._answers and self._is_readable():
            if not self._receive():
                break
        found, self._exits = self._exits, []
        if not found and self._is_readable() and not self._sock.recv(1, socket.MSG_PEEK):
            raise self._lost()
        return found

    def close(self, timeout_s: float = 5.0) -> None:
        """End the forkserver and all it started."""
        with contextlib.suppress(ForkServerLostError):
            self._send({"type": "shutdown"})
        self.abandon(timeout_s)
        self._deaths.end()

    def abandon(self, timeout_s: float = 5.0) -> None:
        """Hang up, so that the forkserver kills everything; any thread may do this in an emergency."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        deadline = time.monotonic() + timeout_s
        while not self._is_reaped:
            try:
                pid, _ = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid = self.pid
            if pid:
                self._is_reaped = True
            elif time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
                deadline = time.monotonic() + timeout_s
            else:
                time.sleep(0.001)
        self._sweep()

    def _lost(self) -> ForkServerLostError:
        self._sweep()
        return ForkServerLostError(
            "The process that starts and watches the ranks died, and its ranks with it: killed from outside, or out of memory."
        )

    def _sweep(self) -> None:
        """Kill what a dead forkserver left: as subreaper we adopted it."""
        for _ in range(forkserver.SWEEPS):
            left = [p for p in lifeline.descendants(os.getpid()) if p != self.pid]
            if not left:
                return
            killing.kill_pids(left)
            time.sleep(0.001)  # what they leave in turn comes to us as they die

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._sock.sendall(wire.encode(message))
        except OSError as e:
            raise self._lost() from e

    def _answer(self, *kinds: str) -> dict[str, Any]:
        deadline = time.monotonic() + ANSWER_S
        while not self._answers:
            left = deadline - time.monotonic()
            if left <= 0:
                raise LaunchError(f"The forkserver did not answer for {ANSWER_S:.0f} s.")
            if self._is_readable(left) and not self._receive():
                raise self._lost()
        answer = self._answers.pop(0)
        if answer["type"] not in kinds:
            raise LaunchError(f"The forkserver answered {answer['type']!r}, not {' or '.join(kinds)}.")
        return answer

    def _is_readable(self, timeout_s: float = 0.0) -> bool:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(int(timeout_s * 1000)))

    def _exit(self, pid: int, exit_code: int, found_ns: int) -> Exit:
        early_ns, time_ns = self._deaths.span(pid) or (found_ns - BLUR_NS, found_ns)
        return Exit(pid=pid, exit_code=exit_code, time_ns=time_ns, early_ns=early_ns, found_ns=found_ns)

    def _receive(self) -> bool:
        """Read once; False at the end of the stream."""
        try:
            data = self._sock.recv(1 << 16)
        except ConnectionResetError:
            return False
        for message in self._decoder.feed(data):
            if message["type"] == "exit":
                self._exits.append(
                    self._exit(message["pid"], message["exit_code"], steady.as_wall(message["steady_ns"]))
                )
            else:
                self._answers.append(message)
        return bool(data)
