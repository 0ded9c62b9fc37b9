"""The faults: what is done to a run, to whom, and when; each act is written down as a deed.

Runs in: the chaos test.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from nb_elastic import lifeline, rundir
from nb_elastic.events import Event
from nb_elastic.lifeline import ProcessId
from nb_elastic.rundir import JournalReader, RunDir
from tests.chaos.world import World
from tests.support import proc

STAGES = (
    "sent", "sent", "run_created", "supervisor_started", "rendezvous_started", "worker_started", "worker_ready",
    "line", "line", "line", "worker_exited", "round_ended",
)  # fmt: skip
"""Moments to wait for: of the cell, of the journal, or the first line of a rank; often the run is in full swing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something to be done.

    Attributes:
        stage: what to wait for; ``before`` is the moment before the launch.
        after_s: seconds after that.
        rank: whom it hits, of those that have ranks.
        number: signal.
        again_s: seconds until it is taken back or done again; negative for never.
        amount: how much, in the fault's own measure.
    """

    kind: str
    stage: str = "sent"
    after_s: float = 0.0
    rank: int = 0
    number: int = 0
    again_s: float = -1.0
    amount: float = 0.0

    def __str__(self) -> str:
        more = [f"rank {self.rank}"] if self.kind.startswith("rank") else []
        more += [signal.Signals(self.number).name] if self.number else []
        more += [f"again after {self.again_s:.2f} s"] if self.again_s >= 0 else []
        more += [f"{self.amount:g}"] if self.amount else []
        return f"{self.kind} ({', '.join([*more, f'{self.after_s:.3f} s after {self.stage}'])})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Something that was done.

    Attributes:
        is_done: False where there was nobody to do it to.
        was_over: the run had ended before.
        pid: of the process that was hit, or 0.
    """

    fault: Fault
    text: str
    at_s: float
    is_done: bool
    was_over: bool = False
    pid: int = 0


@dataclass(kw_only=True)
class Scene:
    """A run while it happens: how faults find whom they hit.

    Attributes:
        starter: the process that launched: the kernel, or the command line.
        name: of the run, which tells it from another one launched beside it.
    """

    world: World
    before: set[RunDir]
    began: float
    starter: ProcessId
    name: str
    deeds: list[Deed] = field(default_factory=list)
    took_back: list[Callable[[], object]] = field(default_factory=list)
    _found: RunDir | None = None

    @property
    def folder(self) -> RunDir | None:
        """The run's folder, once there is one."""
        if self._found is None:
            made = self.world.runs() - self.before
            self._found = next((r for r in made if rundir.read_json(r.run_json).get("name") == self.name), None)
        return self._found

    def events(self) -> list[Event]:
        """The journal so far."""
        return JournalReader(self.folder.journal).read() if self.folder else []

    def is_over(self) -> bool:
        """True when the journal has the run's last word."""
        return any(e.kind in {"run_finished", "run_lost"} for e in self.events())

    def rank(self, number: int) -> tuple[ProcessId, int] | None:
        """The process of a rank in the newest round, and that round."""
        for event in reversed(self.events()):
            if event.kind == "worker_started" and event["rank"] == number:
                return ProcessId(event["pid"], event["start_ticks"]), event["round"]
        return None

    def supervisor(self) -> ProcessId | None:
        """The supervisor, once it has told of itself."""
        for event in self.events():
            if event.kind == "supervisor_started":
                return ProcessId(event["pid"], event["start_ticks"])
        return None

    def has_come(self, stage: str) -> bool:
        """True when a stage was reached."""
        if stage in {"sent", "before"}:
            return True
        if stage == "line":
            return bool(self.folder and any(_has_line(p) for p in self.folder.path.glob("round_*/*/stdout.log")))
        return any(e.kind == stage for e in self.events())


Act = Callable[[Scene, Fault], "tuple[bool, str]"]
"""Does a fault; returns whether there was somebody to do it to, and what was done, in words."""


def carry_out(scene: Scene, fault: Fault, *, give_up_s: float, is_ended: Callable[[], bool]) -> None:
    """Wait for a fault's moment and do it; what is done is added to the scene's deeds."""
    while not scene.has_come(fault.stage):
        if is_ended() or time.monotonic() - scene.began > give_up_s:
            return
        time.sleep(0.002)
    end = time.monotonic() + fault.after_s
    while (left := end - time.monotonic()) > 0:
        if is_ended():
            return
        time.sleep(min(left, 0.02))
    _do(scene, fault)
    if fault.again_s >= 0 and (again := AGAIN.get(fault.kind)):
        end = time.monotonic() + fault.again_s
        while (left := end - time.monotonic()) > 0 and not is_ended():
            time.sleep(min(left, 0.02))
        if not is_ended() or fault.kind != "interrupt":
            _do(scene, fault, again)


def _do(scene: Scene, fault: Fault, act: Act | None = None) -> None:
    was_over = scene.is_over()
    is_done, text = (act or ACTS[fault.kind])(scene, fault)
    scene.deeds.append(
        Deed(
            fault=fault,
            text=text,
            at_s=time.monotonic() - scene.began,
            is_done=is_done,
            was_over=was_over,
            pid=int(hit[1]) if (hit := re.search(r"\(pid (\d+)\)", text)) else 0,
        )
    )


