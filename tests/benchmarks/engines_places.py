"""Where engines are measured: a real cluster of each, on this machine or on pretended ones, with machines that come and crash.

Runs in: the benchmarks. Each begins with one machine for ``elastic``; ``complete`` adds the second one.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nb_elastic import tokens
from nb_elastic.engines import join as join_engine
from nb_elastic.lifeline import ProcessId, stat_fields
from nb_elastic.run import Run
from tests.engines.joiners import joiners
from tests.engines.scenarios import node, told
from tests.support import popen_engine
from tests.support.until import until

ROOT = Path(__file__).parents[2]
LOOPBACK = "127.0.0.1"
SECRET = "a secret of the benchmarks, long enough"


class Missing(Exception):
    """An engine can't be measured here; says why."""


class Place(ABC):
    """One engine's cluster.

    Attributes:
        name: of the engine.
        share_s: what it may take beyond local commands; 0 for nothing that was promised.
        has_noop: it has tasks of its own.
    """

    name = ""
    share_s = 0.0
    has_noop = True

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.folder = Path(
            self.stack.enter_context(tempfile.TemporaryDirectory(prefix="nbp", ignore_cleanup_errors=True))
        )
        self._noop: subprocess.Popen[str] | None = None

    @abstractmethod
    def start(self) -> None:
        """Start a cluster of one machine.

        Raises:
            Missing: if that can't be done here.
        """

    @property
    @abstractmethod
    def elastic(self) -> str:
        """What ``--engine`` says for a run that one machine after the other joins."""

    @abstractmethod
    def add(self) -> None:
        """A second machine is there; returns when the cluster knows it."""

    @abstractmethod
    def crash(self, run: Run) -> None:
        """The machine of the run's second node is gone, and no other is there."""

    @abstractmethod
    def complete(self) -> str:
        """Two machines are there; what ``--engine`` says to have both."""

    def noop(self) -> float:
        """Seconds of the engine's own smallest task on two machines."""
        raise NotImplementedError

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be where the engine can be used."""
        yield

    def close(self) -> None:
        """End all of it."""
        if self._noop is not None:
            self._noop.kill()
            self._noop.wait()
        self.stack.close()

    def _ask(self, *words: str) -> float:
        """Have the process of ``engines_noop`` do it once."""
        if self._noop is None:
            self._noop = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.engines_noop", *words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
            )  # fmt: skip
            assert self._noop.stdout.readline() == "ready\n"
        self._noop.stdin.write("\n")
        self._noop.stdin.flush()
        return float(self._noop.stdout.readline())


class Popen(Place):
    """Commands of this machine: what all others are compared with."""

    name = "popen"

    def start(self) -> None:
        """See base class."""
        self._say(1)

    @property
    def elastic(self) -> str:
        """See base class."""
        return f"popen=folder={self.folder}"

    def add(self) -> None:
        """See base class."""
        self._say(2)

    def crash(self, run: Run) -> None:
        """See base class."""
        self._say(1)
        node(run, 1).signal(9)

    def complete(self) -> str:
        """See base class."""
        return "popen"

    def noop(self) -> float:
        """See base class."""
        began = time.monotonic()
        for process in [subprocess.Popen(["true"]) for _ in range(2)]:
            process.wait()
        return time.monotonic() - began

    def _say(self, machines: int) -> None:
        (self.folder / "nodes").write_text(str(machines))


class Join(Place):
    """This machine, and one on which a person typed a command."""

    name = "join"
    has_noop = False

    def start(self) -> None:
        """See base class."""
        os.environ[join_engine.KEY_VARIABLE] = SECRET
        self.people = self.stack.enter_context(joiners())
        self._port = join_engine._free_port(LOOPBACK)

    @property
    def elastic(self) -> str:
        """See base class."""
        return f"join=address={LOOPBACK},port={self._port}"

    def add(self) -> None:
        """See base class."""
        self._type("--linger", "1")

    def crash(self, run: Run) -> None:
        """See base class."""
        program = node(run, 1)
        parent = ProcessId.of(int(stat_fields(program.pid)[1]))
        assert parent is not None
        parent.signal(9)
        program.signal(9)

    def complete(self) -> str:
        """See base class."""
        self._port = join_engine._free_port(LOOPBACK)
        self._type("--stay")
        return self.elastic

    def _type(self, *words: str) -> None:
        key = join_engine._derived(SECRET)
        self.people(tokens.Token(key=key, addresses=(LOOPBACK,), port=self._port).text, "--wait", "600", *words)


class Slurm(Place):
    """Real daemons on this machine."""

    name = "slurm"
    share_s = 0.3

    def start(self) -> None:
        """See base class."""
        try:
            support: Any = importlib.import_module("tests.support.slurm_cluster")
        except ImportError as e:
            raise Missing(str(e)) from e
        if not support.CAN_RUN:
            raise Missing(support.WHY_NOT)
        self.cluster = self.stack.enter_context(support.slurm_cluster(nodes=2, cpus=4, pairs=("pair",)))
        os.environ.update(SLURM_CONF=str(self.cluster.conf), PATH=self.cluster.env["PATH"])
        self._blocker = self.cluster.allocate("--exclusive", "--partition=pair", nodes=1)

    @property
    def elastic(self) -> str:
        """See base class."""
        return "slurm=partition=pair,exclusive"

    def add(self) -> None:
        """See base class."""
        self.cluster.cancel(self._blocker)

    def crash(self, run: Run) -> None:
        """See base class."""
        self.cluster.crash_node(next(e["place"] for e in told(run, "node_joined") if e.node == 1))

    def complete(self) -> str:
        """See base class."""
        return "slurm=partition=main"

    def noop(self) -> float:
        """See base class."""
        began = time.monotonic()
        subprocess.run(
            ["srun", "--nodes=2", "--ntasks-per-node=1", "--partition=main", "--mpi=none", "true"],
            env=self.cluster.env, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        return time.monotonic() - began


class Dask(Place):
    """A scheduler and two workers."""

    name = "dask"
    share_s = 0.3

    def start(self) -> None:
        """See base class."""
        if importlib.util.find_spec("distributed") is None:
            raise Missing("the package distributed is not installed (extra dask)")
        support: Any = importlib.import_module("tests.support.dask_cluster")
        self.cluster = self.stack.enter_context(support.dask_cluster(self.folder))
        self._work("one", LOOPBACK)

    @property
    def elastic(self) -> str:
        """See base class."""
        return f"dask={self.cluster.address}"

    def add(self) -> None:
        """See base class."""
        self._work("two", "127.0.0.2")

    def crash(self, run: Run) -> None:
        """See base class."""
        self.cluster.end(next(e["place"] for e in told(run, "node_joined") if e.node == 1), is_kill=True)

    def complete(self) -> str:
        """See base class."""
        self._work("three", "127.0.0.3")
        return self.elastic

    def noop(self) -> float:
        """See base class."""
        return self._ask("dask", self.cluster.address, "2")

    def _work(self, name: str, address: str) -> None:
        self.cluster.work(name, address)
        self.cluster.wait(name)


class Ray(Place):
    """A head and nodes on pretended machines, which need root."""

    name = "ray"
    share_s = 0.7

    def start(self) -> None:
        """See base class."""
        if importlib.util.find_spec("ray") is None:
            raise Missing("the package ray is not installed (extra ray)")
        try:
            rays: Any = importlib.import_module("tests.support.ray_cluster")
            self.net = self.stack.enter_context(importlib.import_module("tests.support.cluster_hosts").hosts(3))
        except ImportError as e:
            raise Missing(str(e)) from e
        except pytest.skip.Exception as e:
            raise Missing(str(e)) from e
        self._temp = Path(tempfile.mkdtemp(prefix="nbr"))  # short: sockets lie there
        self.stack.callback(shutil.rmtree, self._temp, ignore_errors=True)
        with self.entered():
            token = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
            self.cluster = rays.RayCluster(self._temp, self.net[0], env=token)

    @property
    def elastic(self) -> str:
        """See base class."""
        return f"ray={self.cluster.address}"

    def add(self) -> None:
        """See base class."""
        self.cluster.start(self.net[1])

    def crash(self, run: Run) -> None:
        """See base class."""
        self.net[1].crash()

    def complete(self) -> str:
        """See base class."""
        self.cluster.start(self.net[2])
        return self.elastic

    def noop(self) -> float:
        """See base class."""
        with self.entered():
            return self._ask("ray", self.cluster.address, "2")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The network of the head."""
        with self.net[0].entered():
            yield


ALL: tuple[type[Place], ...] = (Popen, Join, Slurm, Ray, Dask)


@contextlib.contextmanager
def environment() -> Iterator[None]:
    """Find the engine of local commands, and keep no variable of a cluster."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        del os.environ[name]
    # A token of its own: else Ray takes one that may lie in the user's home, or not.
    rays = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.update(popen_engine.environment(os.environ), **rays)
    sys.path.append(str(popen_engine.DIST))
    try:
        yield
    finally:
        sys.path.remove(str(popen_engine.DIST))
        os.environ.clear()
        os.environ.update(before)


def wait_gone(pids: list[ProcessId], timeout_s: float) -> float:
    """Seconds until none of these is there."""
    began = time.monotonic()
    until(lambda: not any(p.is_alive for p in pids), timeout_s, f"the end of {len(pids)} processes")
    return time.monotonic() - began
