"""Which of a cluster's Dask workers are to carry nodes: one a host, with the resources that they announce.

Runs in: the driver.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nb_elastic.engines.base import Wanted

MUTEX = "NODE"
"""A resource by which a cluster says which workers may carry a node, and that each carries one: ``--resources NODE=1``."""
GPU = "GPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class DaskWorker:
    """A worker of a cluster.

    Attributes:
        key: what no two nodes may have in common: its host, or itself.
    """

    address: str
    name: str
    host: str
    key: str
    resources: Mapping[str, float] = field(default_factory=dict)


def read(identity: Mapping[str, Any], *, is_one_per_worker: bool) -> list[DaskWorker]:
    """Running workers of what the scheduler says of itself."""
    return [
        DaskWorker(
            address=address,
            name=str(said.get("name", address)),
            host=str(said["host"]),
            key=address if is_one_per_worker else str(said["host"]),
            resources={str(name): float(amount) for name, amount in (said.get("resources") or {}).items()},
        )
        for address, said in identity["workers"].items()
        if said.get("status", "running") == "running"
    ]


def needs(wanted: Wanted, worker: DaskWorker) -> dict[str, float]:
    """What a node takes of its worker's resources."""
    taken = {MUTEX: 1.0} if MUTEX in worker.resources else {}
    has = worker.resources.get(GPU, 0.0)
    if wanted.gpus > 0:
        gpus = float(wanted.gpus)
    elif wanted.gpus < 0 or (wanted.prefers_gpus and not wanted.nproc):
        gpus = has
    else:
        gpus = min(has, float(wanted.nproc)) if wanted.prefers_gpus else 0.0
    if has and gpus:
        taken[GPU] = gpus
    return taken


def choose(workers: Collection[DaskWorker], wanted: Wanted, *, busy: Collection[str]) -> Iterator[DaskWorker]:
    """Yield one worker for each key that isn't busy, in the order in which they joined; of several, the one with most GPUs.

    Where any worker announces a resource that nodes take, only those that have enough of it are chosen.
    """
    required = {name for name in (MUTEX, GPU) if any(name in needs(wanted, worker) for worker in workers)}
    best: dict[str, DaskWorker] = {}
    for worker in workers:
        taken = needs(wanted, worker)
        if worker.key in busy or required - set(taken):
            continue
        if any(worker.resources[name] < amount for name, amount in taken.items()):
            continue
        rival = best.get(worker.key)
        if rival is None or worker.resources.get(GPU, 0.0) > rival.resources.get(GPU, 0.0):
            best[worker.key] = worker
    yield from best.values()
