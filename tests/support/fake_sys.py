"""Pretended machines: writes sysfs trees, stands in for NVML, and lets torch's own NUMA functions look at the same tree.

Runs in: the tests.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from nb_elastic.nvml import NvmlDevice, NvmlMig
from nb_elastic.topology import Gpu, Topology, parse_ranges, ranges_text, read


@dataclass(frozen=True)
class FakeGpu:
    """One pretended GPU. ``numa_node`` is what sysfs says, -1 included."""

    numa_node: int
    name: str = "NVIDIA H100 80GB HBM3"
    migs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """One pretended machine.

    Attributes:
        nodes: NUMA node -> its CPUs in the kernel's list format; "" for memory only.
        sockets: NUMA node -> physical package.
        packages: CPU -> physical package, where a node spans several.
        cores: groups of sibling threads; a CPU in none is a core by itself.
        caches: groups that share the largest-level cache; None writes no caches at all.
        possible: nodes that could exist, as the kernel lists them; by default those that do.
        distances: rows of /sys/devices/system/node/node<k>/distance.
        allowed: CPUs of the process, by default all.
    """

    nodes: Mapping[int, str]
    sockets: Mapping[int, int] = field(default_factory=dict)
    packages: Mapping[int, int] = field(default_factory=dict)
    cores: Sequence[str] = ()
    caches: Sequence[str] | None = ()
    gpus: Sequence[FakeGpu] = ()
    possible: str = ""
    distances: Mapping[int, str] = field(default_factory=dict)
    allowed: str = ""

    @property
    def cpus(self) -> tuple[int, ...]:
        return parse_ranges(",".join(self.nodes.values()))

    @property
    def allowed_cpus(self) -> tuple[int, ...]:
        return parse_ranges(self.allowed) if self.allowed else self.cpus

    def but(self, **changes: Any) -> Machine:
        return replace(self, **changes)


class FakeNvml:
    """NVML of a pretended machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def devices(self) -> list[NvmlDevice]:
        return [
            NvmlDevice(
                index=index,
                uuid=uuid_of(index),
                pci=pci_of(index),
                name=gpu.name,
                memory_bytes=80 << 30,
                migs=tuple(
                    NvmlMig(uuid=uuid, name=f"{gpu.name} MIG 1g.10gb", memory_bytes=10 << 30) for uuid in gpu.migs
                ),
            )
            for index, gpu in enumerate(self.machine.gpus)
        ]


def pci_of(index: int) -> str:
    return f"0000:{0x10 + index:02x}:00.0"


def uuid_of(index: int) -> str:
    return f"GPU-{index:02x}ab0000-0000-0000-0000-{index:012x}"


def write(machine: Machine, root: Path) -> Path:
    """Write a machine's sysfs below ``root``; returns ``root``."""
    node_root, cpu_root, pci_root = (
        root / "sys" / part for part in ("devices/system/node", "devices/system/cpu", "bus/pci/devices")
    )
    siblings = {cpu: group for group in machine.cores for cpu in parse_ranges(group)}
    sharers = {cpu: group for group in machine.caches or () for cpu in parse_ranges(group)}
    _put(node_root / "possible", machine.possible or ranges_text(machine.nodes))
    for node, cpus in machine.nodes.items():
        row = machine.distances.get(node) or " ".join("10" if other == node else "20" for other in machine.nodes)
        _put(node_root / f"node{node}" / "cpulist", cpus)
        _put(node_root / f"node{node}" / "distance", row)
        _put(node_root / f"node{node}" / "meminfo", f"Node {node} MemTotal:       1048576 kB")
        for cpu in parse_ranges(cpus):
            topology = cpu_root / f"cpu{cpu}" / "topology"
            _put(topology / "physical_package_id", str(machine.packages.get(cpu, machine.sockets.get(node, 0))))
            _put(topology / "thread_siblings_list", siblings.get(cpu, str(cpu)))
            if machine.caches is not None:
                cache = cpu_root / f"cpu{cpu}" / "cache"
                core = siblings.get(cpu, str(cpu))
                levels = (("1", "Data", core), ("3", "Unified", sharers.get(cpu, cpus)), ("1", "Instruction", core))
                for index, (level, kind, shared) in enumerate(levels):
                    _put(cache / f"index{index}" / "level", level)
                    _put(cache / f"index{index}" / "type", kind)
                    _put(cache / f"index{index}" / "shared_cpu_list", shared)
    pci_root.mkdir(parents=True, exist_ok=True)
    for index, gpu in enumerate(machine.gpus):
        folder = pci_root / pci_of(index)
        _put(folder / "numa_node", str(gpu.numa_node))
        _put(folder / "class", "0x030200")
        _put(folder / "vendor", "0x10de")
    return root


