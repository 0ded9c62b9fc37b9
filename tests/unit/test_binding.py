"""What a rank is bound to: ``auto``, ranks without GPUs, the words for it, and the binding of this very process.

Runs in: the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nb_elastic import binding
from nb_elastic.errors import OptionError
from nb_elastic.model_options import LaunchOptions
from nb_elastic.topology import ranges_text, visible_gpus
from tests.support import fake_sys
from tests.support.fake_sys import FakeGpu, Machine

TWO_SOCKETS = fake_sys.TWO_SOCKETS_EIGHT_GPUS


def plan_for(
    machine: Machine,
    root: Path,
    *,
    nproc: int,
    mode: str = "auto",
    gpus: tuple[str, ...] = (),
    is_virtual: bool = False,
) -> binding.BindingPlan:
    topology = fake_sys.topology_of(machine, root)
    visible = visible_gpus(topology, gpus=gpus)
    return binding.plan(topology, nproc=nproc, mode=mode, visible=visible, virtual_local_rank=is_virtual)


def cpus_of(plan: binding.BindingPlan) -> list[str]:
    return [ranges_text(cpus) for cpus in plan.cpus]


def test_auto_binds_each_rank_near_its_gpu(tmp_path: Path) -> None:
    plan = plan_for(TWO_SOCKETS, tmp_path, nproc=8)
    assert (plan.mode, plan.note) == ("node", "")
    assert cpus_of(plan) == ["0-15,32-47"] * 4 + ["16-31,48-63"] * 4
    assert plan.text[5] == "CPUs 16-31,48-63: NUMA node 1 (near GPU 5)"


@pytest.mark.parametrize(
    ("machine", "nproc", "note"),
    [
        (fake_sys.ONE_NODE_UNKNOWN, 2, "CPU binding is off: there is one NUMA node to run on."),
        (fake_sys.HALF_A_NODE, 8, "CPU binding is off: there is one NUMA node to run on."),
        (
            fake_sys.TWO_NODES_UNKNOWN,
            4,
            "CPU binding is off: the machine does not tell the NUMA node of GPU 0, 1, 2, 3.",
        ),
        (
            fake_sys.NO_GPUS,
            1,
            "CPU binding is off: 1 of 2 NUMA nodes would be used; each rank may use them all.",
        ),
    ],
)
def test_auto_leaves_binding_off_and_says_why(machine: Machine, nproc: int, note: str, tmp_path: Path) -> None:
    plan = plan_for(machine, tmp_path, nproc=nproc)
    assert (plan.mode, plan.cpus, plan.note) == ("none", ((),) * nproc, note)
    assert plan.nodes == (None,) * nproc


def test_none_binds_nothing(tmp_path: Path) -> None:
    plan = plan_for(TWO_SOCKETS, tmp_path, nproc=2, mode="none")
    assert (plan.cpus, plan.note) == (((), ()), "CPU binding is off, as asked.")


def test_ranks_without_gpus_fill_the_nodes_in_blocks(tmp_path: Path) -> None:
    """A sampler or a CPU training run uses the whole machine, neighbours in rank being neighbours in memory."""
    plan = plan_for(fake_sys.NO_GPUS, tmp_path, nproc=4)
    assert (plan.nodes, plan.note) == ((0, 0, 1, 1), "")
    assert plan_for(fake_sys.NO_GPUS, tmp_path, nproc=4, mode="exclusive").cpus == tuple(
        (*range(first, first + 8), *range(first + 32, first + 40)) for first in (0, 8, 16, 24)
    )


def test_a_node_with_more_allowed_cpus_gets_more_ranks(tmp_path: Path) -> None:
    machine = Machine(nodes={0: "0-3", 1: "4-15"})
    assert plan_for(machine, tmp_path, nproc=4).nodes == (0, 1, 1, 1)


def test_ranks_of_unknown_gpus_go_where_the_known_ones_are_not(tmp_path: Path) -> None:
    machine = TWO_SOCKETS.but(gpus=[FakeGpu(0), FakeGpu(-1), FakeGpu(0), FakeGpu(-1)])
    assert plan_for(machine, tmp_path, nproc=4, mode="node").nodes == (0, 1, 0, 1)


def test_a_gpu_whose_node_has_no_allowed_cpu_takes_the_nearest_and_says_so(tmp_path: Path) -> None:
    plan = plan_for(fake_sys.GRACE_HOPPER_MEMORY_NODES, tmp_path, nproc=3)
    assert plan.nodes == (1, 4, 0)
    assert plan.text == (
        "CPUs 4-7: NUMA node 1 (near GPU 0, whose own node 2 has no allowed CPU)",
        "CPUs 12-15: NUMA node 4 (near GPU 1, whose own node 5 has no allowed CPU)",
        "CPUs 0-3: NUMA node 0 (near GPU 2)",
    )


def test_exclusive_with_too_few_cores_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        plan_for(Machine(nodes={0: "0-1"}), tmp_path, nproc=3, mode="exclusive")
    assert str(error.value) == (
        "--numa-binding exclusive: NUMA node 0 has 2 allowed cores for 3 ranks or GPUs. "
        "Use --numa-binding node, where ranks share them, or fewer ranks."
    )


def test_an_unknown_mode_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        plan_for(TWO_SOCKETS, tmp_path, nproc=1, mode="sockets")
    assert str(error.value) == (
        "--numa-binding sockets: give one of auto, none, node, socket, exclusive, core-complex."
    )


def test_the_dry_run_shows_gpu_node_and_cpus_of_each_rank(tmp_path: Path) -> None:
    assert binding.describe(plan_for(TWO_SOCKETS, tmp_path, nproc=2, gpus=("1", "6"))) == (
        "local rank 0: cuda:0 NVIDIA H100 80GB HBM3, 0000:11:00.0, NUMA node 0, CPUs 0-15,32-47",
        "local rank 1: cuda:1 NVIDIA H100 80GB HBM3, 0000:16:00.0, NUMA node 1, CPUs 16-31,48-63",
    )
    assert binding.describe(plan_for(fake_sys.NO_GPUS, tmp_path, nproc=1)) == ("local rank 0: any allowed CPU",)


def test_a_virtual_local_rank_sees_its_own_gpu_as_the_first(tmp_path: Path) -> None:
    plan = plan_for(TWO_SOCKETS, tmp_path, nproc=2, gpus=("1", "6"), is_virtual=True)
    assert plan.visible == ("1", "6")
    assert [device.split(",")[0] for device in plan.devices] == ["cuda:0 NVIDIA H100 80GB HBM3"] * 2


def test_ranks_see_the_chosen_gpus_of_those_that_the_notebook_sees(tmp_path: Path) -> None:
    """--gpus 0,2 under CUDA_VISIBLE_DEVICES=4,5,6 is GPUs 4 and 6: not somebody else's GPUs 0 and 2."""
    options = LaunchOptions(gpus=("0", "2"))
    topology = fake_sys.topology_of(TWO_SOCKETS, tmp_path)
    plan = binding.for_node(options, environ={"CUDA_VISIBLE_DEVICES": "4,5,6"}, topology=topology)
    assert (plan.nproc, plan.visible, plan.nodes, plan.note) == (2, ("4,6", "4,6"), (1, 1), "")


