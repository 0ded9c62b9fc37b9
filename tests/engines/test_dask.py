"""Real Dask clusters: the contract of every engine, and what is Dask's own.

A user would lose: PBS, LSF, SGE, Kubernetes and SSH, which all come through a Dask cluster.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.contract import Contract
from tests.engines.opened import Place
from tests.support.until import until

pytest.importorskip("distributed", reason="needs the extra dask")

ROOT = Path(__file__).parents[2]


class Cluster:
    """A scheduler, and workers that are processes of their own.

    Attributes:
        address: of the scheduler.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.start(
            "scheduler",
            "scheduler",
            "--host=127.0.0.1",
            "--port=0",
            "--no-dashboard",
            f"--scheduler-file={folder}/scheduler.json",
        )
        until((folder / "scheduler.json").exists, 60, "a scheduler")
        import json

        self.address = json.loads((folder / "scheduler.json").read_text())["address"]

    def start(self, name: str, *command: str, prefix: tuple[str, ...] = ()) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*prefix, sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:], *self.options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"},
            )  # fmt: skip

    def work(self, name: str, host: str, *options: str) -> None:
        """Start a worker."""
        self.start(
            name, "worker", self.address, f"--host={host}", f"--name={name}", "--no-dashboard", "--nthreads=1", *options
        )

    def wait(self, *names: str) -> None:
        """Wait until these workers have joined."""
        for name in names:
            log = self.folder / f"{name}.log"
            until(lambda log=log: b"Registered to:" in log.read_bytes(), 60, f"worker {name}")

    def close(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    it = Cluster(tmp_path_factory.mktemp("dask"))
    try:
        it.work("one", "127.0.0.1", "--nanny")
        it.work("two", "127.0.0.2", "--no-nanny")
        it.wait("one", "two")
        yield it
    finally:
        it.close()


class TestDask(Contract):
    @pytest.fixture
    def place(self, cluster):
        return Place(name="dask", settings=cluster.address, names=("one", "two"))
