"""A real Dask cluster of a scheduler and workers, each a process of its own, on one machine or on pretended ones.

Runs in: the tests and benchmarks.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.cluster_hosts import Host
from tests.support.until import until

ROOT = Path(__file__).parents[2]
QUIET = {
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__GIL__ENABLED": "False",
}


class DaskCluster:
    """A scheduler; workers are added.

    Args:
        folder: where each process writes ``NAME.log``.
        host: address at which the scheduler listens.
        options: of the scheduler and of every worker.
        on: the pretended machine of the scheduler (``cluster_hosts.Host``); this one where None.

    Attributes:
        address: of the scheduler.
        scheduler_file: names it, too.
        processes: by name.
    """

    def __init__(self, folder: Path, *options: str, host: str = "127.0.0.1", on: Host | None = None) -> None:
        self.folder, self.options = folder, options
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.scheduler_file = folder / "scheduler.json"
        self._start(
            "scheduler", on, "scheduler", f"--host={host}", "--port=0", f"--scheduler-file={self.scheduler_file}"
        )
        try:
            until(self.scheduler_file.exists, 60, "a scheduler")
            self.address: str = until(lambda: self._said().get("address"), 60, "its address")
        except AssertionError:
            self.close()
            raise

    def work(self, name: str, host: str, *options: str, on: Host | None = None) -> None:
        """Start a worker of this name, at this address (and on this machine); it has one thread."""
        options = ("--no-nanny", *options) if "--nanny" not in options else options
        self._start(
            name, on, "worker", self.address, f"--host={host}", f"--name={name}", "--nthreads=1", "--memory-limit=0", *options
        )  # fmt: skip

    def wait(self, *names: str) -> None:
        """Wait until these workers have joined."""
        for name in names:
            log = self.folder / f"{name}.log"
            until(lambda log=log: b"Registered to:" in log.read_bytes(), 60, f"Dask worker {name}")

    def end(self, *names: str, is_kill: bool = False) -> None:
        """End processes."""
        for name in names:
            with contextlib.suppress(ProcessLookupError):  # its machine has crashed
                process = self.processes[name]
                process.kill() if is_kill else process.terminate()
        for name in names:
            process = self.processes.pop(name)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()

    def close(self) -> None:
        """End all, the scheduler last."""
        self.end(*(name for name in self.processes if name != "scheduler"))
        self.end("scheduler")

    def _said(self) -> dict[str, str]:
        with contextlib.suppress(ValueError):
            return dict(json.loads(self.scheduler_file.read_text()))
        return {}

    def _start(self, name: str, on: Host | None, role: str, *words: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.dask_{role}", *words, "--no-dashboard", *self.options]
        env = {**QUIET, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
        with (self.folder / f"{name}.log").open("wb") as log:
            if on is not None:
                self.processes[name] = on.popen(*command, env=env, stdout=log, stderr=log)
                return
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, start_new_session=True,
                env={**os.environ, **env},
            )  # fmt: skip


@contextlib.contextmanager
def dask_cluster(folder: Path, *options: str, **more: Any) -> Iterator[DaskCluster]:
    """A cluster that ends with the block."""
    cluster = DaskCluster(folder, *options, **more)
    try:
        yield cluster
    finally:
        cluster.close()
