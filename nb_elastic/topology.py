"""Owns the map of this machine: its NUMA nodes, CPUs and GPUs, and which of them a run may use.

Runs in: the supervisor, the kernel or CLI (dry run, doctor). No torch, no CUDA context.

Whose number is it? ``Gpu.index`` is NVML's, the one that ``nvidia-smi`` shows, in the order of the PCI bus. The
numbers in ``--gpus`` are CUDA's as the notebook has them: ``--gpus 0`` is what ``cuda:0`` means in the notebook, so
with CUDA_VISIBLE_DEVICES=4,5 it is GPU 4. ``Gpu.token`` is the word that CUDA_VISIBLE_DEVICES uses for it, kept as
the user spelled it, so the ranks see what CUDA would have shown the notebook.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nb_elastic.errors import OptionError
from nb_elastic.nvml import CtypesNvml, Nvml, NvmlError, NvmlMissingError
from nb_elastic.sysfs import (
    Cpu,
    Node,
    allowed_cpus,
    cpu_quota,
    parse_ranges,
    ranges_text,
    read_cpus,
    read_int,
    read_nodes,
    read_text,
)

__all__ = [
    "Cpu",
    "Gpu",
    "Mig",
    "Node",
    "Topology",
    "allowed_cpus",
    "parse_ranges",
    "ranges_text",
    "read",
    "resolve_nproc",
    "to_json",
    "visible_gpus",
    "visible_note",
    "visible_value",
]

_RANKS_PER_CPU = 16
_LEADING_INT = re.compile(r"\s*[+-]?\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mig:
    """One MIG slice of a GPU. ``uuid`` starts with ``MIG-``."""

    uuid: str
    name: str = ""
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, or one MIG slice when ``uuid`` starts with ``MIG-``.

    Attributes:
        index: NVML's number of the (parent) GPU; what ``nvidia-smi`` shows.
        token: the word for it in CUDA_VISIBLE_DEVICES.
        pci: as sysfs spells it, ``0000:3b:00.0``.
        numa_node: None where the machine doesn't say, or says a node that doesn't exist.
        migs: its slices where MIG is on.
    """

    index: int
    token: str
    uuid: str = ""
    pci: str = ""
    name: str = ""
    memory_bytes: int = 0
    numa_node: int | None = None
    migs: tuple[Mig, ...] = ()

    @property
    def is_mig(self) -> bool:
        """True for a slice of a GPU."""
        return self.uuid.startswith("MIG-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """This machine, as far as this process may use it.

    Attributes:
        nodes: every online NUMA node, also those without CPUs; at least one.
        cpus: the logical CPUs that this process may use, by number.
        gpus: in PCI order, whatever CUDA_VISIBLE_DEVICES says.
        cpu_quota: CPUs' worth of time that a container may use, None without a limit.
        notes: what could not be found out, and why, a sentence each.
    """

    nodes: tuple[Node, ...]
    cpus: tuple[Cpu, ...]
    gpus: tuple[Gpu, ...] = ()
    cpu_quota: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def usable_cpus(self) -> int:
        """How many CPUs' worth of work fits: the allowed ones, cut by the container's quota; at least 1."""
        count = len(self.cpus)
        return max(1, count if self.cpu_quota is None else min(count, int(self.cpu_quota)))

    def cpus_of(self, node: int) -> tuple[int, ...]:
        """Allowed logical CPUs of a NUMA node."""
        return tuple(cpu.index for cpu in self.cpus if cpu.node == node)

    @property
    def cpu_nodes(self) -> tuple[int, ...]:
        """NUMA nodes with at least one allowed CPU."""
        return tuple(sorted({cpu.node for cpu in self.cpus}))


def read(*, root: Path = Path("/"), nvml: Nvml | None = None, allowed: Iterable[int] | None = None) -> Topology:
    """Read this machine's map.

    Args:
        root: folder with ``sys``, ``proc`` and ``dev`` below it.
        nvml: who tells about GPUs; by default NVIDIA's library, where ``root`` is the real machine.
        allowed: CPUs that may be used; by default those of this process's affinity and cgroup.
    """
    allowed = allowed_cpus(root) if allowed is None else tuple(sorted(set(allowed)))
    nodes = read_nodes(root, allowed)
    notes: list[str] = []
    gpus: tuple[Gpu, ...] = ()
    try:
        if nvml is None and root == Path("/"):
            nvml = CtypesNvml()
        gpus = _driver_gpus(root) if nvml is None else _nvml_gpus(nvml)
    except NvmlMissingError as error:
        if gpus := _driver_gpus(root):
            notes.append(f"GPUs are read from /proc/driver/nvidia, because {error}.")
    except NvmlError as error:
        # The driver is sick: CUDA in the ranks would fail as well, so its GPUs are not counted.
        notes.append(f"No GPU is counted, because {error}.")
    return Topology(
        nodes=nodes,
        cpus=read_cpus(root, nodes, allowed),
        gpus=tuple(replace(gpu, numa_node=_numa_node(root, gpu, nodes)) for gpu in gpus),
        cpu_quota=cpu_quota(root),
        notes=tuple(notes),
    )


def visible_gpus(topology: Topology, *, cuda_visible_devices: str | None = None, gpus: Sequence[str] = ()) -> list[Gpu]:
    """GPUs that the ranks will see, in CUDA's order: item i is ``cuda:i``.

    CUDA's own rules: a number or the start of a GPU's UUID for each; the first entry that names nothing ends the
    list; an empty list hides every GPU.

    Args:
        cuda_visible_devices: the notebook's environment variable, None where unset.
        gpus: ``--gpus``: numbers within the above, or starts of UUIDs; all where empty.

    Raises:
        OptionError: if ``gpus`` names what isn't there, or anything is named twice.
    """
    visible = list(topology.gpus) if cuda_visible_devices is None else _parse_visible(topology, cuda_visible_devices)
    if not gpus:
        return visible
    chosen: list[Gpu] = []
    for word in (w.strip() for w in gpus):
        gpu = _chosen(visible, word)
        if gpu is None:
            raise OptionError(f"--gpus {word}: there is no such GPU. {_visible_text(visible, cuda_visible_devices)}")
        if _is_among(gpu, chosen):
            raise OptionError(f"--gpus {','.join(gpus)} names GPU {word} twice.")
        chosen.append(gpu)
    if len({gpu.is_mig for gpu in chosen}) > 1:
        raise OptionError(f"--gpus {','.join(gpus)}: CUDA shows a process whole GPUs or MIG slices, not both.")
    return chosen


def visible_value(visible: Sequence[Gpu]) -> str:
    """The CUDA_VISIBLE_DEVICES that shows exactly these GPUs, in this order."""
    return ",".join(gpu.token for gpu in visible)


def visible_note(topology: Topology, *, environ: Mapping[str, str]) -> str:
    """What a user should know about how these environment variables number the GPUs, or ""."""
    wanted = environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    visible = _parse_visible(topology, wanted)
    words = wanted.split(",")
    if wanted and topology.gpus and len(words) > len(visible) and not words[len(visible)].strip().startswith("-"):
        bad = words[len(visible)].strip()
        return f"CUDA_VISIBLE_DEVICES={wanted}: {bad!r} names no GPU of this machine, and CUDA ignores the rest."
    if len({gpu.name for gpu in topology.gpus}) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return (
            "This machine's GPUs differ, and CUDA then numbers them fastest first while nvidia-smi (and this map) "
            "follows the PCI bus: set CUDA_DEVICE_ORDER=PCI_BUS_ID to have one numbering."
        )
    return ""


def resolve_nproc(nproc: int | str, *, topology: Topology, visible: Sequence[Gpu]) -> int:
    """How many ranks to start on this node.

    Args:
        nproc: a number, ``gpu``, ``cpu``, or ``auto`` (visible GPUs, else CPUs). Any spelling of a number goes.

    Raises:
        OptionError: if it is below 1, absurdly large, unknown, or asks for devices that aren't there.
    """
    text = str(nproc).strip()
    if re.fullmatch(r"[+-]?\d+", text):
        count, limit = int(text), max(256, _RANKS_PER_CPU * len(topology.cpus))
        if count < 1:
            raise OptionError(f"--nproc-per-node {text}: at least one rank is needed; give 1 or more, or auto.")
        if count > limit:
            raise OptionError(
                f"--nproc-per-node {text}: this machine lets us use {len(topology.cpus)} CPUs and {len(visible)} GPUs; "
                f"more than {limit} ranks would only stall it. Is it a typo?"
            )
        return count
    if text == "gpu" or (text == "auto" and visible):
        if not visible:
            hidden = f"CUDA_VISIBLE_DEVICES hides all {len(topology.gpus)}." if topology.gpus else ""
            why = hidden or " ".join(topology.notes) or "No NVIDIA driver answered."
            raise OptionError(f"--nproc-per-node gpu: no GPU is visible here. {why} Give a number, cpu or auto.")
        return len(visible)
    if text in {"cpu", "auto"}:
        return topology.usable_cpus
    if text == "xpu":
        raise OptionError(
            "--nproc-per-node xpu: nb_elastic counts NVIDIA GPUs and CPUs only; to count XPUs it would have to start "
            "their driver here. Give their number instead."
        )
    raise OptionError(f"--nproc-per-node {text!r}: give a number of ranks, or gpu, cpu or auto.")


def to_json(topology: Topology) -> dict[str, Any]:
    """The map for ``run.json``: CPUs as range text, bytes as numbers."""
    return {
        "nodes": [
            {
                "index": n.index,
                "cpus": ranges_text(n.cpus),
                "allowed": ranges_text(topology.cpus_of(n.index)),
                "memory_bytes": n.memory_bytes,
            }
            for n in topology.nodes
        ],
        "gpus": [
            {
                "index": g.index,
                "name": g.name,
                "uuid": g.uuid,
                "pci": g.pci,
                "numa_node": g.numa_node,
                "memory_bytes": g.memory_bytes,
            }
            for g in topology.gpus
        ],
        "cpu_quota": topology.cpu_quota,
        "notes": list(topology.notes),
    }


def _nvml_gpus(nvml: Nvml) -> tuple[Gpu, ...]:
    return tuple(
        Gpu(
            index=device.index,
            token=str(position),  # CUDA numbers only those that it may use
            uuid=device.uuid,
            pci=device.pci,
            name=device.name,
            memory_bytes=device.memory_bytes,
            migs=tuple(Mig(uuid=m.uuid, name=m.name, memory_bytes=m.memory_bytes) for m in device.migs),
        )
        for position, device in enumerate(nvml.devices())
    )


def _driver_gpus(root: Path) -> tuple[Gpu, ...]:
    """GPUs where NVML is missing: those of the driver whose device file is here.

    sysfs alone won't do: a container sees all the host's PCI devices in it, also those it may not open. Containers
    with the ``compute`` but not the ``utility`` capability have libcuda and no NVML.
    """
    found: list[Gpu] = []
    pci_root = root / "sys/bus/pci/devices"
    for folder in sorted(pci_root.iterdir()) if pci_root.is_dir() else []:
        is_display = read_int(folder / "class", 0) >> 16 == 0x03
        if not is_display or read_int(folder / "vendor", 0) != 0x10DE:
            continue
        text = read_text(root / "proc/driver/nvidia/gpus" / folder.name / "information")
        told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
        minor = told.get("Device Minor", "")
        if not minor or not (root / f"dev/nvidia{minor}").exists():
            continue
        index = len(found)
        uuid = told.get("GPU UUID", "")
        found.append(Gpu(index=index, token=str(index), uuid=uuid, pci=folder.name, name=told.get("Model", "")))
    return tuple(found)


def _numa_node(root: Path, gpu: Gpu, nodes: Sequence[Node]) -> int | None:
    told = read_int(root / "sys/bus/pci/devices" / gpu.pci / "numa_node")
    if told in {node.index for node in nodes}:
        return told
    with_cpus = [node.index for node in nodes if node.cpus]
    return with_cpus[0] if len(with_cpus) == 1 else None


def _parse_visible(topology: Topology, text: str) -> list[Gpu]:
    kind = text[:4] if text.startswith(("GPU-", "MIG-")) else ""
    found: list[Gpu] = []
    for word in text.split(","):
        if not kind:
            gpu = _by_number(topology.gpus, word)
        else:  # a list is of one kind, and written without blanks
            gpu = _by_uuid(topology.gpus, word) if word.startswith(kind) else None
        if gpu is None:
            break
        if _is_among(gpu, found):
            raise OptionError(
                f"CUDA_VISIBLE_DEVICES={text} names GPU {word.strip()} twice; CUDA then shows no GPU at all. "
                "Name each once."
            )
        found.append(gpu)
    return found


def _by_number(gpus: Sequence[Gpu], word: str) -> Gpu | None:
    """As CUDA reads it: the leading number counts, ``1abc`` is 1."""
    match = _LEADING_INT.match(word)
    number = int(match[0]) if match else -1
    return replace(gpus[number], token=str(number)) if 0 <= number < len(gpus) else None


def _by_uuid(gpus: Sequence[Gpu], word: str) -> Gpu | None:
    """GPU whose UUID starts so, if it is just one; a MIG slice needs its whole UUID."""
    if word.startswith("GPU-"):
        found = [gpu for gpu in gpus if gpu.uuid.startswith(word)]
        return replace(found[0], token=word) if len(found) == 1 else None
    if not word.startswith("MIG-"):
        return None
    for gpu in gpus:
        if gpu.uuid == word:
            return gpu
        for mig in gpu.migs:
            if mig.uuid == word:
                return _slice(gpu, mig, word)
        # Drivers before R470 spell a slice MIG-GPU-<parent's uuid>/<gpu instance>/<compute instance>.
        if gpu.uuid and word.startswith(f"MIG-{gpu.uuid}/"):
            return _slice(gpu, Mig(uuid=word, name=f"{gpu.name} MIG"), word)
    return None


def _chosen(visible: Sequence[Gpu], word: str) -> Gpu | None:
    if word.isdecimal():
        return visible[int(word)] if int(word) < len(visible) else None
    gpu = _by_uuid(visible, word)
    if gpu is None or gpu.is_mig:
        return gpu
    return next(other for other in visible if other.uuid == gpu.uuid)  # keeps the token that the user's list has


def _is_among(gpu: Gpu, others: Sequence[Gpu]) -> bool:
    return any((gpu.index, gpu.uuid) == (other.index, other.uuid) for other in others)


def _slice(gpu: Gpu, mig: Mig, word: str) -> Gpu:
    return replace(gpu, token=word, uuid=mig.uuid, name=mig.name or gpu.name, memory_bytes=mig.memory_bytes, migs=())


def _visible_text(visible: Sequence[Gpu], cuda_visible_devices: str | None) -> str:
    where = "Here" if cuda_visible_devices is None else f"CUDA_VISIBLE_DEVICES={cuda_visible_devices} leaves"
    if not visible:
        return f"{where}: no GPU."
    return f"{where}: " + ", ".join(f"{i} ({gpu.name or gpu.uuid or gpu.pci})" for i, gpu in enumerate(visible)) + "."
