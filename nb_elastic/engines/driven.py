"""The kernel's side of a run on many nodes: settles where, starts a driver or takes one that stands by with its nodes.

Runs in: the kernel or the command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from nb_elastic import wire
from nb_elastic.engines import base
from nb_elastic.engines.base import Settled, Wanted
from nb_elastic.engines.seat import Seat, with_package
from nb_elastic.errors import EngineError, OptionError
from nb_elastic.lifeline import blocked_signals
from nb_elastic.model_options import LaunchOptions

COMMAND = ("-m", "nb_elastic.driver")
WARM_S = 55.0
"""A driver that has waited for longer may be about to leave; it does so by itself after a minute."""
FINISHED = b'{"event":"run_finished"'
ANSWER_S = 30.0
"""A driver that stands by and does not answer a launch for so long is ended; another one takes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where a run is placed.

    Attributes:
        engine: its name.
        settled: what the engine found here.
    """

    engine: str
    settled: Settled
    wanted: Wanted

    @property
    def key(self) -> str:
        """Runs with the same key can use the same nodes, one after another."""
        return json.dumps([self.engine, self.settled.value, asdict(self.wanted)], sort_keys=True, default=str)

    @property
    def text(self) -> str:
        """Where, in one line."""
        wanted = self.wanted
        nodes = (
            f"{wanted.min_nodes}"
            if wanted.min_nodes == wanted.max_nodes
            else f"{wanted.min_nodes} to {wanted.max_nodes}"
        )
        gpus = {
            -1: ", with all its GPUs",
            0: ", with a GPU for each rank where there are some" if wanted.prefers_gpus else "",
        }
        reserved = gpus.get(wanted.gpus, f", with {wanted.gpus} GPU(s)")
        return f"{nodes} node(s) of {self.settled.label} (engine {self.engine}){reserved}"


def is_driven(options: LaunchOptions) -> bool:
    """True if an engine places the run's nodes."""
    return base.split(options.engine)[0] != base.LOCAL


def settle(options: LaunchOptions) -> Plan:
    """Find out where the run's nodes can be placed; starts nothing.

    Raises:
        OptionError: if there is no such engine, or its settings make no sense.
        EngineError: if what it needs isn't there.
    """
    name, settings = base.split(options.engine)
    nproc = options.nproc_per_node if isinstance(options.nproc_per_node, int) else 0
    wanted = Wanted(
        run_id="",
        settings=settings,
        min_nodes=options.min_nodes,
        max_nodes=options.max_nodes,
        nproc=nproc,
        gpus=len(options.gpus) or (-1 if options.nproc_per_node == "gpu" else 0),
        prefers_gpus=options.nproc_per_node != "cpu" and options.env.get("CUDA_VISIBLE_DEVICES") not in {"", "-1"},
    )
    try:
        settled = base.load(name).settle(wanted, {**os.environ, **options.env})
    except (OptionError, EngineError):
        raise
    except ImportError as e:
        raise EngineError(f"--engine {name} can't be used: {e}. Nothing was started.") from e
    except Exception as e:  # border: an engine may be a third party's, and fail in any way
        raise EngineError(f"--engine {name} failed: {type(e).__name__}: {e}. Nothing was started.") from e
    return Plan(engine=name, settled=settled, wanted=wanted)


