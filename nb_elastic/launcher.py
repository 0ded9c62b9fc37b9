"""The warm launcher: has imported what ranks need, and forks supervisors from that state.

Runs in: the launcher, ``python -m nb_elastic.launcher FD PARENT_PID KERNEL_PID``, one for each kernel, and its molds.

The kernel holds the other end of a socket (SOCK_SEQPACKET, one JSON object a message). It first sends the ``path`` to
import from, then passes descriptors:

======== =============================================================================================
message  asks for
======== =============================================================================================
fork     a supervisor that talks on the socket that comes along; ``spares`` ranks are forked ahead, and rehearse where
         it ``is_calm``
mold     a fork of this process that imports ``modules``, too, and then serves on the socket that comes along
======== =============================================================================================

A launcher answers ``ready`` once, with the variables its imports ``read`` and ``set``. One that has all the modules of a
``mold`` already answers ``covers``. A mold that met a module it must not keep answers ``unfit`` with ``module`` and
``reason``, and ends. The process keeps one thread, never touches CUDA, and checks both before each fork.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence
from typing import Any, NoReturn

from nb_elastic import installed, lifeline, pools
from nb_elastic.launcher_forked import Forked
from nb_elastic.supervisor import standby, starting
from nb_elastic.worker import set_title

TOO_LONG_S = 20.0
"""A module that takes longer to import is left to the ranks that need it."""

BEFOREHAND = ("torch.utils.data", "torch.optim", "torch.nn.parallel", "torch.distributed.distributed_c10d")
"""What almost every training imports, of torch itself."""


class _TooLongError(BaseException):
    """An import takes too long; no ``except Exception`` of the module may hide it."""


class Recorded(type(os.environ)):  # type: ignore[misc]
    """``os.environ`` while modules are imported: notes which variables they ask for, by name.

    Whoever copies the whole environment (for a subprocess, say) asks for none.
    """

    names: set[str] = set()  # noqa: RUF012  one process, one environment
    copied: set[str] = set()  # noqa: RUF012

    def __getitem__(self, key: str) -> str:
        """Look a variable up and note it."""
        if key in self.copied:
            self.copied.discard(key)
        else:
            self.names.add(key)
        found: str = super().__getitem__(key)
        return found

    def keys(self) -> KeysView[str]:
        """Names of all; ``dict(os.environ)`` asks for them, and then for each value."""
        self.copied.update(self)
        found: KeysView[str] = super().keys()
        return found

    def items(self) -> ItemsView[str, str]:
        """All, of a copy."""
        return {self.decodekey(k): self.decodevalue(v) for k, v in self._data.items()}.items()


@contextlib.contextmanager
def recorded() -> Iterator[None]:
    """Note what is read of the environment meanwhile."""
    plain = type(os.environ)
    os.environ.__class__ = Recorded
    try:
        yield
    finally:
        os.environ.__class__ = plain


@contextlib.contextmanager
def low_priority() -> Iterator[None]:
    """Stand back behind the notebook's own work; unlike niceness this can be taken back without a privilege."""
    if os.sched_getscheduler(0) != os.SCHED_OTHER:  # the user has chosen how it is scheduled
        yield
        return
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


