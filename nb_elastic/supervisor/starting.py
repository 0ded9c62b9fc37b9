"""From the launch frame on stdin to the run's end: imports what is missing, has a forkserver, runs.

Runs in: the supervisor, started by itself or forked from the launcher.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nb_elastic import ambient, birth, installed, seals, steady, wire
from nb_elastic.events import make
from nb_elastic.model import LaunchSpec, from_json
from nb_elastic.supervisor import run_verdict
from nb_elastic.supervisor.vigil import Vigil, say

if TYPE_CHECKING:
    from nb_elastic.supervisor.crew import ForkServer

JOINED_S = 0.05
NOT_STARTED = 3
"""Exit code of a supervisor that never ran anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmth:
    """What a supervisor has that was forked from the launcher.

    Attributes:
        server: a forkserver that stands by.
        buffers_fd: the payload's buffers in this process, or -1.
        born: the environment that the launcher's interpreter started with.
    """

    server: ForkServer
    buffers_fd: int
    born: Mapping[str, str]


def serve(warmth: Warmth | None = None) -> int:
    """Read the launch and run it; returns the supervisor's exit code."""
    frame = wire.read(io.FileIO(0, "r", closefd=False))  # unbuffered: the next frames stay in the pipe
    if frame is None:
        return NOT_STARTED
    steady.anchor()
    started_at, received_ns = time.monotonic(), time.time_ns()
    spec, born = from_json(LaunchSpec, frame[0]["spec"]), warmth.born if warmth else dict(os.environ)
    if spec.key_hex:
        seals.know(Path(spec.run_dir), bytes.fromhex(spec.key_hex))
    if warmth is not None:
        # What an import set in the environment, it would have set in the rank, too.
        left = {name: value for name, value in os.environ.items() if born.get(name) != value}
        spec = replace(spec, buffers_fd=warmth.buffers_fd, env={**left, **spec.env})
        os.environ.clear()
        os.environ.update(frame[0]["env"])
        ambient.take_rlimits(spec.rlimits)
        ambient.take_niceness(spec.niceness)
        ambient.take_affinity(spec.affinity)
        os.chdir(spec.run_dir)
    ambient.write_freely()
    vigil = Vigil(spec, started_at=started_at)
    try:
        with vigil:
            from nb_elastic.supervisor import supervisor
            from nb_elastic.worker import set_title

            set_title(f"nb_elastic:{spec.run_id}:supervisor")
            has_more = any(name not in sys.modules for name in spec.options.preload)
            notes = _import_all(spec)
        reason = why_not_fork({**frame[0]["spec"]["env"], **spec.options.env}, born)
        if reason and spec.options.start_method != "spawn":
            notes.append(("warning", f"Ranks are started with spawn instead of {spec.options.start_method}: {reason}."))
        server = _server(spec, warmth, can_fork=not reason, has_more=has_more)
        ground = supervisor.Ground(
            server=server,
            can_fork=not reason,
            decoder=vigil.decoder,
            started_at=started_at,
            received_ns=received_ns,
            notes=tuple(notes),
        )
        return supervisor.run(spec, ground)
    except Exception as e:  # noqa: BLE001  the border of the process: the run's folder must tell why nothing runs
        traceback.print_exc()
        text = f"The supervisor failed: {type(e).__name__}: {e}"
        told = run_verdict.of_error(e)
        more: dict[str, Any] = {"category": told.category, "reasons": list(told.reasons)}
        say(spec, make("run_finished", node=spec.node, state="failed", root_rank=None, text=text, **more))
        return NOT_STARTED


def import_own() -> None:
    """Import what every supervisor and every rank of a cell needs."""
    own = ("nb_elastic.supervisor.supervisor", "nb_elastic.supervisor.rendezvous", "nb_elastic.payload")
    for name in (*own, "encodings.idna"):  # the last one for the first socket that is connected by a name
        importlib.import_module(name)


def _import_all(spec: LaunchSpec) -> list[tuple[str, str]]:
    """Import what ranks need; returns what to tell the user, as (level, text)."""
    notes: list[tuple[str, str]] = []
    if spec.sys_path:
        sys.path[:] = spec.sys_path
    importlib.import_module("nb_elastic.payload")  # every rank of a cell needs it
    for name in spec.options.preload:
        try:
            importlib.import_module(name)
        except Exception as e:  # noqa: BLE001  a user's module may raise anything
            notes.append(("warning", f"--preload {name} failed ({type(e).__name__}: {e}); ranks import it themselves."))
    return notes


def _server(spec: LaunchSpec, warmth: Warmth | None, *, can_fork: bool, has_more: bool) -> ForkServer:
    """The forkserver that stands by, where it fits; else one that is started now, before there is any thread."""
    from nb_elastic.supervisor.crew import ForkServer, ForkServerLostError

    title = f"nb_elastic:{spec.run_id}:forkserver"
    if warmth is not None:
        if can_fork and not has_more:
            with contextlib.suppress(ForkServerLostError):  # it was killed while it waited: another one is forked
                warmth.server.adopt(title=title, buffers_fd=spec.buffers_fd)
                return warmth.server
        warmth.server.close()
    fds = (spec.buffers_fd,) if spec.buffers_fd >= 0 else ()
    return ForkServer(can_fork=can_fork, title=title, pass_fds=fds)


def why_not_fork(env: Mapping[str, str], born: Mapping[str, str]) -> str:
    """Why ranks can't be forked from this process's state; "" if they can.

    Args:
        env: of the ranks.
        born: the environment this process's interpreter started with.
    """
    import torch

    if sys.platform != "linux":
        return "forking is safe on Linux only"
    is_initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if is_initialized or _has_uvm():
        return "CUDA was initialised by an import"
    if (threads := _threads()) > 1:
        return f"imports left {threads} threads"
    if changed := sorted(filter(birth.is_early, birth.changed(born, env))):
        return f"{', '.join(changed)} act only when a process starts"
    if own := installed.shadowed():
        return f"{own} hides an installed package"
    return ""


def _threads() -> int:
    """How many threads there are; one that was just joined may take a moment to leave the system's list."""
    deadline = time.monotonic() + JOINED_S
    while (count := len(os.listdir("/proc/self/task"))) > 1 and time.monotonic() < deadline:
        time.sleep(0.002)
    return count


def _has_uvm() -> bool:
    """True if this process opened the device that every CUDA context needs; NVML does not open it."""
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("/dev/nvidia-uvm"):
                return True
        except OSError:
            continue
    return False
