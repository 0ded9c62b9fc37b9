"""Owns the reading of Linux's own account of this machine: NUMA nodes, CPUs, caches, cpusets and quotas.

Runs in: the supervisor, the kernel or CLI (dry run, doctor).

Everything is read below a ``root`` folder, so that a pretended machine is a folder. A file that is missing or holds
nonsense means "unknown", never an error: containers and virtual machines hide what they like.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nb_elastic.spans import spans

UNKNOWN = -1
_NODES = "sys/devices/system/node"
_CPUS = "sys/devices/system/cpu"
_NUMBERED = re.compile(r"(?:node|index)(\d+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One NUMA node.

    Attributes:
        cpus: its logical CPUs, allowed or not; empty for a node that only holds memory.
        memory_bytes: 0 where unknown.
        distances: (other node, distance) pairs, itself included, in the kernel's units (10 = here).
    """

    index: int
    cpus: tuple[int, ...]
    memory_bytes: int = 0
    distances: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """One logical CPU that this process may use.

    Attributes:
        socket: physical package, UNKNOWN where not told.
        core: lowest logical CPU of its physical core.
        cache: lowest logical CPU that shares its largest-level cache, UNKNOWN where not told.
    """

    index: int
    node: int
    socket: int
    core: int
    cache: int


def parse_ranges(text: str) -> tuple[int, ...]:
    """Read the kernel's list format: ``0-2,4,6-7`` is (0, 1, 2, 4, 6, 7).

    Raises:
        ValueError: if a part is no number or range.
    """
    found: set[int] = set()
    for part in filter(None, (p.strip() for p in text.split(","))):
        low, dash, high = part.partition("-")
        found.update(range(int(low), int(high if dash else low) + 1))
    return tuple(sorted(found))


def ranges_text(numbers: Iterable[int]) -> str:
    """Write numbers in the kernel's list format, shortest form; the reverse of ``parse_ranges``."""
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in spans(numbers))


def read_text(path: Path) -> str:
    """Content of a small file without the newline, or "" where it can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def read_int(path: Path, default: int = UNKNOWN) -> int:
    """Content of a file as a number, or ``default``."""
    try:
        return int(read_text(path), 0)
    except ValueError:
        return default


def read_nodes(root: Path, allowed: Sequence[int]) -> tuple[Node, ...]:
    """All online NUMA nodes; one pretended node with the allowed CPUs where the kernel tells of none."""
    folder = root / _NODES
    indices = sorted(int(m[1]) for name in _names(folder) if name.startswith("node") and (m := _NUMBERED.match(name)))
    found = []
    for index in indices:
        distances = [int(d) for d in read_text(folder / f"node{index}" / "distance").split() if d.isdecimal()]
        found.append(
            Node(
                index=index,
                cpus=_ranges(folder / f"node{index}" / "cpulist"),
                memory_bytes=_memory_bytes(folder / f"node{index}" / "meminfo"),
                # The file has one number for each online node, in their order, and no names.
                distances=tuple(zip(indices, distances, strict=True)) if len(distances) == len(indices) else (),
            )
        )
    if any(node.cpus for node in found):
        return tuple(found)
    return (Node(index=0, cpus=tuple(allowed)),)


def read_cpus(root: Path, nodes: Sequence[Node], allowed: Sequence[int]) -> tuple[Cpu, ...]:
    """The allowed CPUs with their places. CPUs of no node are left out."""
    node_of = {cpu: node.index for node in reversed(nodes) for cpu in node.cpus}
    cores: dict[int, int] = {}
    caches: dict[int, int] = {}
    found = []
    for cpu in allowed:
        if cpu not in node_of:
            continue
        folder = root / _CPUS / f"cpu{cpu}"
        if cpu not in cores:  # one read tells about the whole core, or cache; machines have hundreds of CPUs
            siblings = _ranges(folder / "topology" / "thread_siblings_list") or (cpu,)
            cores.update(dict.fromkeys((*siblings, cpu), min(siblings)))
        if cpu not in caches:
            sharers = _largest_cache(folder / "cache")
            caches.update(dict.fromkeys((*sharers, cpu), min(sharers, default=UNKNOWN)))
        socket = read_int(folder / "topology" / "physical_package_id")
        found.append(Cpu(index=cpu, node=node_of[cpu], socket=socket, core=cores[cpu], cache=caches[cpu]))
    return tuple(found)


def allowed_cpus(root: Path = Path("/")) -> tuple[int, ...]:
    """Logical CPUs this process may run on: its affinity, cut by its cgroup's cpuset.

    The kernel already cuts the affinity by the cpuset; the file is read as well for sandboxes that emulate only one.
    """
    if hasattr(os, "sched_getaffinity"):
        affinity = tuple(sorted(os.sched_getaffinity(0)))
    else:
        affinity = tuple(range(os.cpu_count() or 1))
    for folder in _cgroups(root, "cpuset"):
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            if cpuset := _ranges(folder / name):
                # An empty cut means that the file numbers CPUs otherwise than the affinity: believe the kernel.
                return tuple(cpu for cpu in affinity if cpu in set(cpuset)) or affinity
    return affinity


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs' worth of time a container may use (``docker run --cpus 2``), or None where there's no limit."""
    found = []
    for folder in _cgroups(root, "cpu"):
        quota, _, period = read_text(folder / "cpu.max").partition(" ")
        if not quota:
            quota = read_text(folder / "cpu.cfs_quota_us")
            period = read_text(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            found.append(int(quota) / int(period))
    return min(found, default=None)


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's cgroup for a controller, innermost first, then those around it.

    Walking outwards also finds the right folder in a container that sees the host's path in /proc/self/cgroup.
    """
    base = root / "sys/fs/cgroup"
    for line in read_text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller in controllers.split(","):
            mounts = [base / controllers, base / controller]
        elif number == "0" and not controllers:
            mounts = [base, base / "unified"]
        else:
            continue
        parts = [part for part in path.split("/") if part not in {"", ".", ".."}]
        for mount in mounts:
            for depth in range(len(parts), -1, -1):
                yield mount.joinpath(*parts[:depth])


def _largest_cache(folder: Path) -> tuple[int, ...]:
    """CPUs that share the largest-level data cache."""
    best = 0
    sharers: tuple[int, ...] = ()
    for name in sorted(_names(folder)):
        if not name.startswith("index") or not _NUMBERED.match(name):
            continue
        level = read_int(folder / name / "level", 0)
        if level > best and read_text(folder / name / "type") in {"Unified", "Data"}:
            best, sharers = level, _ranges(folder / name / "shared_cpu_list")
    return sharers


def _memory_bytes(meminfo: Path) -> int:
    match = re.search(r"MemTotal:\s*(\d+) kB", read_text(meminfo))
    return int(match[1]) * 1024 if match else 0


def _ranges(path: Path) -> tuple[int, ...]:
    try:
        return parse_ranges(read_text(path))
    except ValueError:
        return ()


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
