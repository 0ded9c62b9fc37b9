"""Owns which CPUs each rank is bound to, and the binding itself.

Runs in: the supervisor (plan), the worker (apply), the kernel or CLI (dry run). Needs no ``numactl``.

The modes mean what ``torch.numa.binding`` (PyTorch 2.13) means by them, and give the same CPUs, for the GPUs that the
ranks see. On purpose we differ in these points, each with a test against torch's own functions:

1. Unknown NUMA node (sysfs says -1) on a machine of several nodes: torch takes node 0 for all; we spread these ranks
   over the nodes by their allowed CPUs, and ``auto`` leaves binding off.
2. A GPU's node has no allowed CPU (Grace Hopper's GPU memory nodes, cpusets): torch raises; we take the nearest node
   that has one, by the kernel's distances, and say so.
3. ``socket`` where any possible node of the machine has no allowed CPU, or does not exist: torch takes the minimum of
   an empty set, or of a missing file, and raises; we pass over such nodes.
4. More ranks than visible GPUs: torch raises on the device number; rank i uses GPU ``i % n``, and ``exclusive`` and
   ``core-complex`` share a node's cores among its ranks.
5. No GPU: torch can't bind; ranks are spread over the nodes in blocks, by allowed CPUs, and a mode applies there.
6. Caches that the machine doesn't tell (many virtual machines): torch raises in ``core-complex``; the NUMA node
   counts as one complex. Sockets that it doesn't tell: torch raises in ``socket``; they count as one.
7. ``--virtual-local-rank``: torch asks for device ``local_rank`` where each rank sees only device 0, and raises; we
   bind to the GPU that the rank really gets.
8. ``numactl``: torch refuses without the program, which it uses for commands only; we need it for nothing.

Memory follows by first touch, as with torch.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nb_elastic.errors import OptionError
from nb_elastic.model_options import NUMA_MODES, LaunchOptions
from nb_elastic.sysfs import Cpu, ranges_text
from nb_elastic.topology import Gpu, Topology, read, resolve_nproc, visible_gpus, visible_note, visible_value


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingPlan:
    """Where each local rank goes; every tuple has one item a rank.

    Attributes:
        mode: the mode in force: never ``auto``.
        cpus: logical CPUs, sorted; empty leaves the affinity alone.
        nodes: NUMA node of those CPUs, None where the rank isn't bound.
        text: how the CPUs came to be, in words.
        devices: the rank's GPU in words, ``cuda:2 NVIDIA H100, 0000:3b:00.0``; "" without GPUs.
        visible: the rank's CUDA_VISIBLE_DEVICES, with ``--gpus`` and ``--virtual-local-rank`` in it; "" where the
            variable stays as the user has it.
        note: one line on the whole plan: that and why binding is off, or what to know; may be "".
    """

    mode: str
    cpus: tuple[tuple[int, ...], ...]
    nodes: tuple[int | None, ...]
    text: tuple[str, ...]
    devices: tuple[str, ...]
    visible: tuple[str, ...]
    note: str = ""

    @property
    def nproc(self) -> int:
        """Number of ranks on this node."""
        return len(self.cpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slot:
    """A place for a rank: a GPU, or a share of the machine without one.

    ``exclusive`` and ``core-complex`` divide a node among its slots. There is one for every visible GPU, used or not,
    as in torch, so that the CPUs of a GPU don't depend on how many others a run takes.
    """

    node: int
    why: str


def for_node(options: LaunchOptions, *, environ: Mapping[str, str], topology: Topology | None = None) -> BindingPlan:
    """Read this machine and decide on everything that it decides: number of ranks, their GPUs and CPUs.

    Args:
        environ: of the ranks, before anything of ours; CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER are looked at.

    Raises:
        OptionError: if an option asks for what isn't there.
    """
    topology = read() if topology is None else topology
    visible = visible_gpus(topology, cuda_visible_devices=environ.get("CUDA_VISIBLE_DEVICES"), gpus=options.gpus)
    nproc = resolve_nproc(options.nproc_per_node, topology=topology, visible=visible)
    bound = plan(
        topology,
        nproc=nproc,
        mode=options.numa_binding,
        visible=visible,
        virtual_local_rank=options.virtual_local_rank,
    )
    notes = (bound.note, *topology.notes, visible_note(topology, environ=environ))
    # A variable that the user set, or left unset, stays as it is unless an option needs another.
    shown = bound.visible if options.gpus or options.virtual_local_rank else ("",) * nproc
    return replace(bound, visible=shown, note=" ".join(filter(None, notes)))


def plan(
    topology: Topology, *, nproc: int, mode: str, visible: Sequence[Gpu], virtual_local_rank: bool = False
) -> BindingPlan:
    """Decide on the CPUs of each local rank; rank i uses the visible GPU ``i % len(visible)``.

    Args:
        mode: one of ``auto``, ``none``, ``node``, ``socket``, ``exclusive``, ``core-complex``.

    Raises:
        OptionError: if the mode is unknown, or ``exclusive`` has fewer cores than ranks.
    """
    mode = mode.replace("_", "-")
    if mode not in NUMA_MODES:
        raise OptionError(f"--numa-binding {mode}: give one of {', '.join(NUMA_MODES)}.")
    notes = [_mig_note(visible, nproc=nproc, virtual_local_rank=virtual_local_rank)]
    off = _why_off(topology, nproc=nproc, mode=mode, visible=visible)
    bound: list[tuple[tuple[int, ...], int | None, str]] = [((), None, off)] * nproc
    if not off:
        mode = "node" if mode == "auto" else mode
        slots = _slots(topology, nproc=nproc, visible=visible)
        bound = [_bind(topology, slots, rank, mode) for rank in range(nproc)]
    return BindingPlan(
        mode="none" if off else mode,
        cpus=tuple(cpus for cpus, _, _ in bound),
        nodes=tuple(node for _, node, _ in bound),
        text=tuple(text for _, _, text in bound),
        devices=tuple(_device_text(visible, rank, is_virtual=virtual_local_rank) for rank in range(nproc)),
        visible=tuple(_visible_value(visible, rank, is_virtual=virtual_local_rank) for rank in range(nproc)),
        note=" ".join(filter(None, (off, *notes))),
    )


def apply(cpus: Sequence[int]) -> tuple[int, ...]:
    """Bind this process, all its threads included, to logical CPUs; empty leaves it alone.

    Threads whose affinity was already another than the main thread's are left alone, as torch does: somebody meant it.

    Returns:
        The CPUs that the kernel now allows, read back, sorted; ``shortfall`` puts a difference in words. Empty on a
        system without affinities.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ()
    if cpus:
        before = os.sched_getaffinity(0)
        # A CPU that went offline, or out of the cpuset, since the plan: what we read back tells it.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cpus)
            for name in os.listdir("/proc/self/task"):
                with contextlib.suppress(OSError):  # the thread has ended
                    if os.sched_getaffinity(int(name)) == before:
                        os.sched_setaffinity(int(name), cpus)
    return tuple(sorted(os.sched_getaffinity(0)))


