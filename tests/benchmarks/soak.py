"""Three hundred launches in one kernel: nothing may pile up, neither in it, nor in its launcher, nor on the disk.

Runs in: `make soak`; ``python -m tests.benchmarks.soak 40`` makes 40 launches.

Every 25 launches, once all is at rest, a line tells what there is. Processes, descriptors, threads and stray files may not
be more at the end than they were after the first line; memory may grow, over the second half, by what a kernel keeps of
every cell anyway: before that an allocator's steps of a megabyte would be taken for growth.
"""

from __future__ import annotations

import os
import sys
import time

from tests.benchmarks.launches import Notebook
from tests.support.footprint import Footprint, settled

NPROC = 4
LAUNCHES = 300
EVERY = 25
KB_A_LAUNCH = 20.0
"""Most that the kernel's, or the launcher's, own memory may grow by for each launch: its history keeps cell and output."""

BODY = (
    "import torch, torch.distributed as dist\ndist.init_process_group('gloo')\nx = torch.ones(4)\ndist.all_reduce(x)\n"
    "print('sum', x.tolist())\ndist.destroy_process_group()\nx"
)


def main(launches: int) -> int:
    """Launch, look and judge; 0 if nothing has grown."""
    os.environ["OMP_NUM_THREADS"] = "1"
    looks: list[tuple[int, Footprint]] = []
    with Notebook() as notebook:
        notebook.kernel.ok("data = list(range(10_000))")
        started = time.monotonic()
        for number in range(1, launches + 1):
            notebook.launch(f"data[0]\n{BODY}", NPROC)
            if number % EVERY == 0 or number == launches:
                now = settled(notebook.kernel.pid, notebook.folder, is_alone=True)
                if not looks:
                    print(f"{'launches':>8} {'seconds':>8}  {now.head}")
                looks.append((number, now))
                print(f"{number:8d} {time.monotonic() - started:8.1f}  {now.line}", flush=True)
    return judge(looks)


def judge(looks: list[tuple[int, Footprint]]) -> int:
    """Print the verdict; 0 if nothing has grown since the first look."""
    if len(looks) < 3:
        print(f"no verdict: fewer than {3 * EVERY} launches")
        return 0
    (first_number, first), (middle_number, middle), (last_number, last) = looks[0], looks[len(looks) // 2], looks[-1]
    grown = [f"{name} {before} -> {now}" for name, (before, now) in last.beyond(first).items()]
    for name, before, now in (
        ("kernel", middle.kernel_bytes, last.kernel_bytes),
        ("launcher", middle.launcher_bytes, last.launcher_bytes),
    ):
        kilobytes = (now - before) / 1e3 / (last_number - middle_number)
        print(f"own memory of the {name}: {kilobytes:+.1f} kB a launch since {middle_number} (at most {KB_A_LAUNCH:g})")
        if kilobytes > KB_A_LAUNCH:
            grown.append(f"memory of the {name}")
    verdict = f"GREW: {'; '.join(grown)}" if grown else "no growth"
    print(f"{last_number - first_number} launches after the first {first_number}: {verdict}")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else LAUNCHES))
