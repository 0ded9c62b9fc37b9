"""Slurm on pretended machines, each with a network, a name and a slurmd of its own; the notebook is on the controller's.

A user would lose: a run that survives a switch's restart where Slurm calls the machine down; and clusters without a name service.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.engines.host_scenarios import HostScenarios
from tests.engines.opened import Place
from tests.support.cluster_hosts import Host, hosts
from tests.support.slurm_cluster import CAN_RUN, WHY_NOT, SlurmCluster, slurm_cluster
from tests.support.until import until

pytestmark = [pytest.mark.skipif(not CAN_RUN, reason=WHY_NOT), pytest.mark.slow]


class TestSlurmHosts(HostScenarios):
    """Two machines beside the controller's."""

    @pytest.fixture(scope="class")
    @classmethod
    def net(cls) -> Iterator[list[Host]]:
        """Three."""
        with hosts(3) as made:
            yield made

    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls, net: list[Host]) -> Iterator[SlurmCluster]:
        """One over them."""
        with net[0].entered(), slurm_cluster(on=net, cpus=4) as found, pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("SLURM_")]:
                patch.delenv(name)
            patch.setenv("SLURM_CONF", str(found.conf))
            patch.setenv("PATH", found.env["PATH"])
            yield found

    @pytest.fixture
    def place(self, cluster: SlurmCluster) -> Iterator[Place]:
        """Both nodes, free again after each test."""
        yield Place(name="slurm", settings="exclusive", names=cluster.names)
        cluster.cancel()
        until(lambda: set(cluster.states().values()) == {"idle"}, 60, "two idle nodes")