def shortfall(asked: Sequence[int], got: Sequence[int]) -> str:
    """What ``apply`` could not do, in words, or ""."""
    if not asked or set(asked) == set(got):
        return ""
    return f"asked for CPUs {ranges_text(asked)}, the kernel gave {ranges_text(got) or 'none'}"


def describe(bound: BindingPlan) -> tuple[str, ...]:
    """One line a local rank: its GPU, NUMA node and CPUs, for the dry run and the dashboard."""
    lines = []
    for rank, (cpus, node, device) in enumerate(zip(bound.cpus, bound.nodes, bound.devices, strict=True)):
        where = f"NUMA node {node}, CPUs {ranges_text(cpus)}" if cpus else "any allowed CPU"
        lines.append(f"local rank {rank}: " + ", ".join(filter(None, (device, where))))
    return tuple(lines)


def _why_off(topology: Topology, *, nproc: int, mode: str, visible: Sequence[Gpu]) -> str:
    if mode == "none":
        return "CPU binding is off, as asked."
    if not topology.cpus:
        return "CPU binding is off: the machine does not tell its CPUs' NUMA nodes."
    if mode != "auto":
        return ""
    count = len(topology.cpu_nodes)
    if count < 2:
        return "CPU binding is off: there is one NUMA node to run on."
    unknown = [str(gpu.index) for gpu in visible if gpu.numa_node is None]
    if unknown:
        return f"CPU binding is off: the machine does not tell the NUMA node of GPU {', '.join(unknown)}."
    if not visible and nproc < count:
        return f"CPU binding is off: {nproc} of {count} NUMA nodes would be used; each rank may use them all."
    return ""


def _slots(topology: Topology, *, nproc: int, visible: Sequence[Gpu]) -> list[_Slot]:
    """One slot a rank, or one a visible GPU where those are more; those of unknown node are spread."""
    count = max(nproc, len(visible))
    known: dict[int, _Slot] = {}
    for number in range(count) if visible else ():
        gpu = visible[number % len(visible)]
        if gpu.numa_node is not None:
            node = nearest_node(topology, gpu.numa_node)
            why = f"near GPU {gpu.index}"
            if node != gpu.numa_node:
                why += f", whose own node {gpu.numa_node} has no allowed CPU"
            known[number] = _Slot(node=node, why=why)
    why = "GPU's node unknown: ranks spread" if visible else "no GPU: ranks spread"
    spread = iter(_spread(topology, count - len(known), taken=[slot.node for slot in known.values()]))
    return [known.get(number) or _Slot(node=next(spread), why=why) for number in range(count)]