def test_all_that_the_machine_decides_comes_with_what_to_know(tmp_path: Path) -> None:
    machine = fake_sys.ONE_NODE_UNKNOWN.but(gpus=[FakeGpu(-1, "NVIDIA T4"), FakeGpu(-1, "NVIDIA L4")])
    plan = binding.for_node(LaunchOptions(), environ={}, topology=fake_sys.topology_of(machine, tmp_path))
    assert (plan.nproc, plan.visible) == (2, ("", ""))  # nothing was asked for: the variable stays unset
    assert plan.note == (
        "CPU binding is off: there is one NUMA node to run on. This machine's GPUs differ, and CUDA then numbers them "
        "fastest first while nvidia-smi (and this map) follows the PCI bus: set CUDA_DEVICE_ORDER=PCI_BUS_ID to have "
        "one numbering."
    )


def test_a_machine_without_gpus_leaves_the_variable_alone(tmp_path: Path) -> None:
    topology = fake_sys.topology_of(fake_sys.NO_GPUS, tmp_path)
    options = LaunchOptions(nproc_per_node=2, virtual_local_rank=True)
    plan = binding.for_node(options, environ={"CUDA_VISIBLE_DEVICES": ""}, topology=topology)
    assert (plan.visible, plan.devices, plan.nodes) == (("", ""), ("", ""), (0, 1))


def test_several_mig_slices_want_a_virtual_local_rank(tmp_path: Path) -> None:
    """CUDA shows one slice a process: without this note ranks 1, 2, ... die of an invalid device."""
    machine = fake_sys.ONE_NODE_UNKNOWN.but(gpus=[FakeGpu(-1, migs=("MIG-a", "MIG-b"))])
    note = "CUDA shows a process only the first of its MIG devices: use --virtual-local-rank to give each rank one."
    assert plan_for(machine, tmp_path, nproc=2, gpus=("MIG-a", "MIG-b"), mode="node").note == note
    own = plan_for(machine, tmp_path, nproc=2, gpus=("MIG-a", "MIG-b"), mode="node", is_virtual=True)
    assert (own.note, own.visible) == ("", ("MIG-a", "MIG-b"))


APPLY = """
import json, os, sys, threading
from nb_elastic import binding
mine, others = int(sys.argv[1]), [int(c) for c in sys.argv[2].split(",")]
ready, leave, seen = threading.Barrier(3), threading.Event(), {}
def thread(name, cpus):
    if cpus:
        os.sched_setaffinity(0, cpus)
    ready.wait()
    leave.wait()
    seen[name] = sorted(os.sched_getaffinity(0))
threads = [threading.Thread(target=thread, args=a) for a in (("plain", ()), ("bound elsewhere", others))]
[t.start() for t in threads]
ready.wait()
got = binding.apply((mine,))
leave.set()
[t.join() for t in threads]
print(json.dumps([got, seen, binding.shortfall((mine,), got)]))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs to tell them apart")
def test_all_threads_are_bound_but_those_that_somebody_bound_before() -> None:
    first, second = sorted(os.sched_getaffinity(0))[:2]
    done = subprocess.run(
        [sys.executable, "-c", APPLY, str(first), str(second)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[first], {"plain": [first], "bound elsewhere": [second]}, ""]


def test_cpus_that_went_away_are_told_not_raised() -> None:
    """A CPU may leave the cpuset between plan and start; the rank then runs where it may."""
    mine = tuple(sorted(os.sched_getaffinity(0)))
    gone = (max(mine) + 1000,)
    assert binding.apply(gone) == mine
    assert binding.shortfall(gone, mine) == f"asked for CPUs {gone[0]}, the kernel gave {ranges_text(mine)}"


def test_no_cpus_leave_the_affinity_alone() -> None:
    mine = tuple(sorted(os.sched_getaffinity(0)))
    assert (binding.apply(()), binding.shortfall((), mine)) == (mine, "")
