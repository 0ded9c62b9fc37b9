"""The environment of one rank: the notebook's, torchrun's variables, and what keeps a rank on its share of the machine.

Runs in: the supervisor.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from nb_elastic.model import LaunchSpec
from nb_elastic.rundir import RankDir


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a rank stands in its group, as the rendezvous told."""

    rank: int
    local_rank: int
    role_rank: int
    world_size: int
    role_world_size: int
    local_world_size: int
    group_rank: int
    group_world_size: int
    master_addr: str
    master_port: int
    restart_count: int
    uses_agent_store: bool


def build(
    spec: LaunchSpec,
    place: Place,
    *,
    folder: RankDir,
    defaults: Mapping[str, str],
    cpus: int,
    devices: str | None,
) -> dict[str, str]:
    """Build the whole environment of a rank.

    Args:
        defaults: what the rendezvous needs (GLOO_SOCKET_IFNAME ...); what the user set goes first.
        cpus: number of CPUs that this node's ranks share.
        devices: CUDA_VISIBLE_DEVICES of this rank, or None to leave the user's.
    """
    options = spec.options
    env = {**defaults, **spec.env, **options.env}
    env.setdefault("OMP_NUM_THREADS", str(max(1, cpus // place.local_world_size)))
    env.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    env.setdefault("PYTHONUNBUFFERED", "1")
    if devices is not None:
        env["CUDA_VISIBLE_DEVICES"] = devices
    env |= {
        "RANK": str(place.rank),
        "LOCAL_RANK": "0" if options.virtual_local_rank else str(place.local_rank),
        "GROUP_RANK": str(place.group_rank),
        "ROLE_RANK": str(place.role_rank),
        "ROLE_NAME": options.role,
        "LOCAL_WORLD_SIZE": str(place.local_world_size),
        "WORLD_SIZE": str(place.world_size),
        "GROUP_WORLD_SIZE": str(place.group_world_size),
        "ROLE_WORLD_SIZE": str(place.role_world_size),
        "MASTER_ADDR": place.master_addr,
        "MASTER_PORT": str(place.master_port),
        "TORCHELASTIC_RESTART_COUNT": str(place.restart_count),
        "TORCHELASTIC_MAX_RESTARTS": str(options.max_restarts),
        "TORCHELASTIC_RUN_ID": spec.rdzv_id,
        "TORCHELASTIC_USE_AGENT_STORE": str(place.uses_agent_store),
        "NB_ELASTIC_RUN_ID": spec.run_id,
        "NB_ELASTIC_RUN_DIR": spec.run_dir,
        "NB_ELASTIC_METRICS_FILE": str(folder.metrics),
    }
    return env


def allowed_cpus() -> int:
    """Number of CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_devices(spec: LaunchSpec, local_rank: int) -> str | None:
    """CUDA_VISIBLE_DEVICES of a rank by ``--gpus`` and ``--virtual-local-rank``; None leaves the user's.

    Raises:
        ValueError: if a virtual local rank has no GPU left.
    """
    options = spec.options
    listed = ",".join(options.gpus) if options.gpus else {**spec.env, **options.env}.get("CUDA_VISIBLE_DEVICES")
    if not options.virtual_local_rank:
        return listed if options.gpus else None
    if listed is None:
        return str(local_rank)
    devices = [d.strip() for d in listed.split(",") if d.strip()]
    if local_rank >= len(devices):
        raise ValueError(f"--virtual-local-rank: local rank {local_rank} has no GPU in CUDA_VISIBLE_DEVICES={listed}.")
    return devices[local_rank]
