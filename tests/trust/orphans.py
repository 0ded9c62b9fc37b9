"""Kills processes of a run at times swept over all its stages, and counts what is left five seconds later.

Runs in: the tests; by hand ``python -m tests.trust.orphans 200 [KIND ...]`` prints the table.

Every try is a real kernel with a real cell on two ranks of ``tests/programs/will_not_die.py``: they ignore every signal they
can and have children in their session, in others, double-forked and always on the move. What is left is found by a mark in
the environment and by the pids that the ranks and their children wrote down themselves.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nb_elastic.lifeline import ProcessId, children
from tests.support import leaks
from tests.support.kernel import Cell, Kernel
from tests.support.proc import LAUNCHER, title
from tests.support.supervise import ROOT
from tests.support.until import until

LIMIT_S = 5.0
"""The promise: so long after the death nothing is left."""

GRACE_SPAN_S = 1.0
"""After an interrupt ranks that heed no signal have five seconds: the kernel dies in the midst of them."""

SPAN_S = 0.6
"""Deaths are swept over this time from the cell's start; a warm launch has its ranks and all their children up long before."""

FIRST_SPAN_S = 3.0
"""The same for a first cell, sent while the launcher still imports torch."""

CELL = "%elastic_launch --nproc 2 --render none tests.programs.will_not_die:main"
FORK = """
import os, threading, time
def fork():
    while not any(os.scandir(os.environ["NB_ELASTIC_HOME"])):
        time.sleep(0.001)
    time.sleep(0.05)
    if pid := os.fork():
        os.write(os.open("fork", os.O_CREAT | os.O_WRONLY), b"%d" % pid)
    else:
        time.sleep(600)
        os._exit(0)
threading.Thread(target=fork, daemon=True).start()
"""
"""A child that the notebook forks while the run lives: it has every pipe that the kernel has, and outlives it."""

KERNELS = (
    "kernel SIGKILL",
    "kernel SIGSEGV",
    "kernel restart",
    "kernel restart, asked politely",
    "kernel SIGKILL after an interrupt",
    "kernel SIGKILL, its fork lives",
)
PARTS = ("supervisor", "forkserver", "launcher", "supervisor + forkserver")
KINDS = (*KERNELS, *(f"{part} SIGKILL" for part in PARTS))


@dataclass(frozen=True)
class Try:
    """One death.

    Attributes:
        delay_s: after the cell began.
        was_there: there was somebody to kill.
        started: processes that ranks and their children wrote down.
        seconds: from the death until all was gone, or the end of the wait; of a run that lives on, from the interrupt that
            ends it.
        left: what was left after LIMIT_S.
    """

    kind: str
    delay_s: float
    was_there: bool
    started: int
    seconds: float
    left: tuple[str, ...]


