"""A cluster's own smallest task, in a process that stays connected: seconds of each, for each line on stdin.

Runs in: a process of ``engines_places``, as ``python -m tests.benchmarks.engines_noop ray ADDRESS NODES``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable


def of_ray(address: str, nodes: int) -> Callable[[], None]:
    """So many tasks that do nothing, apart from each other where Ray can."""
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    task = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(lambda: os.getpid())
    return lambda: ray.get([task.remote() for _ in range(nodes)])


def of_dask(address: str, nodes: int) -> Callable[[], None]:
    """One on each of so many workers."""
    import distributed

    client = distributed.Client(address)
    workers = list(client.scheduler_info()["workers"])[:nodes]
    return lambda: client.gather([client.submit(os.getpid, workers=[w], pure=False) for w in workers])


def main() -> None:
    """Connect, do it once, and then as often as asked."""
    kind, address, nodes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    work = {"ray": of_ray, "dask": of_dask}[kind](address, nodes)
    work()
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.monotonic()
        work()
        print(time.monotonic() - began, flush=True)


if __name__ == "__main__":
    main()
