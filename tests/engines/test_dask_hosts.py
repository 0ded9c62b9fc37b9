"""Dask on pretended machines: cables that are pulled and put back, a machine that crashes, and a driver that is cut off.

A user would lose: a run that survives a switch's restart, and machines that stop computing when nobody can hear them.
"""

from __future__ import annotations

import time

import pytest

from tests.engines.host_scenarios import HostScenarios
from tests.engines.opened import Place, opened
from tests.support.cluster_hosts import hosts
from tests.support.dask_cluster import dask_cluster
from tests.support.until import until

pytest.importorskip("distributed", reason="needs the extra dask")
pytestmark = pytest.mark.slow

LEASE_S = 15.0


@pytest.fixture(scope="module")
def net():
    with hosts(3, style="debian") as it:
        yield it


@pytest.fixture(scope="module")
def cluster(net, tmp_path_factory):
    """A scheduler where the driver is."""
    with dask_cluster(tmp_path_factory.mktemp("dask"), host=net[0].address, on=net[0]) as it:
        yield it


@pytest.fixture
def place(net, cluster):
    """Two more machines, with a worker each."""
    for host in net[1:]:
        cluster.work(host.name, host.address, on=host)
    cluster.wait("node1", "node2")
    yield Place(name="dask", settings=cluster.address, names=("node1", "node2"))
    cluster.end("node1", "node2", is_kill=True)


def test_a_cable_put_back_soon_is_no_loss(net, place, tmp_path):
    with net[0].entered(), opened(place, tmp_path) as it:
        assert {line["place"]: line["address"] for line in it.hellos()} == {h.name: h.address for h in net[1:]}
        net[2].unplug()
        try:
            before = time.monotonic()
            for n in range(200):
                it.send("echo", n=n, blob=bytes(10_000))
            until(lambda: time.monotonic() > before + 9, 20)
            assert len(it.said("echo")) < 400
        finally:
            net[2].plug()
        until(lambda: len(it.said("echo")) == 400, LEASE_S, "what was sent meanwhile")
        for token in it.tokens():
            assert [line["n"] for line in it.said("echo", of=token)] == list(range(200))
        assert all(h.link.is_alive for h in it.heard)


def test_a_machine_that_is_cut_off_stops_and_may_come_back(net, place, tmp_path):
    with net[0].entered(), opened(place, tmp_path) as it:
        of = {line["place"]: line["from"] for line in it.hellos()}
        net[2].unplug()
        try:
            until(lambda: len(it.left()) == 1, LEASE_S + 8, "its program to be gone")
            it.send("echo", n=1)
            until(lambda: it.said("echo", of=of["node1"]), 10, "the other")
        finally:
            net[2].plug()
        until(lambda: not it.link_of(of["node2"]).is_alive, 30, "the link to be over")
        until(lambda: it.grow() or len(it.heard) == 3, 60, "the machine again")
        assert it.hellos(3)[2]["place"] == "node2"


def test_a_driver_that_is_cut_off_leaves_no_node(net, place, tmp_path):
    with net[0].entered(), opened(place, tmp_path) as it:
        it.hellos()
        net[0].unplug()
        try:
            until(lambda: not it.left(), LEASE_S + 8, "nodes to be gone")
            it.close()  # which doesn't wait for what can't be heard
        finally:
            net[0].plug()


class TestDaskHosts(HostScenarios):
    """Whole runs."""


def test_a_machine_that_crashes_is_known_at_once(net, place, tmp_path):
    """The last test here: the machine does not come back."""
    with net[0].entered(), opened(place, tmp_path) as it:
        of = {line["place"]: line["from"] for line in it.hellos()}
        net[2].crash()
        until(lambda: not it.link_of(of["node2"]).is_alive, 10, "the link to be over")
        assert it.link_of(of["node2"]).why == "its Dask worker node2 left the cluster"
        assert it.link_of(of["node1"]).is_alive
