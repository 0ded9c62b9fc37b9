"""The faults: what each does, at its moment, to a run; every act is written down as a deed.

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
from dataclasses import replace

from nb_elastic import killing, lifeline
from nb_elastic.lifeline import ProcessId
from tests.chaos.scene import Deed, Fault, Scene
from tests.support import proc

_TRACEBACK = re.compile(r'^  File ".*[/]nb_elastic[/]', re.MULTILINE)
"""A line of a traceback of our own; in those of ranks there are none."""

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
    do(scene, fault)
    if fault.again_s >= 0 and (again := AGAIN.get(fault.kind)):
        end = time.monotonic() + fault.again_s
        while (left := end - time.monotonic()) > 0 and not is_ended():
            time.sleep(min(left, 0.02))
        if not is_ended() or fault.kind != "interrupt":
            do(scene, fault, again)


def do(scene: Scene, fault: Fault, act: Act | None = None) -> None:
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
    # Whoever kills Python's tracker of shared memory takes away who frees the rank's: nobody else knows whose a block is.
    below = [pid for pid in lifeline.descendants(found[0].pid) if not killing.cleans_up(pid)] if found else []
    child = ProcessId.of(random.Random(fault.after_s).choice(below)) if below else None
    return _signal(child, fault.number, f"a child of rank {fault.rank}")


def _supervisor(scene: Scene, fault: Fault) -> tuple[bool, str]:
    if fault.number == signal.SIGSTOP:  # where its kernel dies, too, nobody is left to wake it: that is for `reap`
        scene.took_back.append(lambda: _supervisor_goes_on(scene, fault))
    return _signal(scene.supervisor(), fault.number, "the supervisor")


def _supervisor_goes_on(scene: Scene, fault: Fault) -> tuple[bool, str]:
    return _supervisor(scene, replace(fault, number=signal.SIGCONT))


def _forkserver(scene: Scene, fault: Fault) -> tuple[bool, str]:
    supervisor = scene.supervisor()
    below = lifeline.descendants(supervisor.pid) if supervisor else []
    found = next((ProcessId.of(p) for p in below if proc.role(p) == "forkserver"), None)
    return _signal(found, fault.number, "the forkserver")


def _forkserver_goes_on(scene: Scene, fault: Fault) -> tuple[bool, str]:
    return _forkserver(scene, replace(fault, number=signal.SIGCONT))


def _launcher_goes_on(scene: Scene, fault: Fault) -> tuple[bool, str]:
    return _launcher(scene, replace(fault, number=signal.SIGCONT))


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


def _stacks(scene: Scene, fault: Fault) -> tuple[bool, str]:
    """``nb-elastic stacks`` from a process of its own: a look, which must not harm whom it looks at."""
    if scene.folder is None:
        return False, "stacks: there is no run yet"
    done = scene.world.command("stacks", scene.folder.run_id)
    if _TRACEBACK.search(done.stderr):
        scene.trouble.append(f"`nb-elastic stacks` ended with a traceback:\n{done.stderr[-1500:]}")
    return True, f"nb-elastic stacks: {done.returncode}"


def _attach(scene: Scene, fault: Fault) -> tuple[bool, str]:
    """``nb-elastic attach`` in a process of its own, which ends with the run."""
    if scene.folder is None:
        return False, "attach: there is no run yet"
    process = subprocess.Popen(
        [sys.executable, "-m", "nb_elastic", "attach", scene.folder.run_id],
        env=scene.world.environ, cwd=scene.world.work, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    scene.took_back.append(lambda: _end_attach(scene, process))
    return True, f"nb-elastic attach (pid {process.pid})"


def _end_attach(scene: Scene, process: subprocess.Popen[str]) -> None:
    try:
        _, told = process.communicate(timeout=15 * scene.world.pace)
    except subprocess.TimeoutExpired:
        scene.trouble.append("`nb-elastic attach` does not end with the run")
        process.kill()
        _, told = process.communicate()
    if _TRACEBACK.search(told):
        scene.trouble.append(f"`nb-elastic attach` ended with a traceback:\n{told[-1500:]}")


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
    "forkserver stops": _forkserver,
    "launcher": _launcher,
    "launcher stops": _launcher,
    "standby": _standby,
    "starter": _starter,
    "starter stops": _starter,
    "interrupt": interrupt,
    "stop": stop,
    "stacks": _stacks,
    "attach": _attach,
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
    "forkserver stops": _forkserver_goes_on,
    "launcher stops": _launcher_goes_on,
    "starter stops": _starter_goes_on,
    "interrupt": interrupt,
    "disk": _free,
    "slow": _quick,
}
