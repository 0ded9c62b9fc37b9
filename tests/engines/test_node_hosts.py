"""Nodes on machines of their own, whatever these call themselves: they meet, and those left form a group again.

A user would lose: runs on clusters whose /etc/hosts is as Debian's installer writes it, or whose names no one resolves.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys

import pytest

from tests.support.cluster_hosts import STYLES, hosts
from tests.support.node_driver import NodeProgram
from tests.support.until import until

STEPS = "tests.programs.out_of_step"
pytestmark = pytest.mark.slow


@contextlib.contextmanager
def cluster(style):
    """A driver's machine with the store keeper, and a node program on each of two others."""
    with hosts(3, style=style) as net, contextlib.ExitStack() as stack:
        command = (sys.executable, "-m", "nb_elastic.node.store", net[0].address)
        keeper = stack.enter_context(net[0].popen(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        stack.callback(keeper.stdin.close)
        env = {"NB_ELASTIC_NODE_ADDRESS": "", "NB_ELASTIC_DRIVER_ADDRESS": net[0].address}
        strays = ({"NB_ELASTIC_RDZV_KEY": "of another run"}, {})
        nodes = [
            stack.enter_context(NodeProgram(prefix=host.prefix, env={**env, **stray}))
            for host, stray in zip(net[1:], strays, strict=True)
        ]
        nodes[0].endpoint = nodes[1].endpoint = json.loads(keeper.stdout.readline())["endpoint"]
        yield net, nodes


def start(net, nodes, program, **more):
    for number, (host, node) in enumerate(zip(net[1:], nodes, strict=True)):
        assert node.wait_for("hello")["address"] == host.address
        node.send("reach", endpoint=node.endpoint, nonce=0)
        assert node.wait_for("reached")["ok"]
        options = {"run_id": "hosts", "nproc": 1, "min_nodes": 2, "max_nodes": 2, **more}
        node.run(f"{STEPS}:{program}", node=number, endpoint=node.endpoint, address=host.address, **options)


@pytest.mark.parametrize("style", STYLES)
def test_nodes_meet_whatever_their_machines_are_called(style):
    """Nor does a key keep one out that was meant for nodes started by hand."""
    with cluster(style) as (net, nodes):
        start(net, nodes, "reduce_once")
        ends = [node.wait_for("done") for node in nodes]
        assert [end["state"] for end in ends] == ["succeeded", "succeeded"], ends
        met = nodes[1].events("rendezvous_finished")[0]
        assert met["master_addr"] in {host.address for host in net[1:]}
        results = [json.loads(node.text("hosts", "round_0/0/worker.json"))["result"]["text"] for node in nodes]
        assert results == ["3.0", "3.0"]


def test_those_left_form_a_group_again_at_no_restarts_cost(tmp_path, monkeypatch):
    """A machine crashes: the ranks of the other fail in their collective, and yet the run goes on without a restart allowed."""
    monkeypatch.setenv("NBE_TEST_FOLDER", str(tmp_path))
    with cluster("debian") as (net, nodes):
        start(net, nodes, "talk_until_alone", min_nodes=1)
        until(lambda: (tmp_path / "company").exists(), 180, "a group of two")
        net[2].crash()
        done = nodes[0].wait_for("done")
        assert done["state"] == "succeeded", done
        formed = [(e["group_world_size"], e["attempt"]) for e in nodes[0].events("rendezvous_finished")]
        assert formed[-2:] == [(2, 0), (1, 0)]
        assert [e["cause"] for e in nodes[0].events("round_ended")][-2:] == ["membership", "success"]