class Scene:
    """A kernel with the extension loaded, in a folder of its own, whose processes carry a mark."""

    def __init__(self, *, is_warm: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nbe-"))
        self.mark = secrets.token_hex(8)
        self.pids = self.folder / "pids"
        (self.folder / "home").mkdir()
        env = {
            leaks.MARK: self.mark,
            "NB_ELASTIC_HOME": str(self.folder / "home"),
            "WILL_NOT_DIE": str(self.pids),
            "PYTHONPATH": str(ROOT),
        }
        self.before = leaks.processes(self.mark)
        self.kernel = Kernel(cwd=self.folder, env=env)
        self.kernel_pid = self.kernel.pid
        self.is_kernel_dead = False
        self.forks: set[int] = set()
        self.prepare(is_warm=is_warm)

    def prepare(self, *, is_warm: bool) -> None:
        """Load the extension; a warm scene has a group that stands by, too."""
        self.kernel.ok("%load_ext nb_elastic\nimport nb_elastic")
        if is_warm:
            self.kernel.ok("%%elastic_launch --nproc 2 --render none\n1")

    def left(self) -> set[ProcessId]:
        """Living processes of runs: not the kernel, nor what stands by in its launcher, nor forks of the test's own."""
        noted = set()
        for line in self.pids.read_bytes().splitlines() if self.pids.exists() else []:
            pid, _, ticks = line.partition(b" ")
            noted.add(ProcessId(int(pid), int(ticks or 0)))
        found = (leaks.processes(self.mark, has_standing_by=self.is_kernel_dead) - self.before) | {
            one for one in noted if one.is_alive
        }
        return {one for one in found if one.pid not in {self.kernel_pid, *self.forks}}

    def started(self) -> int:
        """How many processes ranks and their children wrote down so far."""
        return self.pids.read_bytes().count(b"\n") if self.pids.exists() else 0

    def close(self) -> None:
        """End all of it, by force where it must be."""
        self.kernel.close()
        self.is_kernel_dead = True
        self.forks.clear()
        self.clean()
        shutil.rmtree(self.folder, ignore_errors=True)

    def clean(self) -> None:
        """Kill what was left, also what moves on."""

        def is_clean() -> bool:
            found = self.left()
            leaks.end(found)
            return not found

        until(is_clean, 30, "what was left to be killed")


def sweep(kind: str, tries: int, tell: Callable[[str], None] = lambda _: None) -> list[Try]:
    """Make so many tries of a kind, at times spread evenly over the stages."""
    found: list[Try] = []
    one_by_one = _kernel_tries if kind in KERNELS else _part_tries
    for number, one in enumerate(one_by_one(kind, tries)):
        found.append(one)
        rest = f"LEFT {one.left}" if one.left else f"gone after {one.seconds:.1f} s"
        tell(f"  {number + 1}/{tries} {kind} at {one.delay_s * 1000:.0f} ms ({one.started} processes): {rest}")
    return found


def _spread(number: int, span_s: float) -> float:
    return span_s * ((number * 0.6180339887) % 1.0)


def _kernel_tries(kind: str, tries: int) -> Iterator[Try]:
    """Each death needs a kernel of its own; every fourth strikes its very first launch."""
    for number in range(tries):
        is_warm = number % 4 != 3
        with _scene(is_warm=is_warm) as scene:
            _start(scene, FORK if kind.endswith("fork lives") else "")
            delay_s = _pause(_spread(number, SPAN_S if is_warm else FIRST_SPAN_S))
            if kind == "kernel SIGKILL after an interrupt":
                scene.kernel.interrupt()
                _pause(_spread(number + 1, GRACE_SPAN_S))
            at = time.monotonic()
            if (
                "restart" in kind
            ):  # without now=True as JupyterLab's own button: an interrupt, a request, five seconds, SIGKILL
                scene.kernel._manager.restart_kernel(now=kind == "kernel restart")
                scene.kernel_pid, at = scene.kernel.pid, time.monotonic()
            else:
                os.kill(scene.kernel_pid, signal.SIGSEGV if kind == "kernel SIGSEGV" else signal.SIGKILL)
            scene.is_kernel_dead = True
            yield _judge(scene, kind, delay_s, at=at, was_there=True)
            for pid in scene.forks:
                os.kill(pid, signal.SIGKILL)


def _part_tries(kind: str, tries: int) -> Iterator[Try]:
    """The kernel lives on: a run that does, too (its launcher alone was killed), is interrupted before anything is judged."""
    wanted = kind.removesuffix(" SIGKILL").split(" + ")
    with _scene(is_warm=True) as scene:
        for number in range(tries):
            cell = _start(scene)
            delay_s = _pause(_spread(number, SPAN_S))
            found = _parts(scene.kernel.pid)
            targets = [identity for part in wanted if (identity := found.get(part))]
            at, was_there = time.monotonic(), len(targets) == len(wanted)
            for one in targets:
                one.signal(signal.SIGKILL)
            if not scene.kernel.has_ended(cell, 1.0):  # a run lives on without its launcher, and if none had begun
                at = time.monotonic()
                scene.kernel.interrupt()
            scene.kernel.wait(cell, 60)
            yield _judge(scene, kind, delay_s, at=at, was_there=was_there)
            assert not cell.is_ok, cell.text
            scene.kernel.ok("%%elastic_launch --nproc 2 --render none\n1")


@contextmanager
def _scene(*, is_warm: bool) -> Iterator[Scene]:
    scene = Scene(is_warm=is_warm)
    try:
        yield scene
    finally:
        scene.close()


def _start(scene: Scene, prelude: str = "") -> Cell:
    """Send the cell and wait for its first line; where its prelude forks, for that, too."""
    cell = scene.kernel.start(
        f"{prelude}print('begun', flush=True)\nget_ipython().run_line_magic(*{CELL!r}[1:].split(' ', 1))"
    )
    scene.kernel.wait_for(cell, "begun")
    if prelude:
        fork = scene.folder / "fork"
        scene.forks.add(int(until(lambda: fork.exists() and fork.read_text(), 60)))
    return cell


def _pause(delay_s: float) -> float:
    start = time.monotonic()
    while (passed := time.monotonic() - start) < delay_s:
        time.sleep(min(0.001, delay_s))
    return passed


def _judge(scene: Scene, kind: str, delay_s: float, *, at: float, was_there: bool) -> Try:
    """Look until nothing is left, or LIMIT_S after the death is over."""
    while (found := scene.left()) and time.monotonic() - at < LIMIT_S:
        time.sleep(0.02)
    seconds = time.monotonic() - at
    left = tuple(leaks.describe(one) for one in found)
    started = scene.started()
    if left:
        scene.clean()
    scene.pids.unlink(missing_ok=True)
    return Try(kind, delay_s, was_there, started, seconds, left)


def _parts(kernel: int) -> dict[str, ProcessId]:
    """The launcher, supervisor and forkserver of a kernel as they are now, found from above: titles come late."""
    found: dict[str, ProcessId | None] = {}
    for pid in children(kernel):
        if title(pid).startswith(LAUNCHER) or "nb_elastic.launcher" in title(pid):
            found["launcher"] = ProcessId.of(pid)
        elif "nb_elastic.supervisor" in title(pid) or title(pid).endswith(":supervisor"):
            found["supervisor"] = ProcessId.of(pid)
    launcher = found.get("launcher")
    for pid in children(launcher.pid) if launcher else []:
        inner = children(pid) if title(pid).startswith(LAUNCHER) else [pid]
        for one in inner:
            found.setdefault("supervisor", ProcessId.of(one))
    supervisor = found.get("supervisor")
    servers = children(supervisor.pid) if supervisor else []
    if servers:
        found["forkserver"] = ProcessId.of(servers[0])
    return {part: one for part, one in found.items() if one is not None}


def table(tries: list[Try]) -> str:
    """Kind of death, tries, those that met whom they were meant for, those that left something, and how long all took to be gone."""
    lines = [
        f"{'what died':<38} {'tries':>6} {'met':>5} {'with ranks':>10} {'left after 5 s':>15} {'median s':>9} {'longest s':>10}"
    ]
    for kind in dict.fromkeys(one.kind for one in tries):
        those = [one for one in tries if one.kind == kind]
        took = [one.seconds for one in those]
        lines.append(
            f"{kind:<38} {len(those):>6} {sum(one.was_there for one in those):>5} {sum(one.started > 0 for one in those):>10} {sum(bool(one.left) for one in those):>15}"
            f" {statistics.median(took):>9.1f} {max(took):>10.1f}"
        )
    return "\n".join(lines)


def main(words: list[str]) -> int:
    """``TRIES [KIND ...]``: without a kind, so many of the kernel's SIGKILL and a tenth of each other one."""
    tries = int(words[0]) if words else 200
    plan = dict.fromkeys(words[1:], tries) or {k: tries if k == KINDS[0] else max(1, tries // 10) for k in KINDS}
    found: list[Try] = []
    for kind, count in plan.items():
        found += sweep(kind, count, lambda text: print(text, flush=True))
    print(f"\n{table(found)}\n{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    return 1 if any(one.left for one in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
