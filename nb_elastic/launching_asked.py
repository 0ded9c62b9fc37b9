"""What a launch asks of its supervisor, and what is written down of it: the spec, the first event, run.json.

Runs in: the kernel or the command line.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import sys
import time
from importlib import metadata
from pathlib import Path

from nb_elastic import ambient, debugging, events, installed, machine, rundir, seals, topology
from nb_elastic.errors import OptionError
from nb_elastic.lifeline import ProcessId
from nb_elastic.model import LaunchSpec, to_json
from nb_elastic.request import Request

_BREAKPOINT = re.compile(r"\b(breakpoint|set_trace)\s*\(")


def working_folder() -> str:
    """Where the ranks start.

    Raises:
        OptionError: if it is gone.
    """
    try:
        return str(Path.cwd())
    except OSError as e:
        raise OptionError(
            f"The working folder is gone ({e.strerror or e}), and the ranks would start there. "
            "Change to another, with %cd say. Nothing was started."
        ) from e


def spec_of(folder: rundir.RunDir, request: Request, cwd: str, buffers_fd: int) -> LaunchSpec:
    """All that a supervisor needs to know of this launch, and of the notebook around it."""
    options = request.options
    own = ProcessId.of(os.getpid())
    return LaunchSpec(
        run_id=folder.run_id,
        rdzv_id=options.rdzv_id or folder.run_id,
        run_dir=str(folder.path),
        entrypoint=request.entrypoint,
        options=options,
        env={**os.environ, **options.env},
        cwd=cwd,
        sys_path=tuple(str(Path(p).absolute()) for p in sys.path),
        umask=_umask(),
        payload=str(folder.payload) if request.payload is not None else "",
        buffers_fd=buffers_fd,
        key_hex=seals.key_of(folder.path).hex(),
        is_detached=options.detach,
        rlimits=ambient.rlimits(),
        niceness=ambient.niceness(),
        affinity=ambient.affinity(),
        on_breakpoint="wait" if options.detach else "ask" if debugging.can_ask() else "pass",
        is_patient=bool(_BREAKPOINT.search(request.cell)),
        machine=machine.here(),
        owner_pid=own.pid if own else 0,
        owner_start_ticks=own.start_ticks if own else 0,
    )


def created(request: Request, spec: LaunchSpec, nproc: int | str) -> events.Event:
    """The first event of the journal."""
    options = request.options
    return events.make(
        "run_created",
        run_id=spec.run_id,
        rdzv_id=spec.rdzv_id,
        name=options.name or "",
        nproc=nproc,
        min_nodes=options.min_nodes,
        max_nodes=options.max_nodes,
        max_restarts=options.max_restarts,
        entry=f"{request.entrypoint.kind} {request.entrypoint.target}".strip(),
        is_detached=options.detach,
        boot_id=machine.boot_id(),
    )


def write_run_json(folder: rundir.RunDir, request: Request, spec: LaunchSpec, found: topology.Topology) -> None:
    """Write down what was asked, and on what machine."""
    packed, known = request.payload, request.sources
    used = {} if known is None else {label: known.texts[file] for file, label in known.labels.items()}
    rundir.write_json(
        folder.run_json,
        {
            "run_id": spec.run_id,
            "rdzv_id": spec.rdzv_id,
            "name": request.options.name or "",
            "created_ns": time.time_ns(),
            "entry": to_json(request.entrypoint),
            "options": to_json(request.options),
            "cell": request.cell,
            "cell_offset": request.cell_offset,
            "sources": used,
            "captured": [to_json(c) for c in packed.captured] if packed is not None else [],
            "payload_bytes": packed.size_bytes if packed is not None else 0,
            "host": platform.node(),
            "cwd": spec.cwd,
            "python": platform.python_version(),
            "versions": {
                name: _version(name, installed.stamp()) for name in ("torch", "nb-elastic", "ipykernel", "numpy")
            },
            "topology": topology.to_json(found),
        },
    )


@functools.lru_cache(maxsize=16)
def _version(name: str, _stamp: object) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _umask() -> int:
    with (
        contextlib.suppress(OSError, StopIteration, ValueError),
        open("/proc/self/status", encoding="ascii", errors="replace") as status,
    ):
        return int(next(line for line in status if line.startswith("Umask:")).split()[1], 8)
    current = os.umask(0o077)
    os.umask(current)
    return current
