"""How many ranks this node runs, and which CPUs and GPUs each one gets.

Runs in: the supervisor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nb_elastic import binding, topology
from nb_elastic.binding import BindingPlan
from nb_elastic.model import LaunchSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The node's plan, and how many CPUs' worth of work its ranks share; ``gpus`` are the UUIDs of those that they see."""

    plan: BindingPlan
    usable_cpus: int
    is_virtual: bool = False
    gpus: tuple[str, ...] = ()

    @property
    def nproc(self) -> int:
        """Ranks of this node."""
        return self.plan.nproc

    def gpu(self, local_rank: int) -> str:
        """UUID of the GPU that is meant for a rank, or ""."""
        return self.gpus[local_rank % len(self.gpus)] if self.gpus else ""

    def cuda_visible(self, local_rank: int) -> str | None:
        """CUDA_VISIBLE_DEVICES of a rank; None leaves the user's in place.

        Under ``--virtual-local-rank`` without GPUs each rank is told its own number, as by torchrun.
        """
        return self.plan.visible[local_rank] or (str(local_rank) if self.is_virtual else None)


def place(spec: LaunchSpec, *, note: Callable[[str], None]) -> Placement:
    """Place the ranks of a node. No CUDA context is made.

    Raises:
        OptionError: if this machine does not have what the options ask for.
    """
    options = spec.options
    machine = topology.read()
    environ = {**spec.env, **options.env}
    plan = binding.for_node(options, environ=environ, topology=machine)
    visible = topology.visible_gpus(
        machine, cuda_visible_devices=environ.get("CUDA_VISIBLE_DEVICES"), gpus=options.gpus
    )
    if plan.note and options.numa_binding != "none":
        note(plan.note)
    return Placement(
        plan=plan,
        usable_cpus=machine.usable_cpus,
        is_virtual=options.virtual_local_rank,
        gpus=tuple(gpu.uuid for gpu in visible),
    )
