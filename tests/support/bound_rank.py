"""Plans for the machine it sees, binds itself as one local rank, tells what it saw as JSON, and waits for EOF on stdin.

Runs in: the tests, as ``python -m tests.support.bound_rank RANK NPROC MODE GPUS``, in a pretended machine.

``GPUS`` is how many GPUs NVML shows; where they are, the pretended sysfs says.
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading

from nb_elastic import binding, topology
from tests.support.fake_sys import FakeGpu, FakeNvml, Machine


def cpus_seen(looks: int) -> set[int]:
    """CPUs that four busy threads find themselves on, in this many looks each."""
    getcpu = ctypes.CDLL(None).sched_getcpu
    seen: set[int] = set()

    def look() -> None:
        seen.update(getcpu() for _ in range(looks))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def main() -> None:
    rank, nproc, mode, gpus = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    leave = threading.Event()
    older = threading.Thread(target=leave.wait, name="started before the binding")
    older.start()
    nvml = FakeNvml(Machine(nodes={}, gpus=[FakeGpu(-1)] * gpus))
    found = topology.read(nvml=nvml)
    visible = topology.visible_gpus(found)
    plan = binding.plan(found, nproc=nproc, mode=mode, visible=visible)
    got = binding.apply(plan.cpus[rank])
    told = {"planned": plan.cpus[rank], "got": got, "seen": sorted(cpus_seen(2000)), "note": plan.note}
    print(json.dumps(told), flush=True)
    sys.stdin.read()
    leave.set()
    older.join()


if __name__ == "__main__":
    main()
