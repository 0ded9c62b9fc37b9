"""Serves one kernel: takes its launches one after the other, keeps the nodes warm between them, and ends with it.

Runs in: the driver.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import select
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nb_elastic import lifeline, machine, seals, wire
from nb_elastic.driver import descriptors, log
from nb_elastic.driver import job as jobs
from nb_elastic.driver.conductor import GRACE_S, Conductor
from nb_elastic.driver.desk import Desk
from nb_elastic.driver.fleet import Fleet, Node
from nb_elastic.driver.hiring import Hiring
from nb_elastic.driver.job import Job
from nb_elastic.driver.meeting import Meeting, own_address
from nb_elastic.driver.pace import PACE, Pace
from nb_elastic.driver.post import Delivery
from nb_elastic.driver.story import Story
from nb_elastic.engines import base
from nb_elastic.engines.base import Engine, Order
from nb_elastic.errors import ElasticError
from nb_elastic.node import folder
from nb_elastic.supervisor import stopping
from nb_elastic.supervisor.channel import FrameDecoder

IDLE_TICK_S = 0.5
END_S = 10.0
"""An engine that has not ended its nodes by then is left to them: their stdin ends with this process."""


class Serving:
    """The driver of one kernel."""

    def __init__(self, *, pace: Pace = PACE, fd: int = 0) -> None:
        self._pace = pace
        self._desk = Desk()
        self._fleet = Fleet(self._desk, pace)
        self._fleet.listener = self
        self._meeting = Meeting(self._desk, on_change=self._wake)
        self._hiring: Hiring | None = None
        self._conductor: Conductor | None = None
        self._job: Job | None = None
        self._copier: log.Copier | None = None
        self._scratch: Path | None = None
        self._idle_at = self._desk.clock()
        self._force_at: float | None = None
        self._has_news = self._is_left = self._is_spent = False
        self._runs = 0
        self._kernel = _Kernel(self._desk, self, fd)

    def serve(self) -> int:
        """Serve until the kernel is gone or needs no nodes any more; returns the exit code."""
        self._kernel.start()
        next_at = 0.0
        while not self._is_done():
            self._desk.work(next_at - self._desk.clock())
            now = self._desk.clock()
            if self._has_news or now >= next_at:
                self._has_news = False
                self._tick(now)
                next_at = now + (IDLE_TICK_S if self._conductor is None else self._pace.tick)
        self._close()
        return 0

    # -- what the kernel says -----------------------------------------------------------------

    def on_launch(self, message: Mapping[str, Any], fds: list[int]) -> None:
        """A run is to begin."""
        self._end_if_over(self._desk.clock())  # the kernel may have heard so before this thread came round to it
        is_free = self._conductor is None and not self._is_ending
        self._kernel.answer(is_taken=is_free)
        if not is_free:
            log.write("a launch came that can't be had here")
            return
        try:
            self._launch(jobs.read(message, fds))
        except Exception as e:  # noqa: BLE001  the border of the process: the run's folder must tell why nothing runs
            traceback.print_exc()
            self._is_spent = True
            self._fail(str(e) if isinstance(e, ElasticError) else f"The driver failed: {type(e).__name__}: {e}")

    def on_stop(self, message: Mapping[str, Any]) -> None:
        """Somebody wants the run's end."""
        grace_s = message.get("grace_s")
        is_number = isinstance(grace_s, (int, float)) and not isinstance(grace_s, bool)
        self.request(by=str(message.get("by") or "somebody"), grace_s=float(grace_s) if is_number else GRACE_S)  # type: ignore[arg-type]

    def on_kernel_gone(self, why: str) -> None:
        """Nobody launches any more; an attached run ends."""
        if self._is_left:
            return
        log.write(f"{why}: the driver ends after this run" if self._is_detached else f"{why}: everything ends")
        self._is_left = True
        if self._conductor is not None and not self._is_detached:
            grace_s = self._pace.gone
            self.request(by="the end of whoever started it", grace_s=grace_s)
            self._force_at = self._desk.clock() + grace_s + 2.0

    def hear_signal(self, number: int) -> None:
        """A signal's handler, anywhere in the main thread."""
        self._desk.call(self.on_signal, number)

    def on_signal(self, number: int) -> None:
        """A signal from outside; the run folder may tell how its sender wants the run to end."""
        told = stopping.read_stop(self._job.folder) if self._job is not None else None
        name = signal.Signals(number).name
        log.write(f"got {name}")
        if self._conductor is None:
            self._is_left = self._is_left or number != signal.SIGINT
        elif told is not None or number != signal.SIGINT or self._runs == 1:  # else it was meant for the run before
            grace_s = told.grace_s if told else GRACE_S
            self.request(by=(told.by if told else "") or f"signal {name}", grace_s=grace_s)

    def request(self, *, by: str, grace_s: float) -> None:
        """Ask for the end of the run."""
        if self._conductor is not None:
            self._conductor.stop(by=by, grace_s=grace_s, now=self._desk.clock())
            self._wake()

    # -- what the nodes say -------------------------------------------------------------------

    def on_hello(self, node: Node) -> None:
        """See ``fleet.Listener``."""
        if self._conductor is not None:
            self._conductor.on_hello(node)
        self._wake()

    def on_line(self, node: Node, message: Mapping[str, Any]) -> None:
        """See ``fleet.Listener``."""
        kind = message.get("type")
        if kind == "hosting":
            self._meeting.take(node, dict(message))
        elif kind == "note":
            self._note(f"{node.where}: {message.get('text')}", is_warning=message.get("level") == "warning")
        elif self._conductor is not None:
            self._conductor.on_line(node, message, self._desk.clock())
            if kind not in {"event", "debug"}:
                self._wake()

    def on_lost(self, node: Node, why: str) -> None:
        """See ``fleet.Listener``."""
        self._is_spent = True
        if self._conductor is not None:
            self._conductor.on_lost(node, why, self._desk.clock())

    def on_back(self, node: Node) -> None:
        """See ``fleet.Listener``."""
        if self._conductor is not None:
            self._conductor.on_back(node)

    def on_unsent(self, delivery: Delivery, error: OSError) -> None:
        """See ``fleet.Listener``."""
        if self._conductor is not None:
            self._conductor.on_unsent(delivery, error, self._desk.clock())

    # -- steps --------------------------------------------------------------------------------

    @property
    def _is_detached(self) -> bool:
        return self._job is not None and self._job.spec.is_detached

    def _launch(self, job: Job) -> None:
        spec = job.spec
        self._job, self._runs = job, self._runs + 1
        if spec.key_hex:
            seals.know(job.folder.path, bytes.fromhex(spec.key_hex))
        with contextlib.suppress(OSError):
            log.go_to(job.folder.supervisor_log)
        log.write(f"run {spec.run_id} on {job.settled.label} (pid {os.getpid()}, its {self._runs}. run)")
        if job.owner is not None:
            self._kernel.watch(job.owner)
        story = Story(job.folder, stop=self._ask, heed=self._heed, is_detached=spec.is_detached)
        _tell_start(story, job)
        self._conductor = Conductor(job, story, self._fleet, self._meeting, self._pace, now=self._desk.clock())
        if self._hiring is None:
            self._hire(job)
            for text in job.settled.notes:
                story.note(text)
        self._heed()
        self._wake()

    def _hire(self, job: Job) -> None:
        engine: Engine = base.load(job.engine)
        descriptors.allow(job.wanted.max_nodes)
        self._scratch = _make_scratch()
        engine_log = self._scratch / "engine.log"
        self._copier = log.Copier(engine_log)
        order = Order(
            settled=job.settled,
            wanted=job.wanted,
            nodes=job.wanted.min_nodes,
            env={"NB_ELASTIC_DRIVER_ADDRESS": own_address()},
            folder=self._scratch,
            log=engine_log,
            on_link=self._fleet.take,
            tell=lambda text: self._desk.call(self._note, text),
            is_over=threading.Event(),
        )
        self._hiring = Hiring(
            engine,
            order,
            self._desk,
            on_failed=self._on_hire_failed,
            on_grow_failed=lambda text: self._note(f"No more nodes can be had: {text}", is_warning=True),
            grow_s=self._pace.grow,
        )

    def _fail(self, text: str) -> None:
        if self._conductor is not None:
            self._conductor.fail(text, reasons=("The run could not be started.",))
            self._wake()

    def _on_hire_failed(self, text: str) -> None:
        log.write(f"no nodes: {text}")
        self._is_spent = True
        if self._conductor is not None:
            self._conductor.fail(text, reasons=("No nodes could be had.", text.partition("\n")[0]))

    def _note(self, text: str, *, is_warning: bool = False) -> None:
        log.write(text)
        if self._conductor is not None:
            self._conductor.on_note(text, level="warning" if is_warning else "info")

    def _ask(self, by: str, grace_s: float) -> None:
        """Have the run stopped; any thread may ask."""
        self._desk.call(lambda: self.request(by=by, grace_s=grace_s))

    def _heed(self) -> None:
        """Take up a stop that another process left in the run folder; any thread may call."""
        if self._job is not None and (told := stopping.read_stop(self._job.folder)) is not None:
            self._ask(told.by or "somebody", told.grace_s)

    def _wake(self) -> None:
        self._has_news = True

    def _tick(self, now: float) -> None:
        self._fleet.tick()
        if self._conductor is not None:
            if self._job is not None and self._job.settled.has_queue and self._hiring and not self._hiring.is_open:
                self._conductor.put_off(now)
            self._conductor.tick(now)
            if self._force_at is not None and now >= self._force_at:
                self._force_at = None
                self._conductor.hurry(now)
        if self._hiring is not None:
            self._hiring.want(self._conductor.missing if self._conductor is not None else 0)
        self._end_if_over(now)

    def _end_if_over(self, now: float) -> None:
        if self._conductor is None or not self._conductor.is_over:
            return
        if self._copier is not None:
            self._copier.copy()
        log.leave()
        if self._job is not None:
            seals.forget(self._job.folder.path)
            self._is_left = self._is_left or self._job.spec.is_detached
        self._conductor = None
        self._idle_at = now

    @property
    def _is_ending(self) -> bool:
        """True when no more runs can be had here."""
        return self._is_left or (self._is_spent and self._runs > 0)

    def _is_done(self) -> bool:
        is_cold = self._desk.clock() - self._idle_at > self._pace.warm
        return self._conductor is None and (self._is_ending or is_cold)

    def _close(self) -> None:
        self._kernel.hang_up()  # a launch that is on its way finds nobody, and goes to another driver
        self._fleet.end()
        if self._hiring is not None:
            self._hiring.close(END_S)
        self._fleet.close()
        self._meeting.close()
        if self._scratch is not None:
            folder.remove(self._scratch)