@dataclass(slots=True, eq=False)
class _Driver:
    """A driver's process and its two ends here."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
    stdout: BinaryIO
    key: str
    idle_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def start(cls, seat: Seat, key: str) -> _Driver:
        """Start one, with this process's environment and working folder.

        Raises:
            OSError: if it can't be started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs, blocked_signals(), open(seat.log, "ab") as log:
                process = subprocess.Popen(
                    [sys.executable, *COMMAND],
                    stdin=theirs.fileno(),
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=with_package(seat.env),
                    cwd=str(Path.cwd()),
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        if process.stdout is None:
            raise OSError("no pipe")
        stdout: Any = process.stdout
        return cls(process, ours, stdout, key)

    @property
    def is_fit(self) -> bool:
        """True while it may be given another run."""
        return self.process.poll() is None and time.monotonic() - self.idle_at < WARM_S

    def send(self, message: Mapping[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Send a frame; dropped when the driver is gone."""
        with self.lock, contextlib.suppress(OSError):
            wire.send(self.sock, message, fds)

    def forget_answers(self) -> None:
        """Drop what it said to earlier launches."""
        with contextlib.suppress(OSError):
            while self.sock.recv(64, socket.MSG_DONTWAIT):
                pass

    def has_taken(self) -> bool:
        """Wait for its answer to a launch; False where it takes none, for it is about to end."""
        try:
            self.sock.settimeout(ANSWER_S)
            return self.sock.recv(1) == wire.TAKEN
        except OSError:
            return False
        finally:
            self.sock.settimeout(None)

    def hang_up(self) -> None:
        """Let it know that there is nothing more to come."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def end(self, timeout_s: float) -> None:
        """End it and its nodes."""
        self.hang_up()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.stdout.close()


class Drivers:
    """The drivers of this process that stand by with their nodes."""

    def __init__(self) -> None:
        self._idle: list[_Driver] = []
        self._leaving: list[_Driver] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def take(self, key: str) -> _Driver | None:
        """A driver that stands by for such runs, if there is one; all others end."""
        with self._lock:
            if self._owner != os.getpid():
                self._idle, self._owner = [], os.getpid()  # a fork's copies are its parent's
            fit = [d for d in self._idle if d.is_fit]
            found = next((d for d in fit if d.key == key), None)
            # Nodes that wait for another kind of run may hold what this one needs.
            spent = [d for d in self._idle if d is not found]
            self._idle = []
            self._leaving = [one for one in self._leaving if one.process.poll() is None]
        for driver in spent:
            driver.end(10.0)
        return found

    def give_back(self, driver: _Driver) -> None:
        """A run is over, and its driver may have another one."""
        driver.idle_at = time.monotonic()
        with self._lock:
            self._idle.append(driver)

    def leave(self, driver: _Driver) -> None:
        """A detached run's driver ends by itself; it stays a zombie until this process has seen that."""
        with self._lock:
            self._leaving = [one for one in (*self._leaving, driver) if one.process.poll() is None]

    def close(self) -> None:
        """End all that stand by."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._leaving = [one for one in self._leaving if one.process.poll() is None]
        for driver in idle:
            driver.end(10.0)


drivers = Drivers()


class DrivenChannel:
    """One run of a driver."""

    def __init__(self, driver: _Driver, seat: Seat, plan: Plan, *, is_new: bool) -> None:
        self.notes: tuple[str, ...] = ()
        self.waits_for = f"nodes of {plan.settled.label}" if is_new else ""
        self._driver, self._seat, self._plan, self._is_new = driver, seat, plan, is_new
        self._fds = list(seat.pass_fds)
        self._is_over = threading.Event()
        self._is_heard = threading.Event()
        self._is_closed = False

    def send(self, message: Mapping[str, Any], blob: bytes = b"") -> None:
        """Send one frame; dropped when the driver is gone.

        Raises:
            EngineError: if a driver must be started, and can't be.
        """
        del blob
        if self._is_closed or self._is_over.is_set():
            return
        if message.get("type") != "launch":
            self._driver.send(message)
            with contextlib.suppress(OSError):
                self._driver.process.send_signal(signal.SIGCONT)  # one that somebody stopped could heed nothing
            return
        plan = self._plan
        more = {
            "engine": plan.engine,
            "settled": asdict(plan.settled),
            "wanted": asdict(plan.wanted) | {"run_id": message["spec"]["run_id"]},
            "versions": _versions(),
            "has_buffers": bool(self._fds),
        }
        launch = {"type": "launch", "spec": message["spec"], **more}
        self._driver.forget_answers()
        self._driver.send(launch, tuple(self._fds))
        if not self._is_new and not self._driver.has_taken():
            self._driver.end(10.0)
            self._driver, self._is_new = _start(self._seat, self._plan), True
            self.waits_for = f"nodes of {plan.settled.label}"
            self._driver.send(launch, tuple(self._fds))
        self._close_fds()

    def lines(self) -> Iterator[bytes]:
        """Yield the driver's JSON lines of this run; nothing for a detached one, whose journal tells all."""
        if self._seat.is_detached:
            return
        try:
            for line in self._driver.stdout:
                yield line
                if line.startswith(FINISHED):
                    self._is_over.set()
                    return
        finally:
            self._is_heard.set()

    @property
    def is_alive(self) -> bool:
        """True while the driver looks after this run."""
        return not self._is_over.is_set() and self._driver.process.poll() is None

    def close(self, timeout_s: float = 10.0) -> None:
        """Let the driver stand by with its nodes; where the run is not over, that ends with it."""
        if self._is_closed:
            return
        self._is_closed = True
        self._close_fds()
        driver = self._driver
        if self._seat.is_detached:
            driver.hang_up()
            driver.stdout.close()
            drivers.leave(driver)
            return
        if self._is_over.wait(0.0 if self._is_heard.is_set() else 2.0):
            drivers.give_back(driver)
        else:
            driver.end(timeout_s)

    def _close_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


class DrivenEngine:
    """Has a driver run the launch on an engine's nodes."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def open(self, seat: Seat) -> DrivenChannel:
        """Take or start the driver of a run.

        Raises:
            EngineError: if it can't be started.
        """
        driver = drivers.take(self._plan.key)
        return DrivenChannel(driver or _start(seat, self._plan), seat, self._plan, is_new=driver is None)


def _start(seat: Seat, plan: Plan) -> _Driver:
    try:
        return _Driver.start(seat, plan.key)
    except OSError as e:
        raise EngineError(
            f"The driver of the run's nodes can't be started: {e.strerror or e}. See {seat.log}. Nothing was started."
        ) from e


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {"python": platform.python_version()}
    for key, name in (("torch", "torch"), ("nb_elastic", "nb-elastic")):
        try:
            found[key] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[key] = ""
    return found