def topology_of(machine: Machine, root: Path) -> Topology:
    """Our map of a pretended machine."""
    return read(root=write(machine, root), nvml=FakeNvml(machine), allowed=machine.allowed_cpus)


@contextlib.contextmanager
def torch_on(root: Path, machine: Machine, visible: Sequence[Gpu]) -> Iterator[None]:
    """Let ``torch.numa.binding`` read the tree below ``root``: its files, folders, affinity and CUDA properties.

    ``visible`` are the GPUs that CUDA would show the process.
    """
    import torch
    import torch.numa.binding as torch_binding

    def properties(device: int) -> SimpleNamespace:
        if not 0 <= device < len(visible):
            raise AssertionError("Invalid device id")  # what torch raises
        domain, bus, rest = visible[device].pci.split(":")
        return SimpleNamespace(
            pci_domain_id=int(domain, 16), pci_bus_id=int(bus, 16), pci_device_id=int(rest.split(".")[0], 16)
        )

    def below(path: str) -> str:
        return f"{root}{path}" if str(path).startswith("/sys/") else path

    fake_os = SimpleNamespace(
        listdir=lambda path: os.listdir(below(path)),
        path=os.path,
        sched_getaffinity=lambda _pid: set(machine.allowed_cpus),
    )
    with (
        mock.patch.object(torch_binding, "open", lambda path: builtins.open(below(path)), create=True),
        mock.patch.object(torch_binding, "os", fake_os),
        mock.patch.object(torch.cuda, "device_count", lambda: len(visible)),
        mock.patch.object(torch.cuda, "get_device_properties", properties),
        # newer torch asks the accelerator instead of CUDA
        mock.patch.object(torch.accelerator, "device_count", lambda: len(visible)),
        mock.patch.object(torch.accelerator, "is_available", lambda: True),
        mock.patch.object(torch.accelerator, "current_accelerator", lambda: torch.device("cuda")),
    ):
        yield


def torch_cpus(mode: str, gpu_index: int) -> tuple[int, ...] | str:
    """CPUs that torch binds the rank of a GPU to, or the name of what it raises. Inside ``torch_on``."""
    from torch.numa.binding import AffinityMode, NumaOptions, _get_logical_cpus_to_bind_to

    options = NumaOptions(affinity_mode=AffinityMode(mode))
    keywords = inspect.signature(_get_logical_cpus_to_bind_to).parameters
    index = "gpu_index" if "gpu_index" in keywords else "device_index"  # its name in newer torch
    try:
        cpus = _get_logical_cpus_to_bind_to(**{index: gpu_index}, numa_options=options)
    except Exception as error:
        return type(error).__name__
    return tuple(sorted(cpus)) or "RuntimeError"  # its _raise_if_binding_invalid


def threads_far_apart(cores: int, *, first: int = 0, offset: int) -> list[str]:
    """Sibling groups as Linux numbers them on most servers: CPU k and CPU k + offset are one core."""
    return [f"{cpu},{cpu + offset}" for cpu in range(first, first + cores)]


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="ascii")


H100 = FakeGpu(0)

TWO_SOCKETS_EIGHT_GPUS = Machine(
    nodes={0: "0-15,32-47", 1: "16-31,48-63"},
    sockets={0: 0, 1: 1},
    cores=threads_far_apart(32, offset=32),
    gpus=[FakeGpu(node) for node in (0, 0, 0, 0, 1, 1, 1, 1)],
    distances={0: "10 21", 1: "21 10"},
)
"""An HGX machine: two sockets, two threads a core, four GPUs each."""

