"""The map of a machine as read from sysfs and cgroups: nodes, CPUs, cores, caches, cpusets, quotas.

Runs in: the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nb_elastic import topology as topologies
from nb_elastic.sysfs import Cpu, Node, allowed_cpus, cpu_quota, parse_ranges, ranges_text
from nb_elastic.topology import Topology, read, resolve_nproc
from tests.support import fake_sys
from tests.support.fake_sys import FakeGpu, Machine


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_nodes_cpus_cores_and_caches_are_read(tmp_path: Path) -> None:
    machine = Machine(
        nodes={0: "0-1,4-5", 2: "2-3,6-7", 7: ""},
        sockets={0: 0, 2: 1},
        cores=["0,4", "1,5", "2,6", "3,7"],
        caches=["0-1,4-5", "2,6", "3,7"],
        distances={0: "10 21 80", 2: "21 10 81", 7: "80 81 10"},
        gpus=[FakeGpu(2), FakeGpu(7), FakeGpu(1), FakeGpu(-1)],
        allowed="1-6",
    )
    topology = fake_sys.topology_of(machine, tmp_path)
    assert topology.nodes == (
        Node(index=0, cpus=(0, 1, 4, 5), memory_bytes=1 << 30, distances=((0, 10), (2, 21), (7, 80))),
        Node(index=2, cpus=(2, 3, 6, 7), memory_bytes=1 << 30, distances=((0, 21), (2, 10), (7, 81))),
        Node(index=7, cpus=(), memory_bytes=1 << 30, distances=((0, 80), (2, 81), (7, 10))),
    )
    assert topology.cpus == (
        Cpu(index=1, node=0, socket=0, core=1, cache=0),
        Cpu(index=2, node=2, socket=1, core=2, cache=2),
        Cpu(index=3, node=2, socket=1, core=3, cache=3),
        Cpu(index=4, node=0, socket=0, core=0, cache=0),
        Cpu(index=5, node=0, socket=0, core=1, cache=0),
        Cpu(index=6, node=2, socket=1, core=2, cache=2),
    )
    assert [gpu.numa_node for gpu in topology.gpus] == [2, 7, None, None]  # node 1 does not exist
    assert (topology.cpu_nodes, topology.cpus_of(2), topology.usable_cpus) == ((0, 2), (2, 3, 6), 6)


def test_a_gpu_of_unknown_node_is_on_the_only_node_with_cpus(tmp_path: Path) -> None:
    one = fake_sys.topology_of(fake_sys.ONE_NODE_UNKNOWN, tmp_path / "one")
    superchip = Machine(nodes={0: "0-3", 1: ""}, gpus=[FakeGpu(-1)])
    assert [gpu.numa_node for gpu in one.gpus] == [0, 0]
    assert fake_sys.topology_of(superchip, tmp_path / "superchip").gpus[0].numa_node == 0


def test_a_kernel_without_numa_or_sysfs_is_one_node(tmp_path: Path) -> None:
    """Sandboxes and other systems hide sysfs: a launch must still work there."""
    topology = read(root=tmp_path, allowed=(3, 5))
    assert topology == Topology(
        nodes=(Node(index=0, cpus=(3, 5)),),
        cpus=tuple(Cpu(index=cpu, node=0, socket=-1, core=cpu, cache=-1) for cpu in (3, 5)),
    )


def test_nonsense_in_sysfs_is_unknown_not_an_error(tmp_path: Path) -> None:
    root = fake_sys.write(Machine(nodes={0: "0-1"}, gpus=[FakeGpu(0)]), tmp_path)
    put(
        root,
        {
            "sys/devices/system/cpu/cpu0/topology/physical_package_id": "\n",
            "sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "zero",
            "sys/devices/system/cpu/cpu0/cache/index1/level": "L3",
            "sys/devices/system/node/node0/distance": "banana",
            "sys/bus/pci/devices/0000:10:00.0/numa_node": "",
        },
    )
    topology = read(root=root, nvml=fake_sys.FakeNvml(Machine(nodes={}, gpus=[FakeGpu(0)])), allowed=(0,))
    assert topology.cpus == (Cpu(index=0, node=0, socket=-1, core=0, cache=0),)
    assert (topology.nodes[0].distances, topology.gpus[0].numa_node) == ((), 0)


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/pod/box/cpuset.cpus.effective": "0,77\n"},
        {"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/cpuset.cpus.effective": "0,77\n"},
        {"proc/self/cgroup": "1:name=systemd:/\n0::/../..\n", "sys/fs/cgroup/cpuset.cpus.effective": "0\n"},
        {"proc/self/cgroup": "3:cpuset:/docker/1f\n0::/\n", "sys/fs/cgroup/cpuset/cpuset.cpus": "0\n"},
        {"proc/self/cgroup": "3:cpuset:/box\n", "sys/fs/cgroup/cpuset/box/cpuset.effective_cpus": "0\n"},
    ],
    ids=["v2", "v2, host's path in a container", "v2, path above the namespace", "v1 in docker", "v1"],
)
def test_a_cpuset_is_obeyed(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2})
    assert allowed_cpus(put(tmp_path, files)) == (0,)


@pytest.mark.parametrize("cpuset", ["", "8-9", "many"])
def test_a_cpuset_that_says_nothing_leaves_the_affinity(
    cpuset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpuset.cpus.effective": cpuset}
    assert allowed_cpus(put(tmp_path, files)) == (0, 1)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2.5),
        (
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/box\n",
                "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
            },
            1.5,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
    ids=["none", "v2 unlimited", "v2", "v2 of the pod", "v1", "v1 unlimited"],
)
def test_a_containers_quota_is_read(files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    assert cpu_quota(put(tmp_path, files)) == quota


def test_a_container_of_two_cpus_on_a_large_host_gets_two_ranks(tmp_path: Path) -> None:
    """`docker run --cpus 2` on 64 CPUs: 64 ranks would crawl."""
    root = fake_sys.write(fake_sys.NO_GPUS, tmp_path)
    put(root, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"})
    topology = read(root=root, allowed=range(64))
    assert [resolve_nproc(n, topology=topology, visible=[]) for n in ("cpu", "auto", 5)] == [2, 2, 5]


@given(st.sets(st.integers(0, 300)))
def test_range_text_keeps_every_number(numbers: set[int]) -> None:
    assert parse_ranges(ranges_text(numbers)) == tuple(sorted(numbers))


def test_range_text_is_torchs_own() -> None:
    from torch.numa.binding import _get_ranges_str_from_ints, _get_set_of_int_from_ranges_str

    for numbers in ([], [4], [0, 1, 2, 4, 6, 7], [9, 8, 7, 1]):
        assert ranges_text(numbers) == _get_ranges_str_from_ints(numbers)
    for text in ("", "0", "0-2,4,6-7\n", " 1 , 3-3 "):
        assert set(parse_ranges(text)) == _get_set_of_int_from_ranges_str(text)


def test_the_map_for_the_run_folder_is_json(tmp_path: Path) -> None:
    machine = fake_sys.HALF_A_NODE.but(gpus=[FakeGpu(1)])
    told = topologies.to_json(fake_sys.topology_of(machine, tmp_path))
    assert json.loads(json.dumps(told)) == {
        "nodes": [
            {"index": 0, "cpus": "0-15,32-47", "allowed": "0-7", "memory_bytes": 1 << 30},
            {"index": 1, "cpus": "16-31,48-63", "allowed": "", "memory_bytes": 1 << 30},
        ],
        "gpus": [
            {
                "index": 0,
                "name": "NVIDIA H100 80GB HBM3",
                "uuid": fake_sys.uuid_of(0),
                "pci": "0000:10:00.0",
                "numa_node": 1,
                "memory_bytes": 80 << 30,
            }
        ],
        "cpu_quota": None,
        "notes": [],
    }


REAL = """
import os, sys
from nb_elastic import topology
found = topology.read()
assert tuple(cpu.index for cpu in found.cpus) == tuple(sorted(os.sched_getaffinity(0))), found
maps = open("/proc/self/maps").read()
print([name for name in ("torch", "numpy", "IPython") if name in sys.modules], "libcuda.so" in maps)
"""


def test_this_machine_is_read_without_torch_or_cuda() -> None:
    """Touching CUDA here would break it in every rank forked later."""
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, check=True)
    assert done.stdout == "[] False\n"
