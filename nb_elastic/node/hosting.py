"""One node's share of a run: an ordinary supervisor of this machine, started for a driver elsewhere, and seen to its end.

Runs in: the node program. The supervisor is started as a kernel would, through the warm launcher where there is one.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nb_elastic import binding, events, machine, reap, rundir, seals
from nb_elastic.engines.local import LocalEngine
from nb_elastic.engines.seat import Channel, Seat
from nb_elastic.engines.warm import LAUNCHER_ENV
from nb_elastic.errors import ElasticError
from nb_elastic.lifeline import ProcessId
from nb_elastic.model import LaunchSpec, from_json, to_json
from nb_elastic.model_options import LaunchOptions
from nb_elastic.node import about, folder
from nb_elastic.node.shipping import Shipment
from nb_elastic.rundir import RankDir, RunDir

CODES = {"succeeded": 0, "failed": 1, "stopped": 2, "lost": 3}
"""Exit codes that a supervisor has for the same."""
BUFFERS = "buffers.bin"
LEAVE_S = 10.0
GONE_S = 5.0
TAIL_BYTES = 4_000


class Hosted:
    """A run of this node, in a thread of its own.

    Args:
        home: where what the run needs lies already.
        frame: the driver's ``run``.
        shipment: is told what happens.
    """

    def __init__(self, home: RunDir, frame: Mapping[str, Any], shipment: Shipment) -> None:
        self.run_id = home.run_id
        self.home = home
        self._frame = frame
        self._shipment = shipment
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._stop: Mapping[str, Any] | None = None
        self._outcome: dict[str, Any] = {}
        self._has_spoken = False
        self._thread = threading.Thread(target=self._run, name="nb_elastic-node-run", daemon=True)

    def rank(self, round_number: int, local_rank: int) -> RankDir:
        """Folder of a rank of this node."""
        return self.home.rank(round_number, local_rank, node=int(self._frame["node"]))

    def start(self) -> None:
        """Start the supervisor; returns at once."""
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """True when its supervisor is gone."""
        return not self._thread.is_alive()

    def stop(self, by: str, grace_s: float) -> None:
        """Stop it; before its supervisor has the launch, right after that."""
        message = {"type": "stop", "by": by, "grace_s": grace_s}
        with self._lock:
            self._stop, channel = message, self._channel
        if channel is not None:
            channel.send(message)

    def end(self, by: str, grace_s: float) -> bool:
        """Stop it for good; False if it has not begun, so that nothing would heed that."""
        if self._has_spoken:
            self.stop(by, grace_s)
        return self._has_spoken

    def wait(self, timeout_s: float) -> bool:
        """Wait for the supervisor's end; False if it did not come in time."""
        self._thread.join(timeout_s)
        return self.is_over

    # -- in the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        channel: Channel | None = None
        try:
            channel = self._begin()
            for line in channel.lines():
                self._hear(line)
        except (ElasticError, OSError, KeyError, TypeError, ValueError) as e:
            why = str(e) if isinstance(e, (ElasticError, OSError)) else f"The launch can't be read: {e!r}"
            self._outcome = self._outcome or {"state": "failed", "text": why, "code": 3}
        finally:
            if not self._outcome:
                self._outcome = self._loss(channel)
            self._shipment.finish(self._outcome)
            if channel is not None:
                channel.close(LEAVE_S)
                _until_gone(channel, LEAVE_S)
            if self._shipment.wait(None):
                seals.forget(self.home.path)
                folder.remove(self.home.path)

    def _begin(self) -> Channel:
        spec = spec_here(self._frame, self.home)
        seals.know(self.home.path, bytes.fromhex(spec.key_hex))
        buffers = self.home.path / BUFFERS
        fd = os.open(buffers, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW) if buffers.exists() else -1
        env = {**os.environ, **LAUNCHER_ENV}
        rundir.Journal(self.home.journal).close()
        seat = Seat(
            log=self.home.supervisor_log,
            pass_fds=(fd,) if fd >= 0 else (),
            env=env,
            nproc=_nproc(spec.options, spec.env),
            rank_env=spec.env,
        )
        try:
            channel = LocalEngine().open(seat)
        except BaseException:
            if fd >= 0:
                os.close(fd)
            raise
        try:
            channel.send({"type": "launch", "spec": to_json(replace(spec, buffers_fd=fd)), "env": env})
        except BaseException:
            channel.close()
            raise
        with self._lock:
            self._channel, early = channel, self._stop
        if early is not None:
            channel.send(early)
        return channel

    def _hear(self, line: bytes) -> None:
        self._has_spoken = True
        event = events.decode(line)
        if event is None:
            return
        if event.kind != "run_finished":
            self._shipment.add_event(line)
            return
        told = {key: event.get(key) for key in ("state", "text", "category", "reasons", "root_rank")}
        self._outcome = {**told, "code": CODES.get(str(told["state"]), 3)}
        self._shipment.finish(self._outcome)

    def _loss(self, channel: Channel | None) -> dict[str, Any]:
        """The supervisor ended without a word: end what it left, and tell how its log ends."""
        if channel is not None:
            _until_gone(channel, GONE_S)
        with contextlib.suppress(OSError):
            reap.end_left(self.home)
        tail = rundir.read_tail(self.home.supervisor_log, TAIL_BYTES).decode("utf-8", "replace").strip()
        text = "The supervisor of this node ended without a word: it was killed, or crashed."
        return {"state": "lost", "text": f"{text}\nIts log ends:\n{tail}" if tail else text, "code": CODES["lost"]}


