"""The rendezvous of one node: on loopback only, quick, and a new store in each round.

A user would lose: restarts that work whatever the ranks' step, and a notebook that nobody on the network can reach.
"""

from __future__ import annotations

import pytest
from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import rendezvous_handler_registry

from nb_elastic.errors import OptionError, RendezvousError
from nb_elastic.model import to_json
from nb_elastic.model_options import LaunchOptions
from nb_elastic.supervisor import addresses
from nb_elastic.supervisor.rendezvous import LoopbackRendezvous, make_handler
from tests.support import listeners
from tests.support.nodes import nodes

ONE_NODE = {
    "loopback": {},
    "standalone c10d": {"standalone": True},
    "c10d": {"rdzv_backend": "c10d"},
    "static": {"master_addr": "127.0.0.1", "master_port": 0},
    "c10d over IPv6": {"rdzv_backend": "c10d", "rdzv_endpoint": "[::1]:0"},
    "static by name": {"master_addr": "localhost", "master_port": 0},
}


def client(info):
    """What a rank does with MASTER_ADDR and MASTER_PORT."""
    where = info.bootstrap_store_info
    return TCPStore(where.master_addr, where.master_port, is_master=False, wait_for_workers=False)


def is_free(port):
    if listener := addresses.try_listen("127.0.0.1", port):
        listener.close()
    return listener is not None


def make(**options):
    return make_handler(LaunchOptions(**options), rdzv_id="test", key=b"secret", nproc=2, note=lambda text: None)


@pytest.mark.parametrize("options", ONE_NODE.values(), ids=ONE_NODE)
def test_a_run_of_one_node_listens_on_loopback_only(options):
    """Nobody else on the network reaches a run of one node: neither its stores nor its ranks."""
    with nodes() as start:
        node = start(
            options=to_json(LaunchOptions(**options)), program="tests.programs.out_of_step:work_for_ever", nproc=2
        )
        node.wait_for("ready", count=2)
        found = listeners.of(node.pids())
    assert {ip for ip, _ in found} <= {"127.0.0.1", "::1"}
    assert len(found) >= 3, "the store's and two ranks' listeners were looked at"


@pytest.mark.parametrize("options", ONE_NODE.values(), ids=ONE_NODE)
def test_each_round_has_a_store_of_its_own(options):
    """What one attempt wrote is unknown to the next, so ranks never meet dead ranks' addresses."""
    bundle = make(**options)
    seen = []
    for _ in range(3):
        info = bundle.handler.next_rendezvous()
        ranks = client(info)
        seen.append(ranks.check(["from an earlier attempt"]))
        ranks.set("from an earlier attempt", "x")
        assert (info.rank, info.world_size) == (0, 1)
        info.store.set("the agent's store", "works")
        assert info.store.get("the agent's store") == b"works"
        assert bundle.handler.num_nodes_waiting() == 0
    assert bundle.handler.shutdown()
    assert seen == [False, False, False]