FOUR_NODES_A_SOCKET = Machine(
    nodes={node: f"{4 * node}-{4 * node + 3},{32 + 4 * node}-{32 + 4 * node + 3}" for node in range(8)},
    sockets={node: node // 4 for node in range(8)},
    cores=threads_far_apart(32, offset=32),
    caches=[f"{c}-{c + 1},{32 + c}-{32 + c + 1}" for c in range(0, 32, 2)],
    gpus=[FakeGpu(node) for node in (3, 3, 1, 1, 7, 7, 5, 5)],
)
"""A DGX A100: EPYC in NPS4, two core complexes a node, GPUs in an order that isn't the nodes'."""

ONE_NODE_UNKNOWN = Machine(nodes={0: "0-7"}, gpus=[FakeGpu(-1), FakeGpu(-1)], caches=["0-3", "4-7"])
"""A workstation or virtual machine: one node, and sysfs says -1 for its GPUs."""

TWO_NODES_UNKNOWN = Machine(
    nodes={0: "0-7", 1: "8-15"}, sockets={0: 0, 1: 1}, gpus=[FakeGpu(-1)] * 4, caches=["0-7", "8-15"]
)
"""A virtual machine that hides where its GPUs are."""

GRACE_HOPPER = Machine(
    nodes={0: "0-3", 1: "4-7", 2: "", 3: "8-11", 4: "12-15", 5: ""},
    sockets={0: 0, 1: 1, 3: 2, 4: 3},
    gpus=[FakeGpu(0), FakeGpu(1), FakeGpu(3), FakeGpu(4)],
    possible="0-5",
    distances={2: "20 12 10 40 40 40", 5: "40 40 40 20 12 10"},
)
"""Four superchips: each a socket; nodes 2 and 5 hold GPU memory and no CPU."""

GRACE_HOPPER_MEMORY_NODES = GRACE_HOPPER.but(gpus=[FakeGpu(2), FakeGpu(5), FakeGpu(0)])
"""The same, where firmware puts the GPUs on their memory's nodes."""

HALF_A_NODE = TWO_SOCKETS_EIGHT_GPUS.but(allowed="0-7")
"""A container with a cpuset of half of node 0's cores, one thread each."""

HALF_OF_EACH = TWO_SOCKETS_EIGHT_GPUS.but(allowed="0-7,16-23,32-35")
"""A cpuset of half of both nodes, with some cores' second threads."""

NEIGHBOUR_THREADS = Machine(
    nodes={0: "0-7", 1: "8-15"},
    sockets={0: 0, 1: 1},
    cores=[f"{cpu}-{cpu + 1}" for cpu in range(0, 16, 2)],
    gpus=[FakeGpu(0), FakeGpu(0), FakeGpu(0), FakeGpu(1)],
)
"""Threads of a core are neighbours (POWER, some BIOSes); three GPUs don't divide four cores."""

UNEVEN_CACHES = Machine(
    nodes={0: "0-11", 1: "12-15"},
    sockets={0: 0, 1: 0},
    caches=["0-1", "2-7", "8-11", "12-15"],
    gpus=[FakeGpu(0)] * 4 + [FakeGpu(1)],
)
"""Core complexes of 2, 6 and 4 CPUs, as partly disabled chips have."""

NO_CACHES = Machine(nodes={0: "0-3", 1: "4-7"}, sockets={0: 0, 1: 1}, caches=None, gpus=[FakeGpu(0), FakeGpu(1)])
"""A virtual machine that hides its caches."""

SPARE_NODES = TWO_SOCKETS_EIGHT_GPUS.but(possible="0-3")
"""Nodes 2 and 3 could be plugged in, and aren't."""

NO_GPUS = TWO_SOCKETS_EIGHT_GPUS.but(gpus=())
"""Two sockets and no GPU."""

INTERLEAVED = Machine(
    nodes={0: "0-7"}, packages={cpu: cpu // 4 for cpu in range(8)}, caches=["0-3", "4-7"], gpus=[FakeGpu(0)] * 2
)
"""Two sockets that the BIOS shows as one node."""
