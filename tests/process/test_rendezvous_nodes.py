"""The rendezvous of several nodes on one machine: they form one group and restart together. ``test_rendezvous_supervisors`` has the rest.

A user would lose: runs over several machines, and runs that survive a lost one.
"""

from __future__ import annotations

import os
import socketserver
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from nb_elastic.model import to_json
from nb_elastic.model_options import LaunchOptions
from nb_elastic.supervisor import addresses
from nb_elastic.supervisor.rendezvous_static import StaticRendezvous
from tests.support import listeners
from tests.support.nodes import nodes
from tests.support.until import until

PROGRAMS = "tests.programs.out_of_step"
pytestmark = pytest.mark.slow


def test_two_nodes_started_by_hand_form_one_group(endpoint):
    """The same command on each node is all: who hosts is found out, the ids need not be given."""
    options = to_json(LaunchOptions(nnodes="2", rdzv_endpoint=endpoint))
    with nodes() as start:
        both = [
            start(options=options, program=f"{PROGRAMS}:wait_for_company", rdzv_id=f"own-{n}", key=f"0{n}" * 32)
            for n in range(2)
        ]
        ends = [node.end() for node in both]
    results = [end["results"] for end in ends]
    assert sorted(results, key=str) == [{"0": 3.0}, {"1": 3.0}]
    assert [node.all("world_size") for node in both] == [[2], [2]]
    assert len({tuple(node.all("master_port")) for node in both}) == 1