class Launcher:
    """Serves one kernel over one socket until that is gone.

    Args:
        sock: the kernel's.
        born: the environment that this interpreter started with.
        forked: what this launcher and its molds have forked.
        kernel_fd: becomes readable when the kernel ends, or -1.
    """

    def __init__(self, sock: socket.socket, born: Mapping[str, str], forked: Forked, *, kernel_fd: int = -1) -> None:
        self._sock = sock
        self._born = born
        self._forked = forked
        self._kernel_fd = kernel_fd
        self._wake_r, self._wake_w = os.pipe()
        for fd in (self._wake_r, self._wake_w):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)

    def run(self) -> None:
        """Answer the kernel's messages, one after the other."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        if self._kernel_fd >= 0:  # a child that the kernel forked may hold the socket, too, and outlive it
            poll.register(self._kernel_fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._kernel_fd in ready:
                return
            if self._wake_r in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_r, 4096)
                self._reap()
            if self._sock.fileno() in ready:
                data, fds, _, _ = socket.recv_fds(self._sock, 1 << 20, 1)
                if not data:
                    return
                self._obey(json.loads(data), fds)

    def changes(self) -> dict[str, str]:
        """Variables that imports set in this process's environment."""
        return {name: value for name, value in os.environ.items() if self._born.get(name) != value}

    def say(self, message: dict[str, Any]) -> None:
        """Tell the kernel something."""
        self._sock.sendall(json.dumps(message).encode())

    def _obey(self, message: dict[str, Any], fds: list[int]) -> None:
        if not fds:
            return
        theirs = socket.socket(fileno=fds[0])
        theirs.set_inheritable(False)
        try:
            if message["type"] == "fork" and not starting.why_not_fork({}, {}):
                self._fork_supervisor(theirs, spares=int(message["spares"]), is_calm=bool(message["is_calm"]))
            elif message["type"] == "mold" and any(name not in sys.modules for name in message["modules"]):
                self._fork_mold(theirs, [str(m) for m in message["modules"]])
            elif message["type"] == "mold":
                self.say({"type": "covers", "modules": message["modules"]})
        except OSError:  # the system refuses a process: the socket's end tells the kernel
            traceback.print_exc()
        finally:
            theirs.close()

    def _fork_supervisor(self, theirs: socket.socket, *, spares: int, is_calm: bool) -> None:
        parent = os.getpid()
        with lifeline.blocked_signals(signal.SIGCHLD):
            if (pid := os.fork()) == 0:
                standby.begin(theirs, spares=spares, is_calm=is_calm, parent=parent, born=self._born, leave=self._leave)
        self._forked.add(pid)

    def _fork_mold(self, theirs: socket.socket, modules: Sequence[str]) -> None:
        parent = os.getpid()
        with lifeline.blocked_signals(signal.SIGCHLD):
            if (pid := os.fork()) != 0:
                self._forked.add(pid)
                return
            try:
                self._leave(is_mold=True)
                lifeline.die_with_parent(parent=parent)
                set_title("nb_elastic:launcher:mold")
                mold = Launcher(theirs, self._born, self._forked)
            except BaseException:  # noqa: BLE001  the border of the process
                os._exit(1)
        _live(mold, modules)

    def _leave(self, *, is_mold: bool = False) -> None:
        """In a child: close what only this process needs, and take signals as a fresh process does."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._sock.close()
        os.close(self._wake_r)
        os.close(self._wake_w)
        if self._kernel_fd >= 0:
            os.close(self._kernel_fd)
        if not is_mold:
            self._forked.close()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            self._forked.end_strays()


def hold(modules: Sequence[str], *, limit_s: float = TOO_LONG_S) -> tuple[str, str]:
    """Import modules; returns the first that must not be kept, and why, or two empty texts. Main thread only.

    Args:
        limit_s: most seconds for one of them.
    """
    signal.signal(signal.SIGALRM, _give_up)
    for name in modules:
        if name in sys.modules:
            continue
        files = _files()
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        try:
            importlib.import_module(name)
            left_s = signal.setitimer(signal.ITIMER_REAL, 0)[0]
        except _TooLongError:
            return name, f"its import takes more than {limit_s:g} s"
        except BaseException as e:  # noqa: BLE001  whatever a module does, SystemExit included: the ranks will tell it
            return name, f"its import fails ({type(e).__name__}: {e})"
        if reason := starting.why_not_fork({}, {}) or _other_trace(has_own_timer=not left_s):
            return name, reason
        if own := [f for f in _files() - files if not installed.is_installed(f)]:
            return name, f"it brings code that may still be edited ({own[0]})"
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return "", ""


def _give_up(_number: int, _frame: object) -> None:
    raise _TooLongError


def _files() -> set[str]:
    return set(filter(os.path.isabs, map(installed.file_of, list(sys.modules.values()))))


def _other_trace(*, has_own_timer: bool) -> str:
    """What an import left that a fork would share without being made for it; "" if nothing.

    Args:
        has_own_timer: it took our alarm for something of its own.
    """
    if children := lifeline.descendants(os.getpid()):
        return f"its import leaves {len(children)} processes"
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    if tracker is not None and tracker._resource_tracker._fd is not None:  # noqa: SLF001
        return "its import starts multiprocessing's resource tracker"
    if has_own_timer or signal.getsignal(signal.SIGALRM) is not _give_up:
        return "its import starts a timer"
    return ""


def _live(launcher: Launcher, modules: Sequence[str]) -> NoReturn:
    """Import, say so, and serve to the end; never returns."""
    code = 1
    try:
        with low_priority(), recorded():
            unfit, reason = hold(modules)
        if unfit:
            launcher.say({"type": "unfit", "module": unfit, "reason": reason})
        else:
            pools.find()
            installed.packages_held(len(sys.modules))
            gc.collect()
            gc.freeze()
            launcher.say({"type": "ready", "read": sorted(Recorded.names), "set": launcher.changes()})
            launcher.run()
        code = 0
    except (BrokenPipeError, ConnectionResetError):
        code = 0
    except BaseException:  # noqa: BLE001  the border of the process
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main(fd: int, *, parent: int, kernel: int) -> NoReturn:
    """Warm up and serve.

    Args:
        parent: pid of the kernel whose death ends this process at once; 0 where it would follow a mere thread's.
        kernel: pid of the kernel.
    """
    lifeline.become_subreaper()
    identity = lifeline.ProcessId.of(kernel)
    if parent:
        lifeline.die_with_parent(parent=parent)
    gc.disable()
    born = dict(os.environ)
    set_title("nb_elastic:launcher")
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    data = sock.recv(1 << 20)
    if not data:
        sys.exit(0)
    sys.path[:] = [*json.loads(data)["path"], os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    with low_priority(), recorded():
        starting.import_own()
        for name in BEFOREHAND:
            importlib.import_module(name)
    _live(Launcher(sock, born, Forked(), kernel_fd=identity.open() if identity else -1), ())


if __name__ == "__main__":
    main(int(sys.argv[1]), parent=int(sys.argv[2]), kernel=int(sys.argv[3]))
