"""A real Dask cluster of a scheduler and workers, each a process of its own, on one machine or on pretended ones.

Runs in: the tests and benchmarks.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

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
        prefix: words before the scheduler's command, which start it elsewhere.

    Attributes:
        address: of the scheduler.
        scheduler_file: names it, too.
        processes: by name.
    """

    def __init__(
        self, folder: Path, *options: str, host: str = "127.0.0.1", prefix: Sequence[str] = (), protocol: str = "tcp"
    ) -> None:
        self.folder, self.options = folder, (*options, f"--protocol={protocol}")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.scheduler_file = folder / "scheduler.json"
        self._start(
            "scheduler", prefix, "scheduler", f"--host={host}", "--port=0", f"--scheduler-file={self.scheduler_file}"
        )
        try:
            until(self.scheduler_file.exists, 60, "a scheduler")
            self.address: str = until(lambda: self._said().get("address"), 10, "its address")
        except AssertionError:
            self.close()
            raise

    def work(self, name: str, host: str, *options: str, prefix: Sequence[str] = ()) -> None:
        """Start a worker of this name, at this address; it has one thread."""
        options = ("--no-nanny", *options) if "--nanny" not in options else options
        self._start(
            name, prefix, "worker", self.address, f"--host={host}", f"--name={name}", "--nthreads=1", "--memory-limit=0", *options
        )  # fmt: skip

    def wait(self, *names: str) -> None:
        """Wait until these workers have joined."""
        for name in names:
            log = self.folder / f"{name}.log"
            until(lambda log=log: b"Registered to:" in log.read_bytes(), 60, f"Dask worker {name}")

    def end(self, *names: str, is_kill: bool = False) -> None:
        """End processes."""
        for name in names:
            process = self.processes[name]
            process.kill() if is_kill else process.terminate()
        for name in names:
            process = self.processes.pop(name)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
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

    def _start(self, name: str, prefix: Sequence[str], role: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*prefix, sys.executable, "-m", f"distributed.cli.dask_{role}", *words, "--no-dashboard", *self.options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, start_new_session=True,
                env={**os.environ, **QUIET, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
            )  # fmt: skip


@contextlib.contextmanager
def dask_cluster(folder: Path, *options: str, **more: str) -> Iterator[DaskCluster]:
    """A cluster that ends with the block."""
    cluster = DaskCluster(folder, *options, **more)
    try:
        yield cluster
    finally:
        cluster.close()