def _signal(process: ProcessId | None, number: int, who: str) -> tuple[bool, str]:
    name = signal.Signals(number).name
    if process is None or not process.signal(number):
        return False, f"{name} to {who}: nobody there"
    return True, f"{name} to {who} (pid {process.pid})"


def _rank(scene: Scene, fault: Fault) -> tuple[bool, str]:
    found = scene.rank(fault.rank)
    return _signal(found[0] if found else None, fault.number, f"rank {fault.rank}")


def _rank_goes_on(scene: Scene, fault: Fault) -> tuple[bool, str]:
    return _rank(scene, replace(fault, number=signal.SIGCONT))


def _rank_child(scene: Scene, fault: Fault) -> tuple[bool, str]:
    found = scene.rank(fault.rank)
    below = lifeline.descendants(found[0].pid) if found else []
    child = ProcessId.of(random.Random(fault.after_s).choice(below)) if below else None
    return _signal(child, fault.number, f"a child of rank {fault.rank}")


def _supervisor(scene: Scene, fault: Fault) -> tuple[bool, str]:
    return _signal(scene.supervisor(), fault.number, "the supervisor")


def _supervisor_goes_on(scene: Scene, fault: Fault) -> tuple[bool, str]:
    return _supervisor(scene, replace(fault, number=signal.SIGCONT))


def _forkserver(scene: Scene, fault: Fault) -> tuple[bool, str]:
    supervisor = scene.supervisor()
    below = lifeline.descendants(supervisor.pid) if supervisor else []
    found = next((ProcessId.of(p) for p in below if proc.role(p) == "forkserver"), None)
    return _signal(found, fault.number, "the forkserver")


def _launcher(scene: Scene, fault: Fault) -> tuple[bool, str]:
    pid = scene.world.launcher()
    return _signal(ProcessId.of(pid) if pid else None, fault.number, "the launcher")


def _standby(scene: Scene, fault: Fault) -> tuple[bool, str]:
    pids = [p for p in lifeline.descendants(scene.world.kernel.pid) if proc.role(p) == "standby"]
    chosen = ProcessId.of(random.Random(fault.after_s).choice(pids)) if pids else None
    return _signal(chosen, fault.number, f"one of {len(pids)} that stand by")


def _starter(scene: Scene, fault: Fault) -> tuple[bool, str]:
    return _signal(scene.starter, fault.number, "whoever launched")


def _starter_goes_on(scene: Scene, fault: Fault) -> tuple[bool, str]:
    return _starter(scene, replace(fault, number=signal.SIGCONT))