def _spread(topology: Topology, count: int, *, taken: Sequence[int]) -> list[int]:
    """Nodes for ``count`` ranks in ascending blocks, by allowed CPUs, ``taken`` counted in."""
    weight = {node: len(topology.cpus_of(node)) for node in topology.cpu_nodes}
    load = {node: taken.count(node) for node in weight}
    chosen = []
    for _ in range(count):
        node = min(weight, key=lambda n: ((load[n] + 1) / weight[n], n))
        load[node] += 1
        chosen.append(node)
    return sorted(chosen)


def nearest_node(topology: Topology, node: int) -> int:
    """The node itself where it has an allowed CPU, else the nearest that has, by the kernel's distances."""
    candidates = topology.cpu_nodes
    if node in candidates:
        return node
    distances = dict(next((n.distances for n in topology.nodes if n.index == node), ()))
    return min(candidates, key=lambda n: (distances.get(n, 1 << 16), n))


def _bind(topology: Topology, slots: Sequence[_Slot], rank: int, mode: str) -> tuple[tuple[int, ...], int | None, str]:
    slot = slots[rank]
    cpus = [cpu for cpu in topology.cpus if cpu.node == slot.node]
    mates = [number for number, other in enumerate(slots) if other.node == slot.node]
    place, what = mates.index(rank), f"NUMA node {slot.node}"
    if mode == "socket":
        cpus = _socket(topology, cpus)
        what = f"socket of NUMA node {slot.node}"
    elif mode == "exclusive":
        cpus = _exclusive(cpus, place, len(mates), slot.node)
        what = f"share {place + 1} of {len(mates)} of NUMA node {slot.node}"
    elif mode == "core-complex":
        complexes = sorted(_groups(cpus, "cache"), key=lambda group: (-len(group), group[0].cache))
        cpus = complexes[place % len(complexes)]
        what = f"core complex {place % len(complexes) + 1} of {len(complexes)} of NUMA node {slot.node}"
    chosen = tuple(sorted(cpu.index for cpu in cpus))
    return chosen, slot.node, f"CPUs {ranges_text(chosen)}: {what} ({slot.why})"


def _socket(topology: Topology, cpus: Sequence[Cpu]) -> list[Cpu]:
    """CPUs of all nodes whose first CPU sits on the same socket as ours; torch's rule."""
    first = {node: next(cpu for cpu in topology.cpus if cpu.node == node) for node in topology.cpu_nodes}
    return [cpu for cpu in topology.cpus if first[cpu.node].socket == cpus[0].socket]


def _exclusive(cpus: Sequence[Cpu], place: int, count: int, node: int) -> list[Cpu]:
    """Whole cores, divided evenly; the first slots get one more where it doesn't come out even."""
    cores = sorted(_groups(cpus, "core"), key=lambda group: group[0].core)
    each, extra = divmod(len(cores), count)
    if not each:
        raise OptionError(
            f"--numa-binding exclusive: NUMA node {node} has {len(cores)} allowed cores for {count} ranks or GPUs. "
            "Use --numa-binding node, where ranks share them, or fewer ranks."
        )
    start = place * each + min(place, extra)
    return [cpu for core in cores[start : start + each + (place < extra)] for cpu in core]


def _groups(cpus: Sequence[Cpu], key: str) -> list[list[Cpu]]:
    groups: dict[int, list[Cpu]] = defaultdict(list)
    for cpu in cpus:
        groups[cpu.core if key == "core" else cpu.cache].append(cpu)
    return list(groups.values())


def _mig_note(visible: Sequence[Gpu], *, nproc: int, virtual_local_rank: bool) -> str:
    if nproc > 1 and not virtual_local_rank and sum(gpu.is_mig for gpu in visible) > 1:
        return "CUDA shows a process only the first of its MIG devices: use --virtual-local-rank to give each rank one."
    return ""


def _visible_value(visible: Sequence[Gpu], rank: int, *, is_virtual: bool) -> str:
    return visible_value([visible[rank % len(visible)]] if visible and is_virtual else visible)


def _device_text(visible: Sequence[Gpu], rank: int, *, is_virtual: bool) -> str:
    if not visible:
        return ""
    number = rank % len(visible)
    gpu = visible[number]
    return f"cuda:{0 if is_virtual else number} {gpu.name or gpu.uuid or 'GPU'}, {gpu.pci}"