def _make_scratch() -> Path:
    """A private folder for an engine's files."""
    try:
        path = folder.make(f"d-{secrets.token_hex(4)}")
    except ElasticError:  # somebody else has made the folder above it: then one that nobody sweeps
        return Path(tempfile.mkdtemp(prefix="nb_elastic-"))
    threading.Thread(target=folder.sweep, name="nb_elastic-driver-sweep", daemon=True).start()
    return path


class _Kernel:
    """A thread that reads the kernel's frames, and sees its end."""

    def __init__(self, desk: Desk, serving: Serving, fd: int) -> None:
        self._desk = desk
        self._serving = serving
        self._sock = socket.socket(fileno=os.dup(fd))
        self._wake_r, self._wake_w = os.pipe()
        self._owner: lifeline.ProcessId | None = None

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._run, name="nb_elastic-kernel", daemon=True).start()

    def answer(self, *, is_taken: bool) -> None:
        """Tell whether a launch is taken."""
        with contextlib.suppress(OSError):
            self._sock.send(wire.TAKEN if is_taken else wire.REFUSED, socket.MSG_DONTWAIT)

    def hang_up(self) -> None:
        """Take no more launches."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def watch(self, owner: lifeline.ProcessId) -> None:
        """See this process's end, too: a child that it forked may hold its socket."""
        self._owner = owner
        os.write(self._wake_w, b"o")

    def _run(self) -> None:
        decoder, fds = FrameDecoder(), []
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        owner_fd = -1
        try:
            while True:
                ready = {fd for fd, _ in poll.poll()}
                if owner_fd in ready:
                    self._desk.call(self._serving.on_kernel_gone, "the process that launched is gone")
                    return
                if self._wake_r in ready and os.read(self._wake_r, 1) and owner_fd < 0 and self._owner is not None:
                    owner_fd = self._owner.open()
                    if owner_fd >= 0:
                        poll.register(owner_fd, select.POLLIN)
                if self._sock.fileno() not in ready:
                    continue
                data, more, _flags, _address = socket.recv_fds(self._sock, 1 << 16, 4)
                fds += more
                if not data:
                    break
                for message in decoder.feed(data):
                    if message.get("type") == "launch":
                        self._desk.call(self._serving.on_launch, message, fds)
                        fds = []
                    elif message.get("type") == "stop":
                        self._desk.call(self._serving.on_stop, message)
        except (OSError, ValueError) as e:
            log.write(f"the kernel's words can't be read: {e}")
        self._desk.call(self._serving.on_kernel_gone, "the kernel hung up")


def _tell_start(story: Story, job: Job) -> None:
    identity = lifeline.ProcessId.of(os.getpid())
    story.log.tell("mark", time_ns=job.received_ns, name="received")
    story.tell(
        "supervisor_started",
        pid=os.getpid(),
        start_ticks=identity.start_ticks if identity else 0,
        host=socket.gethostname(),
        boot_id=machine.boot_id(),
        pid_namespace=machine.pid_namespace(),
        torch=job.versions.get("torch", ""),
        python=platform.python_version(),
        executable=sys.executable,
    )