def interrupt(scene: Scene, fault: Fault) -> tuple[bool, str]:
    """What the stop button does: SIGINT to the group of whoever launched."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(scene.starter.pid, signal.SIGINT)
        return True, "interrupt"
    return False, "interrupt: nobody there"


def stop(scene: Scene, fault: Fault) -> tuple[bool, str]:
    """``nb-elastic stop`` from a process of its own, which is not waited for."""
    if scene.folder is None:
        return False, "stop: there is no run yet"
    words = ["stop", scene.folder.run_id, "--grace", f"{fault.amount:g}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nb_elastic", *words],
        env=scene.world.environ, cwd=scene.world.work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.communicate(timeout=120)
    return process.returncode == 0, f"nb-elastic {' '.join(words)}: {process.returncode}"


def _fill(scene: Scene, fault: Fault) -> tuple[bool, str]:
    """Fill the disk to the last byte."""
    if not scene.world.has_disk:
        return False, "there is no disk to fill"
    scene.took_back.append(lambda: _free(scene, fault))
    with contextlib.suppress(OSError), open(scene.world.disk / "filler", "ab", buffering=0) as file:
        while file.write(b"x" * (1 << 20)):
            pass
    with contextlib.suppress(OSError), open(scene.world.disk / "filler", "ab", buffering=0) as file:
        while file.write(b"x" * 512):
            pass
    return True, "the disk is full"


def _free(scene: Scene, fault: Fault) -> tuple[bool, str]:
    (scene.world.disk / "filler").unlink(missing_ok=True)
    return True, "the disk has room again"


def _delete(scene: Scene, fault: Fault) -> tuple[bool, str]:
    if scene.folder is None:
        return False, "there is no folder yet"
    shutil.rmtree(scene.folder.path, ignore_errors=True)
    return True, "the run folder is deleted"


def _limit(scene: Scene, fault: Fault) -> tuple[bool, str]:
    """Lower a limit of whoever launches, and so of the ranks; it is raised again at the end."""
    kind = resource.RLIMIT_NOFILE if fault.kind == "limit files" else resource.RLIMIT_FSIZE
    pid = scene.starter.pid
    try:
        used = proc.descriptors(pid) if kind == resource.RLIMIT_NOFILE else 0
        before = resource.prlimit(pid, kind)
        soft = used + int(fault.amount)
        resource.prlimit(pid, kind, (soft, before[1]))
    except (OSError, ValueError):
        return False, "a limit: nobody there"
    scene.took_back.append(lambda: _raise_limit(scene, kind, before))
    return True, f"{fault.kind}: {soft} for pid {pid}"


def _raise_limit(scene: Scene, kind: int, before: tuple[int, int]) -> None:
    if scene.starter.is_alive:
        resource.prlimit(scene.starter.pid, kind, before)


def _jump(scene: Scene, fault: Fault) -> tuple[bool, str]:
    """The wall clock jumps, and stays there until the kernel is a new one."""
    if not (scene.world.shim and scene.world.has_shim):
        return False, "the clock of this kernel can't jump"
    scene.world.shim.jump(fault.amount)
    return True, f"the wall clock is {fault.amount:g} s ahead"


def _slow(scene: Scene, fault: Fault) -> tuple[bool, str]:
    if not (scene.world.shim and scene.world.has_shim):
        return False, "the disk of this kernel can't be slow"
    shim = scene.world.shim
    scene.took_back.append(lambda: shim.slow(0))
    shim.slow(fault.amount)
    return True, f"the disk takes {fault.amount:g} s each time"


def _quick(scene: Scene, fault: Fault) -> tuple[bool, str]:
    return _slow(scene, replace(fault, amount=0.0))


ACTS: dict[str, Act] = {
    "rank": _rank,
    "rank stops": _rank,
    "rank child": _rank_child,
    "supervisor": _supervisor,
    "supervisor stops": _supervisor,
    "forkserver": _forkserver,
    "launcher": _launcher,
    "standby": _standby,
    "starter": _starter,
    "starter stops": _starter,
    "interrupt": interrupt,
    "stop": stop,
    "disk": _fill,
    "delete": _delete,
    "limit files": _limit,
    "limit size": _limit,
    "clock": _jump,
    "slow": _slow,
}
AGAIN: dict[str, Act] = {
    "rank stops": _rank_goes_on,
    "supervisor stops": _supervisor_goes_on,
    "starter stops": _starter_goes_on,
    "interrupt": interrupt,
    "disk": _free,
    "slow": _quick,
}


def _has_line(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_size > 0
    return False


def draw(rng: random.Random, nproc: int, *, only: str = "", may_end: bool = True) -> Fault:
    """Draw one.

    Args:
        may_end: the run may end by itself, so that there will be moments after that.
    """
    kind = only or rng.choices([k for k, _ in WEIGHTS], [w for _, w in WEIGHTS])[0]
    fault = Fault(
        kind=kind,
        stage=rng.choice(STAGES if may_end else STAGES[:-2]),
        after_s=rng.choice([0.0, rng.uniform(0, 0.05), rng.uniform(0, 0.5), rng.uniform(0, 1.5)]),
        rank=rng.randrange(nproc),
    )
    deadly = [signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]
    if kind == "rank":
        return replace(fault, number=rng.choice([*deadly, signal.SIGABRT, signal.SIGINT]))
    if kind in {"rank child", "launcher", "standby", "forkserver", "supervisor"}:
        return replace(fault, number=rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV]))
    if kind == "starter":
        return replace(fault, number=rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]))
    if kind in {"rank stops", "supervisor stops", "starter stops"}:
        lasts = rng.uniform(0, 2) if kind != "rank stops" or rng.random() < 0.7 else -1
        return replace(fault, number=signal.SIGSTOP, again_s=lasts)
    if kind == "interrupt":
        return replace(fault, again_s=rng.choice([-1, -1, rng.uniform(0, 0.5), rng.uniform(0, 3)]))
    if kind == "stop":
        return replace(fault, amount=rng.choice([0, 1, 5]))
    if kind == "disk":
        return replace(fault, again_s=rng.choice([-1, rng.uniform(0, 2)]))
    if kind == "limit files":
        return replace(fault, stage=rng.choice(["before", fault.stage]), amount=rng.choice([0, 3, 10, 30]))
    if kind == "limit size":
        return replace(fault, stage=rng.choice(["before", fault.stage]), amount=rng.choice([0, 4096, 100_000]))
    if kind == "clock":
        return replace(fault, amount=rng.choice([-86_400, -3600, -1, 1, 130, 3600, 30 * 86_400]))
    if kind == "slow":
        return replace(fault, amount=rng.choice([0.001, 0.005, 0.02]), again_s=rng.uniform(0.2, 3))
    return fault


WEIGHTS = (
    ("rank", 6),
    ("interrupt", 5),
    ("supervisor", 3),
    ("forkserver", 2),
    ("launcher", 2),
    ("standby", 2),
    ("starter", 2),
    ("rank stops", 3),
    ("supervisor stops", 2),
    ("starter stops", 1),
    ("rank child", 1),
    ("stop", 2),
    ("disk", 2),
    ("delete", 1),
    ("limit files", 1),
    ("limit size", 1),
    ("clock", 2),
    ("slow", 2),
)
"""Each kind with how often it is drawn."""
