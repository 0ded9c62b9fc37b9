"""Whole runs on a real Dask cluster: every scenario of runs on several nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nb_elastic.run import Run
from tests.engines.opened import Place
from tests.engines.scenarios import Scenarios, told
from tests.support.dask_cluster import DaskCluster, dask_cluster

pytest.importorskip("distributed", reason="needs the extra dask")
pytestmark = pytest.mark.slow


class TestDaskRuns(Scenarios):
    """Scenarios over two workers; those in which a machine comes or goes have a cluster of their own."""

    own: DaskCluster

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
        """Two hosts."""
        with dask_cluster(tmp_path_factory.mktemp("dask")) as cluster:
            cluster.work("one", "127.0.0.1")
            cluster.work("two", "127.0.0.2")
            cluster.wait("one", "two")
            # A worker without a mutex carries nodes of several runs.
            yield Place(name="dask", settings=cluster.address, nodes=4, names=("one", "two"))

    @pytest.fixture(autouse=True)
    def _own(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
        """Where a machine comes or goes."""
        if request.node.name not in {
            "test_a_crashed_node_is_lost_and_the_others_go_on",
            "test_a_node_that_comes_late_takes_part",
        }:
            yield
            return
        (tmp_path / "own").mkdir()
        with dask_cluster(tmp_path / "own") as self.own:
            self.own.work("one", "127.0.0.1")
            self.own.wait("one")
            yield

    def elastic(self, place: Place, folder: Path) -> Place:
        """See base class."""
        del place, folder
        return Place(name="dask", settings=self.own.address, names=("one", "two"))

    def add_machine(self, place: Place) -> None:
        """See base class."""
        del place
        self.own.work("two", "127.0.0.2")
        self.own.wait("two")

    def crash(self, run: Run, index: int) -> None:
        """Where there is a cluster for it, the worker is gone, and so the machine."""
        if not hasattr(self, "own"):
            super().crash(run, index)
            return
        [joined] = [e for e in told(run, "node_joined") if e.node == index]
        self.own.end(joined["place"], is_kill=True)
