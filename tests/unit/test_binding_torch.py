"""Every binding against torch.numa's own functions on the same pretended machine; where we differ on purpose is a list.

Runs in: the tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nb_elastic import binding
from nb_elastic.errors import OptionError
from nb_elastic.topology import ranges_text, visible_gpus
from tests.support import fake_sys
from tests.support.fake_sys import FakeGpu, Machine

MODES = ("node", "socket", "exclusive", "core-complex")

MACHINES = {
    "two sockets, eight GPUs": fake_sys.TWO_SOCKETS_EIGHT_GPUS,
    "four nodes a socket": fake_sys.FOUR_NODES_A_SOCKET,
    "one node, -1": fake_sys.ONE_NODE_UNKNOWN,
    "two nodes, -1": fake_sys.TWO_NODES_UNKNOWN,
    "Grace Hopper": fake_sys.GRACE_HOPPER,
    "Grace Hopper, GPUs on memory nodes": fake_sys.GRACE_HOPPER_MEMORY_NODES,
    "cpuset: half a node": fake_sys.HALF_A_NODE,
    "cpuset: half of each node": fake_sys.HALF_OF_EACH,
    "neighbour threads": fake_sys.NEIGHBOUR_THREADS,
    "uneven caches": fake_sys.UNEVEN_CACHES,
    "no caches told": fake_sys.NO_CACHES,
    "nodes that could be there": fake_sys.SPARE_NODES,
    "two sockets in one node": fake_sys.INTERLEAVED,
}

# (machine, mode) -> GPU -> (torch: CPUs or what it raises, ours); the number is that of binding.py's list.
UNKNOWN_NODE, NO_CPUS_NEAR, SOCKET_OF_NOTHING, CACHES_UNTOLD = 1, 2, 3, 6
Differences = dict[int, tuple[str, str]]
KNOWN_DIFFERENCES: dict[tuple[str, str], tuple[int, Differences]] = {
    ("two nodes, -1", "node"): (UNKNOWN_NODE, {2: ("0-7", "8-15"), 3: ("0-7", "8-15")}),
    ("two nodes, -1", "socket"): (UNKNOWN_NODE, {2: ("0-7", "8-15"), 3: ("0-7", "8-15")}),
    ("two nodes, -1", "exclusive"): (
        UNKNOWN_NODE,
        {0: ("0-1", "0-3"), 1: ("2-3", "4-7"), 2: ("4-5", "8-11"), 3: ("6-7", "12-15")},
    ),
    ("two nodes, -1", "core-complex"): (UNKNOWN_NODE, {2: ("0-7", "8-15"), 3: ("0-7", "8-15")}),
    ("Grace Hopper", "socket"): (
        SOCKET_OF_NOTHING,
        {0: ("ValueError", "0-3"), 1: ("ValueError", "4-7"), 2: ("ValueError", "8-11"), 3: ("ValueError", "12-15")},
    ),
    ("Grace Hopper, GPUs on memory nodes", "node"): (
        NO_CPUS_NEAR,
        {0: ("RuntimeError", "4-7"), 1: ("RuntimeError", "12-15")},
    ),
    ("Grace Hopper, GPUs on memory nodes", "socket"): (
        NO_CPUS_NEAR,
        {0: ("ValueError", "4-7"), 1: ("ValueError", "12-15"), 2: ("ValueError", "0-3")},
    ),
    ("Grace Hopper, GPUs on memory nodes", "exclusive"): (
        NO_CPUS_NEAR,
        {0: ("RuntimeError", "4-7"), 1: ("RuntimeError", "12-15")},
    ),
    ("Grace Hopper, GPUs on memory nodes", "core-complex"): (
        NO_CPUS_NEAR,
        {0: ("ZeroDivisionError", "4-7"), 1: ("ZeroDivisionError", "12-15")},
    ),
    ("cpuset: half a node", "node"): (NO_CPUS_NEAR, dict.fromkeys(range(4, 8), ("RuntimeError", "0-7"))),
    ("cpuset: half a node", "socket"): (NO_CPUS_NEAR, dict.fromkeys(range(8), ("ValueError", "0-7"))),
    ("cpuset: half a node", "exclusive"): (
        NO_CPUS_NEAR,
        {gpu: (["0-1", "2-3", "4-5", "6-7"][gpu] if gpu < 4 else "RuntimeError", str(gpu)) for gpu in range(8)},
    ),
    ("cpuset: half a node", "core-complex"): (
        NO_CPUS_NEAR,
        dict.fromkeys(range(4, 8), ("ZeroDivisionError", "0-7")),
    ),
    ("no caches told", "core-complex"): (
        CACHES_UNTOLD,
        {0: ("FileNotFoundError", "0-3"), 1: ("FileNotFoundError", "4-7")},
    ),
    ("nodes that could be there", "socket"): (
        SOCKET_OF_NOTHING,
        {gpu: ("RuntimeError", "0-15,32-47" if gpu < 4 else "16-31,48-63") for gpu in range(8)},
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MACHINES)
def test_a_rank_gets_the_cpus_that_torch_would_give_it(name: str, mode: str, tmp_path: Path) -> None:
    """Losing this: the same --numa-binding means one thing under torchrun and another in a notebook."""
    machine = MACHINES[name]
    topology = fake_sys.topology_of(machine, tmp_path)
    visible = visible_gpus(topology)
    plan = binding.plan(topology, nproc=len(visible), mode=mode, visible=visible)
    with fake_sys.torch_on(tmp_path, machine, visible):
        torchs = [_text(fake_sys.torch_cpus(mode, gpu)) for gpu in range(len(visible))]
    ours = [ranges_text(cpus) for cpus in plan.cpus]
    found = {gpu: pair for gpu, pair in enumerate(zip(torchs, ours, strict=True)) if pair[0] != pair[1]}
    assert found == KNOWN_DIFFERENCES.get((name, mode), (0, {}))[1]


def test_every_known_difference_is_told_in_the_docstring() -> None:
    told = binding.__doc__ or ""
    assert [n for n, _ in KNOWN_DIFFERENCES.values() if f"\n{n}. " not in told] == []


@pytest.mark.parametrize("mode", MODES)
def test_ranks_beyond_the_gpus_share_them_where_torch_raises(mode: str, tmp_path: Path) -> None:
    """Difference 4."""
    machine = fake_sys.TWO_SOCKETS_EIGHT_GPUS
    topology = fake_sys.topology_of(machine, tmp_path)
    visible = visible_gpus(topology, gpus=("3", "4"))
    plan = binding.plan(topology, nproc=4, mode=mode, visible=visible)
    with fake_sys.torch_on(tmp_path, machine, visible):
        torchs = [_text(fake_sys.torch_cpus(mode, rank)) for rank in range(4)]
    ours = [ranges_text(cpus) for cpus in plan.cpus]
    first, second = "0-15,32-47", "16-31,48-63"
    if mode == "exclusive":  # torch would not know of ranks 2 and 3, and give all to 0 and 1
        assert (torchs, ours) == (
            [first, second, "AssertionError", "AssertionError"],
            ["0-7,32-39", "16-23,48-55", "8-15,40-47", "24-31,56-63"],
        )
    else:
        assert (torchs, ours) == ([first, second, "AssertionError", "AssertionError"], [first, second] * 2)


def test_without_a_gpu_ranks_are_spread_where_torch_raises(tmp_path: Path) -> None:
    """Difference 5."""
    machine = fake_sys.NO_GPUS
    topology = fake_sys.topology_of(machine, tmp_path)
    plan = binding.plan(topology, nproc=2, mode="node", visible=[])
    with fake_sys.torch_on(tmp_path, machine, []):
        torchs = [fake_sys.torch_cpus("node", rank) for rank in range(2)]
    assert (torchs, [ranges_text(c) for c in plan.cpus]) == (["AssertionError"] * 2, ["0-15,32-47", "16-31,48-63"])


def test_a_virtual_local_rank_is_bound_to_its_own_gpu(tmp_path: Path) -> None:
    """Difference 7: each rank sees one GPU, and torch asks for device 1, 2, ... of it."""
    machine = fake_sys.TWO_SOCKETS_EIGHT_GPUS
    topology = fake_sys.topology_of(machine, tmp_path)
    visible = visible_gpus(topology, gpus=("0", "4"))
    plan = binding.plan(topology, nproc=2, mode="node", visible=visible, virtual_local_rank=True)
    torchs = []
    for rank, token in enumerate(plan.visible):
        own = visible_gpus(topology, cuda_visible_devices=token)
        with fake_sys.torch_on(tmp_path, machine, own):
            torchs.append(_text(fake_sys.torch_cpus("node", rank)))
    assert plan.visible == ("0", "4")
    assert (torchs, [ranges_text(c) for c in plan.cpus]) == (
        ["0-15,32-47", "AssertionError"],
        ["0-15,32-47", "16-31,48-63"],
    )


@pytest.mark.parametrize("variable", ["4,5,0", "1", "GPU-06,GPU-01", "7,6,5,4,3,2,1,0", "2,9,3"])
@pytest.mark.parametrize("mode", MODES)
def test_visible_devices_map_as_in_torch(variable: str, mode: str, tmp_path: Path) -> None:
    machine = fake_sys.FOUR_NODES_A_SOCKET
    topology = fake_sys.topology_of(machine, tmp_path)
    visible = visible_gpus(topology, cuda_visible_devices=variable)
    plan = binding.plan(topology, nproc=len(visible), mode=mode, visible=visible)
    with fake_sys.torch_on(tmp_path, machine, visible):
        assert plan.cpus == tuple(fake_sys.torch_cpus(mode, gpu) for gpu in range(len(visible)))


@pytest.mark.parametrize("nproc", [1, 3, 8])
@pytest.mark.parametrize("mode", MODES)
def test_fewer_ranks_than_gpus_leave_each_rank_the_cpus_of_its_gpu(mode: str, nproc: int, tmp_path: Path) -> None:
    machine = fake_sys.TWO_SOCKETS_EIGHT_GPUS
    topology = fake_sys.topology_of(machine, tmp_path)
    visible = visible_gpus(topology)
    plan = binding.plan(topology, nproc=nproc, mode=mode, visible=visible)
    with fake_sys.torch_on(tmp_path, machine, visible):
        assert plan.cpus == tuple(fake_sys.torch_cpus(mode, gpu) for gpu in range(nproc))


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Machines without what we treat otherwise on purpose: every node has an allowed CPU, every GPU a known node."""
    node_count, cores, threads = draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 2))
    total = node_count * cores
    nodes, caches, allowed = {}, [], []
    for node in range(node_count):
        first = [node * cores + core for core in range(cores)]
        cpus = first + [cpu + total for cpu in first if threads == 2]
        nodes[node] = ranges_text(cpus)
        cut = draw(st.integers(0, cores))
        caches += [ranges_text([c for c in cpus if c % total in part]) for part in (first[:cut], first[cut:]) if part]
        allowed += draw(st.lists(st.sampled_from(cpus), min_size=1, unique=True))
    return Machine(
        nodes=nodes,
        sockets={node: draw(st.integers(0, 1)) for node in nodes},
        cores=fake_sys.threads_far_apart(total, offset=total) if threads == 2 else (),
        caches=caches,
        gpus=[FakeGpu(draw(st.integers(0, node_count - 1))) for _ in range(draw(st.integers(1, 5)))],
        allowed=ranges_text(allowed),
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(machine=machines())
def test_any_ordinary_machine_is_bound_as_torch_binds_it(
    machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("machine")
    topology = fake_sys.topology_of(machine, root)
    visible = visible_gpus(topology)
    with fake_sys.torch_on(root, machine, visible):
        for mode in MODES:
            torchs = tuple(fake_sys.torch_cpus(mode, gpu) for gpu in range(len(visible)))
            try:
                ours = binding.plan(topology, nproc=len(visible), mode=mode, visible=visible).cpus
            except OptionError:
                # Too few cores for exclusive: torch fails those GPUs' ranks one by one, we the launch before it starts.
                assert (mode, "RuntimeError" in torchs) == ("exclusive", True)
            else:
                assert ours == torchs


def _text(cpus: tuple[int, ...] | str) -> str:
    return cpus if isinstance(cpus, str) else ranges_text(cpus)