def test_the_last_rounds_store_is_gone():
    """A long run with many restarts keeps one listener, not one for each."""
    handler = LoopbackRendezvous("test")
    ports = [handler.next_rendezvous().bootstrap_store_info.master_port for _ in range(3)]
    assert [is_free(port) for port in ports] == [True, True, False]
    handler.shutdown()
    assert [is_free(port) for port in ports] == [True, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loopback", "standalone c10d", "static"])
def test_a_restart_works_though_ranks_are_out_of_step(name, tmp_path, monkeypatch):
    """Five restarts of five end well with a rank 0.7 s late; torchrun's do not (tests/benchmarks/restart_skew.py)."""
    monkeypatch.setenv("NBE_TEST_FOLDER", str(tmp_path))
    options = to_json(LaunchOptions(max_restarts=5, **ONE_NODE[name]))
    with nodes() as start:
        node = start(options=options, program="tests.programs.out_of_step:fail_and_fail_again", nproc=2)
        end = node.end()
        assert node.all("restarts") == [0, 1, 2, 3, 4, 5], node.stderr[-4000:]
    assert end == {"state": "SUCCEEDED", "results": {"0": 3.0, "1": 3.0}, "failures": {}}


def test_ranks_are_kept_on_the_interface_of_their_address():
    bundle = make()
    assert (bundle.backend, bundle.env, bundle.local_addr, bundle.master_addr, bundle.master_port) == (
        "loopback", {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}, "127.0.0.1", None, None,
    )  # fmt: skip


def test_one_node_shares_its_store_whatever_torch_was_told(monkeypatch):
    """Where it is not shared rank 0 serves its own, which torch has listen on every interface."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    notes = []
    handler = make_handler(LaunchOptions(), rdzv_id="id", key=b"", nproc=2, note=notes.append).handler
    info = handler.next_rendezvous()
    assert (handler.use_agent_store, info.bootstrap_store_info.master_port) == (True, info.store.underlying_store.port)
    assert [n.partition(" is ")[0] for n in notes] == ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"]
    handler.shutdown()


def test_any_backend_that_torch_knows_can_be_used():
    """A plugin's rendezvous is found by its name, and gets what the user gave for it."""
    asked = []

    class Theirs(LoopbackRendezvous):
        def get_backend(self) -> str:
            return "theirs"

    def create(params):
        asked.append((params.endpoint, params.run_id, params.min_nodes, params.max_nodes, params.get("colour")))
        return Theirs(params.run_id)

    rendezvous_handler_registry.register("theirs", create)
    try:
        bundle = make(
            rdzv_backend="theirs", rdzv_endpoint="somewhere:1", nnodes="1:3", rdzv_id="id", rdzv_conf={"colour": "red"}
        )
    finally:
        del rendezvous_handler_registry._registry["theirs"]
    assert (bundle.backend, bundle.handler.get_backend()) == ("theirs", "theirs")
    assert asked == [("somewhere:1", "test", 1, 3, "red")]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"rdzv_backend": "zeus"},
            RendezvousError,
            "There is no rendezvous backend 'zeus'. The installed torch has c10d, etcd",
        ),
        ({"rdzv_backend": "etcd"}, RendezvousError, "The rendezvous backend 'etcd' can't be set up"),
        (
            {"nnodes": "2", "rdzv_endpoint": "no.such.name.invalid:1"},
            RendezvousError,
            "'no.such.name.invalid' of the rendezvous",
        ),
        ({"nnodes": "2", "rdzv_endpoint": "host:99999"}, RendezvousError, "'host:99999' is not host:port"),
        ({"nnodes": "2", "rdzv_endpoint": "0.0.0.0:29400"}, RendezvousError, "0.0.0.0 means every interface"),
        ({"nnodes": "2", "rdzv_conf": {"join_timeout": "soon"}}, OptionError, "join_timeout"),
        ({"standalone": True, "rdzv_conf": {"store_type": "disk"}}, OptionError, "store_type=disk"),
        ({"standalone": True, "local_addr": "203.0.113.9"}, OptionError, "203.0.113.9 is no address of this machine"),
        ({"nnodes": "1:2", "master_addr": "127.0.0.1"}, OptionError, "a static group has a fixed size"),
        ({"nnodes": "2", "master_addr": "127.0.0.1", "node_rank": 2}, OptionError, "--node-rank 2 is not from 0 to 1"),
        ({"master_addr": "203.0.113.9"}, RendezvousError, "is no address of this machine"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_sentence(options, error, words):
    with pytest.raises(error) as caught:
        make(**options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_port_in_use_is_told():
    with addresses.listen("127.0.0.1") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RendezvousError, match=f"Node rank 0 can't listen on 127.0.0.1:{port}: the port is in use"):
            make(master_port=port)


def test_names_and_addresses_of_this_machine():
    known = dict(addresses.interfaces())
    assert known["127.0.0.1"] == "lo"
    assert addresses.interface_of("127.0.1.1") == "lo"
    assert addresses.resolve("localhost") == "127.0.0.1"
    assert addresses.is_ours("127.0.0.1") and not addresses.is_ours("203.0.113.9")
    assert addresses.source_address("127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", ("host", 29400)), ("host:1", ("host", 1)), ("10.0.0.1:0", ("10.0.0.1", 0)),
        ("[::1]:5", ("::1", 5)), ("[fe80::1]", ("fe80::1", 29400)), ("::1", ("::1", 29400)), (" a-b.c:7 ", ("a-b.c", 7)),
    ],
)  # fmt: skip
def test_an_endpoint_is_read_as_people_write_it(text, expected):
    assert addresses.split_endpoint(text, default_port=29400) == expected


@pytest.mark.parametrize("text", ["", ":1", "host:", "host:x", "host:65536", "a b:1", "[::1]:x"])
def test_an_endpoint_that_is_none_is_refused(text):
    with pytest.raises(RendezvousError, match="is not host:port"):
        addresses.split_endpoint(text, default_port=1)
