"""Host names that mislead do no harm: those that mean 127.0.1.1, and those that mean nothing.

A user would lose: any run on a stock Debian or Ubuntu machine, or in a container without DNS (torchrun hangs or dies there).
"""

from __future__ import annotations

import pytest

from nb_elastic.model import to_json
from nb_elastic.model_options import LaunchOptions
from tests.support import netns
from tests.support.nodes import nodes

PROGRAM = "tests.programs.out_of_step:reduce_once"
LOCALHOST = "127.0.0.1 localhost\n"
ALPHA_OUTSIDE = "10.77.0.1 alpha\n"
ETC_HOSTS = {
    "names that mean 127.0.1.1": {
        "alpha": LOCALHOST + "127.0.1.1 alpha\n",
        "beta": LOCALHOST + "127.0.1.1 beta\n" + ALPHA_OUTSIDE,
    },
    "names that mean nothing": {"alpha": LOCALHOST, "beta": LOCALHOST + ALPHA_OUTSIDE},
}
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ETC_HOSTS)
@pytest.mark.parametrize("options", [{}, {"standalone": True}], ids=["loopback", "standalone"])
def test_one_node_runs_whatever_its_name_means(name, options, tmp_path):
    with netns.hosts(tmp_path, alpha=ETC_HOSTS[name]["alpha"]) as (alpha,), nodes() as start:
        node = start(machine=alpha, options=to_json(LaunchOptions(**options)), program=PROGRAM, nproc=2)
        end = node.end()
    assert end == {"state": "SUCCEEDED", "results": {"0": 3.0, "1": 3.0}, "failures": {}}
    assert set(node.all("master_addr")) == {"127.0.0.1"}


@pytest.mark.parametrize("name", ETC_HOSTS)
@pytest.mark.parametrize("host", ["10.77.0.1", "alpha"])
@pytest.mark.parametrize("backend", ["c10d", "static"])
def test_two_machines_find_each_other_whatever_their_names_mean(name, host, backend, tmp_path):
    with netns.hosts(tmp_path, **ETC_HOSTS[name]) as machines, nodes() as start:
        both = []
        for number, machine in enumerate(machines):
            if backend == "static":
                options = LaunchOptions(nnodes="2", master_addr=host, master_port=29500, node_rank=number)
            else:
                options = LaunchOptions(nnodes="2", rdzv_endpoint=f"{host}:29500")
            both.append(start(machine=machine, options=to_json(options), program=PROGRAM))
        ends = [node.end() for node in both]
    assert [end.get("results") for end in ends] == [{"0": 3.0}, {"1": 3.0}]
    assert [set(node.all("master_addr")) for node in both] == [{"10.77.0.1"}] * 2
    assert [node.all("local_addr") for node in both] == [["10.77.0.1"], ["10.77.0.2"]]
    assert [node.all("env") for node in both] == [[{"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "eth0"}]] * 2