@pytest.mark.parametrize("backend", ["c10d", "static"])
def test_two_nodes_restart_together_though_their_ranks_are_out_of_step(backend, endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("NBE_TEST_FOLDER", str(tmp_path))
    host, _, port = endpoint.partition(":")
    with nodes() as start:
        both = []
        for number in range(2):
            if backend == "static":
                options = LaunchOptions(
                    nnodes="2", master_addr=host, master_port=int(port), node_rank=number, max_restarts=3
                )
            else:
                options = LaunchOptions(nnodes="2", rdzv_endpoint=endpoint, max_restarts=3)
            both.append(
                start(options=to_json(options), program=f"{PROGRAMS}:fail_and_fail_again", rdzv_id=f"own-{number}")
            )
        ends = [node.end() for node in both]
    assert sorted([end["results"] for end in ends], key=str) == [{"0": 3.0}, {"1": 3.0}]
    assert [node.all("world_size") for node in both] == [[2] * 4] * 2


def test_a_static_node_that_asks_for_a_round_just_as_it_begins_takes_part_in_it(endpoint, monkeypatch):
    """Node rank 0 replaces the store between the other's look at it and its word: that word is lost, not the node."""
    ip, _, port = endpoint.partition(":")
    host, other = (StaticRendezvous("test", ip=ip, port=int(port), node_rank=n, nodes=2, timeout_s=60) for n in (0, 1))
    with ThreadPoolExecutor() as pool:
        meeting = pool.submit(host.next_rendezvous)
        other.next_rendezvous()
        meeting.result(60)
        look, begun = other._look, []

        def look_and_be_late(**how):
            found = look(**how)
            if not begun:
                begun.append(pool.submit(host.next_rendezvous))
                until(lambda: look(**how)[0] == 2, 60, "the second round")
            return found

        monkeypatch.setattr(other, "_look", look_and_be_late)
        assert other.next_rendezvous().rank == 1
        assert begun[0].result(60).rank == 0
    for handler in (other, host):
        handler.shutdown()


def test_two_static_nodes_with_one_number_are_told(endpoint):
    host, _, port = endpoint.partition(":")
    with nodes() as start:
        options = [LaunchOptions(nnodes="3", master_addr=host, master_port=int(port), node_rank=n) for n in (0, 1, 1)]
        three = [start(options=to_json(o), program=f"{PROGRAMS}:wait_for_company") for o in options]
        until(lambda: any(node.all("error") for node in three), 60, "one of the nodes to complain")
        assert [text for node in three for text in node.all("text")] == [
            "Two nodes of the run 'none' call themselves --node-rank 1."
        ]


def test_nodes_meet_in_a_file(tmp_path):
    """--rdzv-conf store_type=file works as under torchrun, sealed as well."""
    options = to_json(
        LaunchOptions(
            nnodes="2", rdzv_endpoint=str(tmp_path / "store"), rdzv_conf={"store_type": "file"}, local_addr="127.0.0.1"
        )
    )
    with nodes() as start:
        both = [start(options=options, program=f"{PROGRAMS}:wait_for_company") for _ in range(2)]
        ends = [node.end() for node in both]
    assert sorted([end["results"] for end in ends], key=str) == [{"0": 3.0}, {"1": 3.0}]


def test_is_host_is_obeyed(endpoint):
    """A node told not to host waits for the one that does, and says so when nobody comes."""
    conf = {"is_host": "0", "join_timeout": "1"}
    options = to_json(LaunchOptions(nnodes="2", rdzv_endpoint=endpoint, rdzv_conf=conf))
    with nodes() as start:
        told = start(options=options, program=f"{PROGRAMS}:wait_for_company").end()
    assert told == {
        "error": "RendezvousError",
        "text": f"Nobody answered at the rendezvous endpoint {endpoint} for 1 s. Is the first node up, and is this its address?",
    }


def test_a_group_that_never_gets_complete_ends_in_time(endpoint):
    options = to_json(LaunchOptions(nnodes="2", rdzv_endpoint=endpoint, rdzv_conf={"join_timeout": "2"}))
    with nodes() as start:
        told = start(options=options, program=f"{PROGRAMS}:wait_for_company").end()
    assert told["error"] == "RendezvousError"
    assert "fewer than 2 nodes came to the rendezvous 'none' within 2 s" in told["text"]


def test_a_static_group_that_never_gets_complete_ends_in_time(endpoint):
    host, _, port = endpoint.partition(":")
    with nodes() as start:
        options = [
            LaunchOptions(nnodes="3", master_addr=host, master_port=int(port), node_rank=n, rdzv_conf={"timeout": "8"})
            for n in (0, 1)
        ]
        both = [start(options=to_json(o), program=f"{PROGRAMS}:wait_for_company") for o in options]
        assert "Node rank 2 did not come within 8 s" in both[0].end()["text"]
        both[1].end()


def test_another_service_at_the_endpoint_is_told(endpoint):
    """A web server at the port, say."""
    host, _, port = endpoint.partition(":")
    with (
        socketserver.ThreadingTCPServer((host, int(port)), socketserver.BaseRequestHandler) as service,
        nodes() as start,
    ):
        threading.Thread(target=service.serve_forever, name="service", daemon=True).start()
        told = start(
            options=to_json(LaunchOptions(nnodes="2", rdzv_endpoint=endpoint)), program=f"{PROGRAMS}:wait_for_company"
        ).end()
        service.shutdown()
    assert (
        told["text"]
        == f"What listens at the rendezvous endpoint {endpoint} is not a store of torch. Choose another port."
    )


def test_the_user_is_told_where_to_join_and_how_safe_it_is():
    mine = addresses.outward_address()
    if not mine:
        pytest.skip("this machine has no address but loopback")
    options = LaunchOptions(nnodes="1:2", rdzv_endpoint=f"{mine}:0", rdzv_id="short", node_rank=1)
    with nodes() as start:
        node = start(options=to_json(options), program=f"{PROGRAMS}:work_for_ever")
        node.wait_for("ready")
        (where, rank, seal) = node.all("note")
        found = listeners.ips(node.pids())
    assert where.startswith(f"The rendezvous listens on {mine}:")
    assert rank.startswith("--node-rank 1 has no effect here")
    assert "NB_ELASTIC_RDZV_KEY" in seal
    assert found == {mine}, "listens on the address in use, not on all"
    assert os.environ.get("NB_ELASTIC_RDZV_KEY") is None
