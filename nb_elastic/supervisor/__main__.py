"""``python -m nb_elastic.supervisor``: reads the launch, warms up, forks the forkserver, runs.

Runs in: the supervisor.
"""

from __future__ import annotations

import gc
import importlib
import io
import os
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING, NoReturn

from nb_elastic import lifeline, wire
from nb_elastic.events import make
from nb_elastic.model import LaunchSpec, from_json
from nb_elastic.supervisor.vigil import Vigil, say

if TYPE_CHECKING:
    from nb_elastic.supervisor.supervisor import Ground

START_ONLY = (
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "PYTHONHASHSEED",
    "PYTHONOPTIMIZE",
    "PYTHONDEVMODE",
    "PYTHONMALLOC",
    "TORCH_LOGS",
)
"""Variables that act only when a process starts: where ``--env`` changes one, ranks are started anew."""


def main() -> int:
    """Run the supervisor; returns its exit code."""
    # Until somebody can heed them: an early stop is neither lost nor half a start.
    signal.pthread_sigmask(signal.SIG_BLOCK, lifeline.DEATH_SIGNALS)
    gc.disable()  # until the imports are done and frozen: there is little garbage, and looking for it takes a while
    lifeline.become_subreaper()
    frame = wire.read(io.FileIO(0, "r", closefd=False))  # unbuffered: the next frames stay in the pipe
    if frame is None:
        return 3
    started_at = time.monotonic()
    spec = from_json(LaunchSpec, frame[0]["spec"])
    vigil = Vigil(spec, started_at=started_at)
    try:
        with vigil:
            from nb_elastic.supervisor import supervisor
            from nb_elastic.worker import set_title

            set_title(f"nb_elastic:{spec.run_id}:supervisor")
            notes = _import_all(spec)
        ground = _fork_server(spec, vigil, started_at, notes)
        return supervisor.run(spec, ground)
    except Exception as e:  # noqa: BLE001  the border of the process: the run's folder must tell why nothing runs
        traceback.print_exc()
        _last_words(spec, f"The supervisor failed: {type(e).__name__}: {e}")
        return 3


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


def _fork_server(spec: LaunchSpec, vigil: Vigil, started_at: float, notes: list[tuple[str, str]]) -> Ground:
    """Start the forkserver, before there is any thread."""
    from nb_elastic.supervisor.crew import ForkServer
    from nb_elastic.supervisor.supervisor import Ground

    reason = _why_not_fork(spec)
    if reason and spec.options.start_method != "spawn":
        notes.append(("warning", f"Ranks are started with spawn instead of {spec.options.start_method}: {reason}."))
    fds = (spec.buffers_fd,) if spec.buffers_fd >= 0 else ()
    return Ground(
        server=ForkServer(can_fork=not reason, title=f"nb_elastic:{spec.run_id}:forkserver", pass_fds=fds),
        can_fork=not reason,
        decoder=vigil.decoder,
        started_at=started_at,
        notes=tuple(notes),
    )


def _why_not_fork(spec: LaunchSpec) -> str:
    """Why ranks can't be forked from this process's state; "" if they can."""
    import torch

    if sys.platform != "linux":
        return "forking is safe on Linux only"
    is_initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if is_initialized or _has_uvm():
        return "CUDA was initialised by an import"
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        return f"imports left {threads} threads"
    if changed := [n for n in START_ONLY if {**spec.env, **spec.options.env}.get(n) != os.environ.get(n)]:
        return f"{', '.join(changed)} act only when a process starts"
    return ""


def _has_uvm() -> bool:
    """True if this process opened the device that every CUDA context needs; NVML does not open it."""
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("/dev/nvidia-uvm"):
                return True
        except OSError:
            continue
    return False


def _last_words(spec: LaunchSpec, text: str) -> None:
    say(spec, make("run_finished", node=spec.node, state="failed", root_rank=None, text=text))


def _exit() -> NoReturn:
    code = main()
    sys.stderr.flush()
    os._exit(code)  # torch's teardown takes longer than the run's end should


if __name__ == "__main__":
    _exit()
