"""How many ranks this node runs, and which CPUs and GPUs each one gets.

Runs in: the supervisor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nb_elastic import binding, topology
from nb_elastic.model import LaunchSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One item a local rank in every tuple.

    Attributes:
        cpus: CPUs to bind to; empty leaves the affinity alone.
        binding: how they came to be, in words.
        device: the rank's GPU, in words.
        cuda_visible: CUDA_VISIBLE_DEVICES of the rank; None leaves the user's in place.
    """

    cpus: tuple[tuple[int, ...], ...]
    binding: tuple[str, ...]
    device: tuple[str, ...]
    cuda_visible: tuple[str | None, ...]

    @property
    def nproc(self) -> int:
        """Ranks of this node."""
        return len(self.cpus)


def place(spec: LaunchSpec, *, note: Callable[[str], None]) -> Placement:
    """Place the ranks of a node. No CUDA context is made.

    Raises:
        OptionError: if this machine does not have what the options ask for.
    """
    options = spec.options
    machine = topology.read()
    wanted = {**spec.env, **options.env}.get("CUDA_VISIBLE_DEVICES")
    visible = topology.visible_gpus(machine, cuda_visible_devices=wanted, gpus=options.gpus)
    nproc = topology.resolve_nproc(options.nproc_per_node, topology=machine, visible=visible)
    plan = binding.plan(
        machine,
        nproc=nproc,
        mode=options.numa_binding,
        visible=visible,
        virtual_local_rank=options.virtual_local_rank,
    )
    if plan.note and options.numa_binding != "none":
        note(plan.note)
    shown: list[str | None] = [topology.visible_value(visible) if options.gpus else None] * nproc
    if options.virtual_local_rank:  # as torchrun: without GPUs each rank is told its own number
        shown = [plan.visible[r] or str(r) for r in range(nproc)]
    return Placement(cpus=plan.cpus, binding=plan.text, device=plan.devices, cuda_visible=tuple(shown))
