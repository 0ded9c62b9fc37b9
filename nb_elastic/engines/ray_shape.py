"""What a node takes of its machine in Ray: how many CPUs and GPUs the placement asks for.

Runs in: the driver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nb_elastic.engines.base import Wanted


def shape(wanted: Wanted, machines: Sequence[Mapping[str, float]], *, cpus: int = 0) -> dict[str, int]:
    """CPUs and GPUs of each node, as Ray's bundles have them.

    A CPU and, where there are some, a GPU for each rank; but never more than ``min_nodes`` machines have at all, unless it was
    asked for: nothing would come of waiting for it.

    Args:
        machines: all resources of each machine that is there now.
        cpus: asked for in the settings; 0 where nothing was.
    """
    gpus = _gpus(wanted, machines)
    most = _most("CPU", wanted, machines)
    wished = cpus or wanted.nproc or gpus or most or 1
    found = {"CPU": wished if cpus or not most else min(wished, most)}
    return {**found, "GPU": gpus} if gpus else found


def text(bundle: Mapping[str, int]) -> str:
    """A bundle in words."""
    return " and ".join(f"{n} {name}{'s' if n > 1 else ''}" for name, n in bundle.items())


def count_fit(bundle: Mapping[str, int], machines: Sequence[Mapping[str, float]]) -> int:
    """How many machines have as much, used or not."""
    return sum(all(machine.get(name, 0) >= n for name, n in bundle.items()) for machine in machines)


def _gpus(wanted: Wanted, machines: Sequence[Mapping[str, float]]) -> int:
    if wanted.gpus > 0:
        return wanted.gpus
    most = _most("GPU", wanted, machines)
    if wanted.gpus < 0:
        return most or 1
    if not wanted.prefers_gpus:
        return 0
    return min(wanted.nproc, most) if wanted.nproc else most


def _most(name: str, wanted: Wanted, machines: Sequence[Mapping[str, float]]) -> int:
    """So much of a resource, or more, have ``min_nodes`` machines; or all that are there, if they are fewer."""
    amounts = sorted((int(machine.get(name, 0)) for machine in machines), reverse=True)[: wanted.min_nodes]
    if name != "GPU" and len(amounts) > 1:  # a head that takes no work has no CPUs
        amounts = [n for n in amounts if n] or amounts
    return min(amounts, default=0)
