"""Runs over a real Slurm on this machine: the notebook on a login node, and in an allocation.

A user would lose: a cell that runs on a cluster as it does on one machine, whatever happens to the cluster meanwhile.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from nb_elastic.model import RunState
from nb_elastic.run import Run
from tests.engines.opened import Place
from tests.engines.scenarios import WAIT_S, Scenarios, launched, logs_say, told
from tests.programs import on_many_nodes as programs
from tests.support.slurm_cluster import CAN_RUN, WHY_NOT, SlurmCluster, slurm_cluster
from tests.support.until import until

pytestmark = [pytest.mark.skipif(not CAN_RUN, reason=WHY_NOT), pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    """Four nodes, and pairs of their own for tests that need to know which nodes they get, or that lose one for good."""
    with (
        slurm_cluster(nodes=4, cpus=4, pairs=("pair", "first", "second")) as found,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in list(os.environ):
            if name.startswith("SLURM_"):
                patch.delenv(name)
        patch.setenv("SLURM_CONF", str(found.conf))
        patch.setenv("PATH", found.env["PATH"])
        yield found


@pytest.fixture(autouse=True)
def _whole_pair(cluster: SlurmCluster) -> Iterator[None]:
    """Two nodes are free again."""
    yield
    left = [line.split()[0] for line in cluster.ask("squeue", "-h", "-p", "pair", "-o", "%i").splitlines()]
    if left:
        cluster.cancel(*left)
    until(lambda: all(cluster.states()[name] == "idle" for name in cluster.pairs["pair"]), 60, "two idle nodes")


class TestSlurm(Scenarios):
    """The notebook is outside: each fleet makes an allocation of its own."""

    fresh: ClassVar = ["second", "first"]
    """Pairs that no test has used yet."""

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls, cluster: SlurmCluster) -> Place:
        """Four nodes."""
        return Place(name="slurm", settings="partition=main", nodes=4)

    @pytest.fixture(autouse=True)
    def _know(self, cluster: SlurmCluster) -> None:
        self.cluster, self.blocker, self.is_removed = cluster, "", False

    def elastic(self, place: Place, folder: Path) -> Place:
        """See base class."""
        name = self.fresh.pop()
        self.blocker = self.cluster.allocate("--exclusive", f"--partition={name}", nodes=1)
        return replace(place, settings=f"partition={name},exclusive")

    def add_machine(self, place: Place) -> None:
        """See base class."""
        self.cluster.cancel(self.blocker)

    def remove_machine(self, place: Place) -> None:
        """See base class."""
        self.is_removed = True

    def crash(self, run: Run, index: int) -> None:
        """See base class; all of a machine that was removed dies, Slurm's own processes too."""
        if not self.is_removed:
            super().crash(run, index)
            return
        self.cluster.crash_node(next(e["place"] for e in told(run, "node_joined") if e.node == index))


def test_a_run_in_the_users_allocation_leaves_it_to_the_user(cluster, tmp_path):
    job = cluster.allocate("--partition=pair", nodes=2)
    go = tmp_path / "go"
    with launched(
        programs.tick_until, str(go), place=Place(name="slurm", settings=f"job={job}"), nnodes="2", nproc_per_node=1
    ) as run:
        until(lambda: logs_say(run, "world 2", ranks=2), WAIT_S, "a world of two")
        assert {e["place"] for e in told(run, "node_joined")} == set(cluster.pairs["pair"])
        go.touch()
        assert run.wait(WAIT_S) is RunState.SUCCEEDED
        assert run.results == {0: 2, 1: 2}
    assert job in cluster.queue()


def test_scancel_ends_the_run_and_says_so(cluster, tmp_path):
    place = Place(name="slurm", settings="partition=pair")
    with launched(programs.tick_until, str(tmp_path / "go"), place=place, nnodes="2", nproc_per_node=1) as run:
        until(lambda: logs_say(run, "world 2", ranks=2), WAIT_S, "a world of two")
        cluster.cancel(*cluster.ask("squeue", "-h", "-p", "pair", "-o", "%i").split())
        # The node programs stop on the signal that they get, and may have ended before the link has.
        assert run.wait(WAIT_S) in {RunState.STOPPED, RunState.FAILED}
        assert any(re.search(r"Slurm job \d+ was cancelled by scancel\.", str(note)) for note in run.snapshot.notes)


def test_a_stop_while_the_job_waits_takes_it_out_of_the_queue(cluster):
    blocker = cluster.allocate("--exclusive", "--partition=pair", nodes=1)
    place = Place(name="slurm", settings="partition=pair,exclusive")
    with launched(programs.where, place=place, nnodes="2", nproc_per_node=1) as run:
        until(
            lambda: any("waits in the queue of partition pair" in str(n) for n in run.snapshot.notes), WAIT_S, "a word"
        )
        assert len(cluster.queue()) >= 2
        run.stop(0.0)
        assert run.wait(WAIT_S) is RunState.STOPPED
        until(lambda: cluster.ask("squeue", "-h", "-p", "pair", "-o", "%i").split() == [blocker], WAIT_S)


def test_time_in_the_queue_is_not_time_to_join(cluster):
    """Else a run that waits for its turn would fail after ten minutes."""
    blocker = cluster.allocate("--exclusive", "--partition=pair", nodes=1)
    place = Place(name="slurm", settings="partition=pair,exclusive")
    options = {"nnodes": "2", "nproc_per_node": 1, "rdzv_conf": "join_timeout=30"}
    with launched(programs.where, place=place, **options) as run:
        until(lambda: any("waits in the queue" in str(n) for n in run.snapshot.notes), WAIT_S, "a word")
        cluster.cancel(blocker)
        assert run.wait(WAIT_S) is RunState.SUCCEEDED
