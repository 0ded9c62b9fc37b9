"""What one rank is given: its environment (the notebook's, torchrun's variables, its share of the CPUs) and its spec.

Runs in: the supervisor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nb_elastic import holding_patience
from nb_elastic.model import LaunchSpec, WorkerSpec
from nb_elastic.rundir import RankDir
from nb_elastic.supervisor.placement import Placement

FLIGHT_ENTRIES = "64"
"""How many collectives torch's flight recorder keeps: enough to tell a hang, and little to write."""


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


def place_of(group: Any, worker: Any, *, restart_count: int) -> Place:
    """Take it from torch's group and worker, after the rendezvous."""
    return Place(
        rank=worker.global_rank,
        local_rank=worker.local_rank,
        role_rank=worker.role_rank,
        world_size=worker.world_size,
        role_world_size=worker.role_world_size,
        local_world_size=group.spec.local_world_size,
        group_rank=group.group_rank or 0,
        group_world_size=group.group_world_size or 1,
        master_addr=group.master_addr or "",
        master_port=group.master_port or 0,
        restart_count=restart_count,
        uses_agent_store=bool(group.spec.rdzv_handler.use_agent_store),
    )


def build(
    spec: LaunchSpec,
    place: Place,
    *,
    folder: RankDir,
    defaults: Mapping[str, str],
    cpus: int,
    cuda_visible: str | None,
) -> dict[str, str]:
    """Build the whole environment of a rank.

    Args:
        defaults: what the rendezvous needs (GLOO_SOCKET_IFNAME ...); what the user set goes first.
        cpus: number of CPUs that this node's ranks share.
        cuda_visible: CUDA_VISIBLE_DEVICES of this rank, or None to leave the user's.
    """
    options = spec.options
    env = {**defaults, **spec.env, **options.env}
    env.setdefault("OMP_NUM_THREADS", str(max(1, cpus // place.local_world_size)))
    env.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    env.setdefault("PYTHONUNBUFFERED", "1")
    if "TORCH_NCCL_TRACE_BUFFER_SIZE" not in env:  # the older name of the same
        env.setdefault("TORCH_FR_BUFFER_SIZE", FLIGHT_ENTRIES)
    if spec.is_patient or options.hold:
        env |= holding_patience.ENV
    if cuda_visible is not None:
        env["CUDA_VISIBLE_DEVICES"] = cuda_visible
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


def worker_spec(
    launch: LaunchSpec,
    placement: Placement,
    *,
    rank: int,
    local_rank: int,
    round_number: int,
    attempt: int,
    argv: Sequence[str],
    env: Mapping[str, str],
    folder: RankDir,
    stdout: str,
    stderr: str,
    is_exec: bool,
) -> WorkerSpec:
    """Put together all that one rank's process needs."""
    return WorkerSpec(
        run_id=launch.run_id,
        rank=rank,
        local_rank=local_rank,
        round=round_number,
        attempt=attempt,
        entrypoint=replace(launch.entrypoint, argv=tuple(argv)),
        rank_dir=str(folder.path),
        env=env,
        cwd=launch.cwd,
        sys_path=launch.sys_path,
        umask=launch.umask,
        payload=launch.payload,
        buffers_fd=launch.buffers_fd,
        pull=launch.options.pull if rank == 0 else (),
        cpus=placement.plan.cpus[local_rank],
        binding=placement.plan.text[local_rank],
        device=placement.plan.devices[local_rank],
        stdout=stdout,
        stderr=stderr,
        is_exec=is_exec,
        rlimits=launch.rlimits,
        niceness=launch.niceness,
        affinity=launch.affinity,
        hide_values=launch.options.hide_values,
        hold=launch.options.hold,
        on_breakpoint=launch.on_breakpoint,
        is_patient=launch.is_patient or launch.options.hold,
    )
