"""Whole runs on a real Ray cluster of pretended machines: every scenario of runs on several nodes, and odd networks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nb_elastic.run import Run
from tests.engines.opened import Place
from tests.engines.scenarios import WAIT_S, Scenarios, engine_of, launched, logs_say, told
from tests.programs import on_many_nodes as programs
from tests.support.cluster_hosts import STYLES, Host, hosts, restyle
from tests.support.ray_cluster import RayCluster
from tests.support.until import until

pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LARGE = 16
"""CPUs of the machines on which runs grow and shrink; the head has half of it."""


class TestRayRuns(Scenarios):
    """Scenarios over a head and a large machine; others come and go."""

    net: list[Host]
    cluster: RayCluster

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls) -> Iterator[Place]:
        """Two machines with room for several runs; this process is on the first, as a notebook on the head."""
        folder = Path(tempfile.mkdtemp(prefix="nbr"))  # short, since Ray puts sockets there
        with hosts(5) as cls.net, cls.net[0].entered():
            cls.cluster = RayCluster(folder, cls.net[0], f"--num-cpus={LARGE // 2}")
            cls.cluster.start(cls.net[1], options=(f"--num-cpus={LARGE}",))
            yield Place(name="ray", settings=cls.cluster.address, nodes=4)
        shutil.rmtree(folder, ignore_errors=True)

    @pytest.fixture(autouse=True)
    def _end_machines(self, place: Place) -> Iterator[None]:
        """Those that came for a test go with it."""
        yield
        for host in self.net[2:]:
            if host.pids():
                host.crash()

    def elastic(self, place: Place, folder: Path) -> Place:
        """Of what is there now, only one machine is large enough for this."""
        return replace(place, settings=f"{place.settings},cpus={LARGE // 2 + 1}")

    def add_machine(self, place: Place) -> None:
        """One more large machine."""
        host = next(host for host in self.net[2:] if not (host.pids() or host.has_crashed))
        self.cluster.start(host, options=(f"--num-cpus={LARGE}",))

    def crash(self, run: Run, index: int) -> None:
        """A machine that came for the test is gone; of others, the node."""
        [joined] = [e for e in told(run, "node_joined") if e.node == index]
        host = next(host for host in self.net if host.address == joined["place"])
        if host in self.net[2:]:
            host.crash()
        else:
            super().crash(run, index)

    @pytest.mark.slow
    def test_a_node_whose_cable_is_pulled_is_lost_and_comes_back(self, place: Place, tmp_path: Path):
        self.add_machine(place)
        go = tmp_path / "go"
        options = {"nnodes": "1:2", "nproc_per_node": 1, "max_restarts": 9}
        with launched(programs.tick_until, str(go), place=self.elastic(place, tmp_path), **options) as run:
            until(lambda: logs_say(run, "world 2", ranks=2), WAIT_S, "a world of two")
            [cut] = [host for host in self.net[2:] if host.pids()]
            cut.unplug()
            try:
                until(lambda: logs_say(run, "world 1", ranks=1), WAIT_S, "a world of one")
                [lost] = until(
                    lambda: told(run, "node_lost"), WAIT_S, "the loss, which the others' group may see first"
                )
            finally:
                cut.plug()
            until(lambda: logs_say(run, "world 2", ranks=2), WAIT_S, "a world of two again")
            assert told(run, "node_joined")[-1]["place"] == cut.address
            assert next(e for e in told(run, "node_joined") if e.node == lost.node)["place"] == cut.address
            go.touch()
            run.wait(WAIT_S)
            assert run.results.keys() == {0, 1}

    @pytest.mark.slow
    @pytest.mark.parametrize("style", STYLES)
    def test_ranks_meet_whatever_their_machines_are_called(self, place: Place, tmp_path: Path, style: str):
        restyle(self.net, style)
        words = ("--nnodes", "2", "--nproc", "1", "--engine", engine_of(place))
        command = [sys.executable, "-m", "nb_elastic", "run", *words]
        env = {"PYTHONPATH": str(ROOT), "NB_ELASTIC_HOME": str(tmp_path / "home")}
        with self.net[0].popen(
            *command, "tests.programs.on_many_nodes:add_up", env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            out = process.communicate(timeout=WAIT_S)[0].decode(errors="replace")
        assert process.returncode == 0, out
        assert "ranks 0-1: 3.0" in out, out
        assert os.path.isdir(tmp_path / "home")
