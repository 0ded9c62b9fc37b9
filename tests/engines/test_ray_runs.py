"""Whole runs on a real Ray cluster of pretended machines: every scenario of runs on several nodes, and odd networks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nb_elastic.engines.ray import OPEN_TO_ALL
from nb_elastic.run import Run
from tests.engines.host_scenarios import HostScenarios, typed
from tests.engines.opened import Place
from tests.engines.scenarios import Scenarios, told
from tests.support.cluster_hosts import Host, hosts
from tests.support.ray_cluster import RayCluster

pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = pytest.mark.slow

LARGE = 16
"""CPUs of the machines on which runs grow and shrink; the head has half of it."""


def test_a_cluster_lets_in_who_has_its_token(tmp_path: Path):
    folder = Path(tempfile.mkdtemp(prefix="nbr"))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    with hosts(2) as net:
        cluster = RayCluster(folder, net[0], env=token)
        cluster.start(net[1])
        words = ("--nnodes", "2", "--nproc", "1", "--engine", f"ray={cluster.address}")
        asked = (net[0], tmp_path, *words, "tests.programs.on_many_nodes:add_up")
        own = {"HOME": str(tmp_path), "RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN": ""}
        for env, told in (
            (
                own,
                "it wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, for the kernel.",
            ),
            ({**token, "RAY_AUTH_TOKEN": "b" * 64}, "it wants another token than the kernel's: see RAY_AUTH_TOKEN,"),
        ):
            code, out = typed(*asked, env={**own, **env})
            assert code == 1, out
            assert f"failed: The Ray cluster at {cluster.address} can't be joined: {told}" in out, out
        code, out = typed(*asked, env={**own, **token})
        assert code == 0, out
        assert OPEN_TO_ALL not in out
    shutil.rmtree(folder, ignore_errors=True)


class TestRayRuns(Scenarios, HostScenarios):
    """Scenarios over a head and a large machine; others come and go."""

    machines: list[Host]
    cluster: RayCluster

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls) -> Iterator[Place]:
        """Two machines with room for several runs; this process is on the first, as a notebook on the head."""
        folder = Path(tempfile.mkdtemp(prefix="nbr"))  # short, since Ray puts sockets there
        with hosts(5) as cls.machines, cls.machines[0].entered():
            cls.cluster = RayCluster(folder, cls.machines[0], f"--num-cpus={LARGE // 2}")
            cls.cluster.start(cls.machines[1], options=(f"--num-cpus={LARGE}",))
            yield Place(name="ray", settings=cls.cluster.address, nodes=4)
        shutil.rmtree(folder, ignore_errors=True)

    @pytest.fixture(scope="class")
    @classmethod
    def net(cls, place: Place) -> list[Host]:
        """The machines."""
        return cls.machines

    @pytest.fixture(autouse=True)
    def _end_machines(self, place: Place) -> Iterator[None]:
        """Those that came for a test go with it."""
        yield
        for host in self.machines[2:]:
            if host.pids():
                host.crash()

    def elastic(self, place: Place, folder: Path) -> Place:
        """Of what is there now, only one machine is large enough for this."""
        return replace(place, settings=f"{place.settings},cpus={LARGE // 2 + 1}")

    def add_machine(self, place: Place) -> None:
        """One more large machine."""
        host = next(host for host in self.machines[2:] if not (host.pids() or host.has_crashed))
        self.cluster.start(host, options=(f"--num-cpus={LARGE}",))

    def crash(self, run: Run, index: int) -> None:
        """A machine that came for the test is gone; of others, the node."""
        [joined] = [e for e in told(run, "node_joined") if e.node == index]
        host = next(host for host in self.machines if host.address == joined["place"])
        if host in self.machines[2:]:
            host.crash()
        else:
            super().crash(run, index)

    def one_to_change(self, net: list[Host]) -> Host:
        """The first that is no head."""
        return net[1]

    def of_two(self, place: Place, net: list[Host], folder: Path) -> tuple[Place, Host]:
        """The large ones: one more of them comes."""
        self.add_machine(place)
        [cut] = [host for host in net[2:] if host.pids()]
        return self.elastic(place, folder), cut
