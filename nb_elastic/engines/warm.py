"""The kernel's handle on its warm launcher: asks it for supervisors, tells it what to import, knows when it is stale.

Runs in: the kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nb_elastic import birth, installed
from nb_elastic.engines.seat import with_package
from nb_elastic.lifeline import ProcessId, blocked_signals

LAUNCHER_ENV = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
"""The process that forks ranks has one thread and never touches CUDA; ranks get their own environment."""

KILLED_S = 5.0
LEAVE_S = 30.0
"""A supervisor that has said its last word and still lives after so long is killed."""


@dataclass(slots=True, kw_only=True)
class _Mold:
    """One state that supervisors are forked from.

    Attributes:
        modules: imported beside torch.
        read: variables that its imports read.
        set: variables that they set.
        standby: socket of a supervisor that waits, or None.
    """

    sock: socket.socket
    modules: frozenset[str] = frozenset()
    is_ready: bool = False
    read: frozenset[str] = frozenset()
    set: Mapping[str, str] = field(default_factory=dict)
    standby: socket.socket | None = None

    def close(self) -> None:
        """Let it end, and what stands by with it."""
        self.sock.close()
        if self.standby is not None:
            self.standby.close()
            self.standby = None

    def fork(self, spares: int, *, is_calm: bool) -> socket.socket:
        """Ask for a supervisor; its hello comes on the socket.

        Args:
            is_calm: no launch is under way.

        Raises:
            OSError: if the mold is gone.
        """
        return _ask(self.sock, {"type": "fork", "spares": spares, "is_calm": is_calm})


@dataclass(slots=True)
class WarmLauncher:
    """The launcher of this kernel and its molds. Any thread may use it.

    Attributes:
        has_standby: keep a group like the last one waiting after each run.
        news: what to tell the user with the next run.
    """

    has_standby: bool = True
    news: list[str] = field(default_factory=list)
    _molds: list[_Mold] = field(default_factory=list)
    _told: set[str] = field(default_factory=set)
    _unfit: dict[str, str] = field(default_factory=dict)
    _wanted: frozenset[str] = frozenset()
    _spares: int = 0
    _env: dict[str, str] = field(default_factory=dict)
    _stamp: tuple[tuple[str, int], ...] = ()
    _leaving: list[tuple[Offer, float]] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _owner: int = field(default_factory=os.getpid)

    def start(self) -> None:
        """Start the process; returns at once, while that imports torch."""
        with self._lock:
            self._env, self._stamp = dict(os.environ), installed.stamp()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            # A death signal follows the thread that starts the process: other threads than the main one end.
            parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
            try:
                with blocked_signals():
                    self._process = subprocess.Popen(
                        [
                            sys.executable,
                            "-m",
                            "nb_elastic.launcher",
                            str(theirs.fileno()),
                            str(parent),
                            str(os.getpid()),
                        ],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        env=with_package({**self._env, **LAUNCHER_ENV}),
                        cwd="/",
                        pass_fds=(theirs.fileno(),),
                        start_new_session=True,
                    )
            except OSError:  # no process to be had: launches are cold, and tell their own troubles
                ours.close()
                return
            finally:
                theirs.close()
            self._molds = [_Mold(sock=ours)]
            with contextlib.suppress(OSError):
                ours.sendall(json.dumps({"path": installed.installed_path()}).encode())
            self._remold()

    def renew(self) -> None:
        """Start anew: this one is stale, dead, or does not answer."""
        with self._lock:
            self.close()
            self.start()

    def close(self) -> None:
        """End the launcher and all that stands by; runs that live go on."""
        with self._lock:
            for mold in self._molds:
                mold.close()
            self._molds.clear()
            if self._process is not None:
                self._process.kill()  # it may be in the middle of an import, and holds nothing that must be saved
                with contextlib.suppress(
                    subprocess.TimeoutExpired
                ):  # it hangs in the kernel: it goes when that lets it
                    self._process.wait(KILLED_S)
                self._process = None

    def supervisor(self, *, spares: int, env: Mapping[str, str]) -> Offer | None:
        """A supervisor that waits, or will as soon as the imports are done; None where a cold start is right.

        Args:
            spares: ranks of this node.
            env: of the ranks: what was changed by ``--env`` may be needed by an import.
        """
        with self._lock:
            self.look()
            if self._is_stale():
                self.renew()
            for mold in reversed(self._molds):
                if not (mold.is_ready or mold is self._molds[0]) or self._differs(mold, env):
                    continue
                if mold.standby is not None and not is_over(mold.standby):
                    found, mold.standby = mold.standby, None
                    return Offer(found)
                with contextlib.suppress(OSError):
                    return Offer(mold.fork(spares, is_calm=False), is_early=not mold.is_ready)
            return None

    def stand_by(self, spares: int) -> None:
        """Have a group of so many ranks wait for the next launch."""
        with self._lock:
            self._spares = spares if self.has_standby else 0
            self.look()

    def leave(self, offer: Offer) -> None:
        """Keep an eye on a supervisor that should end by itself now; it is killed if it has not in time."""
        with self._lock:
            self._leaving.append((offer, time.monotonic() + LEAVE_S))

    def want(self, modules: Iterable[str]) -> None:
        """Tell which installed modules the notebook uses; they are imported in the background."""
        with self._lock:
            self._wanted = frozenset(modules)
            self.look()

    def look(self) -> None:
        """Take up what the launcher has said, and ask for what is missing. Never waits."""
        with self._lock:
            for mold in list(self._molds):
                self._hear(mold)
            self._remold()
            self._refill()
            self._leaving = [one for one in self._leaving if not one[0].has_left(until=one[1])]

    @property
    def is_owned(self) -> bool:
        """False in a process that the kernel forked."""
        return self._owner == os.getpid()

    def _hear(self, mold: _Mold) -> None:
        while (said := _receive(mold.sock)) is not None:
            if said.get("type") == "ready":
                mold.is_ready = True
                mold.read, mold.set = frozenset(said["read"]), said["set"]
                for older in self._molds[1 : self._molds.index(mold)]:
                    older.close()
                    self._molds.remove(older)
            elif said.get("type") == "covers":
                mold.modules |= frozenset(said["modules"])
            elif said.get("type") == "unfit":
                self._unfit[said["module"]] = said["reason"]
                self._tell(f"{said['module']} is not imported ahead of the ranks: {said['reason']}.")
        if is_over(mold.sock):
            mold.close()
            self._molds.remove(mold)

    def _tell(self, text: str) -> None:
        """Have a sentence told with the next run, once."""
        if text not in self._told:
            self._told.add(text)
            self.news.append(text)

    def _remold(self) -> None:
        """Ask for a mold with all that is wanted, unless there is one, or one in the making."""
        if not self._molds:
            return
        modules = self._wanted - self._unfit.keys()
        is_in_making = len(self._molds) > 1 and not self._molds[-1].is_ready
        if modules <= self._molds[-1].modules or is_in_making:
            return
        with contextlib.suppress(OSError):
            sock = _ask(self._molds[0].sock, {"type": "mold", "modules": sorted(modules)})
            self._molds.append(_Mold(sock=sock, modules=modules))

    def _refill(self) -> None:
        """Have a supervisor stand by in the newest state, if one is wanted."""
        ready = [mold for mold in self._molds if mold.is_ready]
        for mold in ready[:-1]:
            if mold.standby is not None:
                mold.standby.close()
                mold.standby = None
        if not ready or not self._spares or ready[-1].standby is not None:
            return
        with contextlib.suppress(OSError):
            ready[-1].standby = ready[-1].fork(self._spares, is_calm=True)

    def _is_stale(self) -> bool:
        """True if a fresh process would import other things, or in another environment."""
        if not self._molds or self._stamp != installed.stamp():
            return True
        return all(self._differs(mold, os.environ) for mold in self._molds)

    def _differs(self, mold: _Mold, env: Mapping[str, str]) -> bool:
        """True if an import of this mold would have seen another environment."""
        changed = {n for n in birth.changed(self._env, env) if n not in mold.set or mold.set[n] != env.get(n)}
        return any(n in mold.read or birth.is_early(n) for n in changed)


class Offer:
    """A supervisor of the launcher that is to take a launch's pipes: it says hello, gets them, and says that it has them.

    Args:
        sock: of the supervisor, which may not be there yet.
        is_early: the launcher is still importing what ranks need.
    """

    def __init__(self, sock: socket.socket, *, is_early: bool = False) -> None:
        self._sock = sock
        self.is_early = is_early
        self.identity: ProcessId | None = None

    @property
    def is_handed(self) -> bool:
        """True when the pipes are on their way."""
        return self.identity is not None

    @property
    def is_over(self) -> bool:
        """True when the supervisor is gone, or will never be there."""
        return is_over(self._sock)

    def advance(self, fds: Sequence[int]) -> bool | None:
        """Go on with what has been said; True when the pipes are taken, False if they never will be, None in between."""
        try:
            if self.identity is None:
                hello = json.loads(self._sock.recv(1 << 12, socket.MSG_DONTWAIT))
                self.identity = ProcessId(int(hello["pid"]), int(hello["start_ticks"]))
                socket.send_fds(self._sock, [b"go"], fds)
            return bool(self._sock.recv(1 << 12, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return None
        except (OSError, ValueError):
            return False

    def wait(self, timeout_s: float) -> bool:
        """Wait until something was said, or one of the ends is closed; False if the time passed."""
        poll = select.poll()
        try:
            poll.register(self._sock, select.POLLIN)
        except ValueError:
            return True
        return bool(poll.poll(max(0, int(timeout_s * 1000))))

    def has_left(self, *, until: float) -> bool:
        """True when the supervisor is gone; it is killed where it is not at a time (``time.monotonic``)."""
        if not self.is_over and time.monotonic() < until:
            return False
        if not self.is_over and self.identity is not None:
            self.identity.signal(signal.SIGKILL)
        self.close()
        return True

    def withdraw(self) -> None:
        """Take it back: whoever says hello later gets nothing. Wakes whoever waits."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


def is_over(sock: socket.socket) -> bool:
    """True if the other end is closed and nothing is left to read. Never waits."""
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _receive(sock: socket.socket) -> dict[str, Any] | None:
    """The next message, if one is there."""
    try:
        data = sock.recv(1 << 20, socket.MSG_DONTWAIT)
        said = json.loads(data) if data else None
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def _ask(sock: socket.socket, message: Mapping[str, Any]) -> socket.socket:
    """Send a message with one end of a new socket; returns the other."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        socket.send_fds(sock, [json.dumps(message).encode()], [theirs.fileno()], socket.MSG_DONTWAIT)
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours


_current: list[WarmLauncher] = []


def start() -> None:
    """Start this kernel's launcher, unless it has one."""
    if sys.platform == "linux" and current() is None:
        launcher = WarmLauncher()
        _current[:] = [launcher]
        launcher.start()


def current() -> WarmLauncher | None:
    """This process's launcher, if it has one."""
    return _current[0] if _current and _current[0].is_owned else None


def stop() -> None:
    """End this kernel's launcher."""
    if launcher := current():
        launcher.close()
    _current.clear()
