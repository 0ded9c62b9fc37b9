"""Runs over a real Slurm on this machine: the notebook on a login node, and in an allocation.

A user would lose: a cell that runs on a cluster as it does on one machine, whatever happens to the cluster meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import nb_elastic
from nb_elastic.model import RunState
from nb_elastic.run import Run
from tests.engines.opened import Place
from tests.engines.scenarios import WAIT_S, Scenarios, launched, logs_say, told
from tests.programs import on_many_nodes as programs
from tests.support.slurm_cluster import CAN_RUN, WHY_NOT, SlurmCluster, slurm_cluster
from tests.support.until import until

pytestmark = pytest.mark.skipif(not CAN_RUN, reason=WHY_NOT)
PAIR = ("n5", "n6")


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    """Six nodes; the last two, a partition of their own, are for tests that need to know which nodes they get."""
    with slurm_cluster(nodes=6, cpus=4, pair=PAIR) as found, pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("SLURM_"):
                patch.delenv(name)
        patch.setenv("SLURM_CONF", str(found.conf))
        patch.setenv("PATH", found.env["PATH"])
        yield found


@pytest.fixture(autouse=True)
def _whole_pair(cluster: SlurmCluster) -> Iterator[None]:
    """The two nodes are free and up, before and after."""
    yield
    left = [line.split()[0] for line in cluster.ask("squeue", "-h", "-p", "pair", "-o", "%i").splitlines()]
    if left:
        cluster.cancel(*left)
    for name in PAIR:
        if not cluster.states()[name].startswith(("idle", "alloc", "mix", "comp")):
            cluster.ask("scontrol", "update", f"NodeName={name}", "State=RESUME")
    until(lambda: all(cluster.states()[name] == "idle" for name in PAIR), 60, "two idle nodes")


class TestSlurm(Scenarios):
    """The notebook is outside: each fleet makes an allocation of its own."""

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
        self.blocker = self.cluster.allocate("--exclusive", "--partition=pair", "--nodelist=n6", nodes=1)
        return replace(place, settings="partition=pair,exclusive")

    def add_machine(self, place: Place) -> None:
        """See base class."""
        self.cluster.cancel(self.blocker)

    def remove_machine(self, place: Place) -> None:
        """See base class."""
        self.is_removed = True

    def crash(self, run: Run, index: int) -> None:
        """See base class; Slurm knows that a machine that was removed is down."""
        if not self.is_removed:
            super().crash(run, index)
            return
        name = next(e["place"] for e in told(run, "node_joined") if e.node == index)
        self.cluster.ask("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=test")


@pytest.mark.slow
def test_a_run_in_the_users_allocation_leaves_it_to_the_user(cluster, tmp_path):
    job = cluster.allocate("--partition=pair", nodes=2)
    go = tmp_path / "go"
    with launched(
        programs.tick_until, str(go), place=Place(name="slurm", settings=f"job={job}"), nnodes="2", nproc_per_node=1
    ) as run:
        until(lambda: logs_say(run, "world 2", ranks=2), WAIT_S, "a world of two")
        assert {e["place"] for e in told(run, "node_joined")} == set(PAIR)
        go.touch()
        assert run.wait(WAIT_S) is RunState.SUCCEEDED
        assert run.results == {0: 2, 1: 2}
    assert job in cluster.queue()


def test_scancel_fails_the_run_and_says_so(cluster, tmp_path):
    place = Place(name="slurm", settings="partition=pair")
    with launched(programs.tick_until, str(tmp_path / "go"), place=place, nnodes="2", nproc_per_node=1) as run:
        until(lambda: logs_say(run, "world 2", ranks=2), WAIT_S, "a world of two")
        cluster.cancel(*cluster.ask("squeue", "-h", "-p", "pair", "-o", "%i").split())
        assert run.wait(WAIT_S) is RunState.FAILED
        with pytest.raises(nb_elastic.ElasticError, match="cancelled by scancel"):
            run.raise_for_state()


@pytest.mark.slow
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


@pytest.mark.slow
def test_time_in_the_queue_is_not_time_to_join(cluster):
    """Else a run that waits for its turn would fail after ten minutes."""
    blocker = cluster.allocate("--exclusive", "--partition=pair", nodes=1)
    place = Place(name="slurm", settings="partition=pair,exclusive")
    options = {"nnodes": "2", "nproc_per_node": 1, "rdzv_conf": "join_timeout=30"}
    with launched(programs.where, place=place, **options) as run:
        until(lambda: any("waits in the queue" in str(n) for n in run.snapshot.notes), WAIT_S, "a word")
        cluster.cancel(blocker)
        assert run.wait(WAIT_S) is RunState.SUCCEEDED
