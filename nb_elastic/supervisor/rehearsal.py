"""What a process that waits does beforehand: the steps of a launch on nothing, so that the launch meets them warm.

Runs in: a supervisor or a rank that stands by.

A forked process copies each page that it first writes to, and meets each first call cold: that is half of what a short
launch costs. The rehearsal leaves no file, thread or socket behind, and touches no GPU. It is broken off between two
steps when the launch comes.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import stat
import sys
import tempfile
import types
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from nb_elastic import entry, events, payload, rundir, wire
from nb_elastic.lifeline import ProcessId
from nb_elastic.model import Entrypoint, LaunchSpec, WorkerSpec, from_json, to_json
from nb_elastic.model_options import LaunchOptions
from nb_elastic.rundir import RunDir
from nb_elastic.supervisor.channel import FrameDecoder

_PREFIX = "nb_elastic-"


def play(steps: Iterator[None], sock: socket.socket) -> None:
    """Take step after step until there are no more, or something is to be read from ``sock``. Fails at nothing."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    own = sys.modules["__main__"]
    with contextlib.suppress(Exception), contextlib.closing(steps):  # type: ignore[type-var]
        for _ in steps:
            if poll.poll(0):
                break
    sys.modules["__main__"] = own


def rank() -> Iterator[None]:
    """What a rank does around the user's code: its spec, its files, the payload, a first collective, the result."""
    with _folder() as folder:
        _encode(WorkerSpec(
            run_id="", rank=0, local_rank=0, round=0, attempt=0, entrypoint=Entrypoint(kind="cell", target=""),
            rank_dir=str(folder), env=dict(os.environ), cwd="/",
        ))  # fmt: skip
        yield
        rundir.write_json(
            folder / "worker.json", {"cpus": list(os.sched_getaffinity(0)), "id": str(ProcessId.of(os.getpid()))}
        )
        yield
        packed = payload.dump_function(_one, (), {}, sources={}, labels={})
        payload.write(packed, folder / "payload.pkl")
        payload.write_stub(folder / "main.py", payload=str(folder / "payload.pkl"), buffers_fd=-1)
        main = types.ModuleType("rehearsal")
        payload.dump_result(payload.load(str(folder / "payload.pkl"), -1, main)(), folder / "result.pkl")
        entry.clear(main)
        yield
        _collective()


def supervisor(nproc: int) -> Iterator[None]:
    """What a supervisor does until its ranks start."""
    from nb_elastic.supervisor import placement, rank_env, rendezvous
    from nb_elastic.supervisor.rank_env import Place

    with _folder() as folder:
        run = RunDir(folder)
        options = LaunchOptions(nproc_per_node=nproc)
        launch = LaunchSpec(
            run_id="rehearsal", rdzv_id="rehearsal", run_dir=str(folder), entrypoint=Entrypoint(kind="cell", target=""),
            options=options, env=dict(os.environ), cwd="/",
        )  # fmt: skip
        _encode(launch)
        yield
        placed = placement.place(launch, note=lambda _: None)
        yield
        bundle = rendezvous.make_handler(options, rdzv_id="rehearsal", key=b"", nproc=nproc, note=lambda _: None)
        info = bundle.handler.next_rendezvous()
        info.store.set("rehearsal", "1")
        del info
        bundle.handler.shutdown()
        for number in range(min(nproc, 4)):
            yield
            place = Place(
                rank=number, local_rank=number, role_rank=number, world_size=nproc, role_world_size=nproc, local_world_size=nproc,
                group_rank=0, group_world_size=1, master_addr="", master_port=0, restart_count=0, uses_agent_store=True,
            )  # fmt: skip
            env = rank_env.build(
                launch, place, folder=run.rank(0, number), defaults=bundle.env, cpus=1, cuda_visible=None
            )
            _encode(rank_env.worker_spec(
                launch, placed, rank=number, local_rank=number, round_number=0, attempt=0, argv=(), env=env,
                folder=run.rank(0, number), stdout="", stderr="", is_exec=False,
            ))  # fmt: skip
        journal = rundir.Journal(run.journal)
        journal.append(events.make("mark", name="rehearsal"))
        journal.close()


def _collective() -> None:
    """An all-reduce of one rank with itself, over nothing but memory and the loopback interface."""
    import torch
    from torch import distributed as dist

    before = os.environ.get("GLOO_SOCKET_IFNAME")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        group: Any = dist.ProcessGroupGloo(dist.HashStore(), 0, 1, timeout=timedelta(seconds=10))  # type: ignore[attr-defined]
        group.allreduce([torch.ones(1) * 0]).wait()
        del group
    finally:
        if before is None:
            del os.environ["GLOO_SOCKET_IFNAME"]
        else:
            os.environ["GLOO_SOCKET_IFNAME"] = before


def _one() -> int:
    return 1


def _encode(spec: LaunchSpec | WorkerSpec) -> None:
    """There and back over a socket."""
    decoder = FrameDecoder()
    for message in decoder.feed(wire.encode(to_json(spec))):
        from_json(type(spec), message)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder for a while. One whose process was killed meanwhile is removed by whoever rehearses next."""
    place = _place()
    _remove_stale(place)
    identity = ProcessId.of(os.getpid()) or ProcessId(os.getpid(), 0)
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{identity.pid}-{identity.start_ticks}-", dir=place)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _place() -> Path:
    """Where temporary files lie. ``tempfile`` would try that out with a file, which a kill in that moment leaves behind."""
    named = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    found = next((n for n in [*named, "/tmp"] if n and os.access(n, os.W_OK | os.X_OK)), None)  # noqa: S108  the system's own
    return Path(found or tempfile.gettempdir())


def _remove_stale(parent: Path) -> None:
    """Remove this user's folders of processes that are gone."""
    for path in parent.glob(f"{_PREFIX}*-*-*"):
        pid, ticks = path.name.removeprefix(_PREFIX).split("-")[:2]
        if not (pid.isdecimal() and ticks.isdecimal()) or ProcessId(int(pid), int(ticks)).is_alive:
            continue
        with contextlib.suppress(OSError):
            info = path.lstat()
            if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid():
                shutil.rmtree(path, ignore_errors=True)
