"""Two ranks, out of step by RESTART_SKEW_S, whose first attempt fails after a reduction.

Runs in: the ranks of a benchmark. RESTART_SKEW_S has one number for each attempt: seconds that rank 1 is late, or, where
negative, rank 0.
"""

from __future__ import annotations

import os
import time

import torch
import torch.distributed as dist


def main() -> int:
    """Fail in attempt 0, else return the attempt."""
    rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    skew_s = [float(text) for text in os.environ["RESTART_SKEW_S"].split(",")][attempt]
    time.sleep(max(0.0, skew_s if rank == 1 else -skew_s))
    dist.init_process_group("gloo")
    dist.all_reduce(torch.ones(1))
    if attempt == 0 and rank == 0:
        raise RuntimeError("fails once, on purpose")
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        print(f"done in attempt {attempt}", flush=True)
    return attempt


if __name__ == "__main__":
    main()