def _until_gone(channel: Channel, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while channel.is_alive and time.monotonic() < deadline:
        time.sleep(0.005)


def spec_here(frame: Mapping[str, Any], home: RunDir) -> LaunchSpec:
    """The driver's launch as it fits this node: its folders, its environment, its own limits and priority.

    Raises:
        KeyError, TypeError, ValueError: if it can't be read.
    """
    given = from_json(LaunchSpec, frame["spec"])
    own = ProcessId.of(os.getpid())
    env = {**os.environ, **{str(k): str(v) for k, v in frame.get("env", {}).items()}, **given.options.env}
    options = replace(
        given.options,
        nnodes=f"{int(frame['min_nodes'])}:{int(frame['max_nodes'])}",
        rdzv_backend="",
        rdzv_endpoint=str(frame["endpoint"]),
        rdzv_conf={**given.options.rdzv_conf, "is_host": "0"},
        local_addr=str(frame["address"]) or None,
        log_dir=None,
        detach=False,
        standalone=False,
        master_addr="",
        master_port=None,
    )
    return replace(
        given,
        run_dir=str(home.path),
        options=options,
        env=env,
        cwd=given.cwd if _is_folder(given.cwd) else str(Path.home()) if _is_folder(Path.home()) else "/",
        sys_path=_sys_path(given.sys_path),
        umask=_umask(),
        payload=str(home.payload) if given.payload else "",
        buffers_fd=-1,
        key_hex=str(frame["key_hex"]),
        is_detached=False,
        node=int(frame["node"]),
        rlimits={},
        niceness=None,
        affinity=(),
        machine=machine.here(),
        owner_pid=own.pid if own else 0,
        owner_start_ticks=own.start_ticks if own else 0,
        driven_by="driver",
    )


def _nproc(options: LaunchOptions, env: Mapping[str, str]) -> int:
    """Ranks of this node; what is wrong with that, the supervisor says."""
    with contextlib.suppress(ElasticError, OSError):
        return len(binding.for_node(options, environ=env, topology=about.here()).cpus)
    return 1


def _sys_path(given: tuple[str, ...]) -> tuple[str, ...]:
    """The driver's entries that are here, then this node's own: its Python may lie elsewhere."""
    there = [path for path in given if path and Path(path).exists()]
    return (*there, *(str(Path(p).absolute()) for p in sys.path if str(Path(p).absolute()) not in there))


def _is_folder(path: str | Path) -> bool:
    return bool(path) and os.path.isdir(path) and os.access(path, os.X_OK)


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current
