"""Ranks that are out of step, fail together, or wait for the group to grow or shrink.

Runs in: the ranks of a test.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

SKEW_S = 0.7


def reduce_once(*, late_rank: int = -1) -> float:
    """Join the group, one rank later than the others, and add up the ranks' numbers."""
    rank = int(os.environ["RANK"])
    if rank == late_rank:
        time.sleep(SKEW_S)
    dist.init_process_group("gloo")
    total = torch.tensor([float(rank + 1)])
    dist.all_reduce(total)
    dist.barrier()
    return float(total)


def fail_once_alone() -> None:
    """Rank 0 fails at first, while the others, who talk to nobody, wait for its second attempt."""
    attempt, done = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), Path(os.environ["NBE_TEST_FOLDER"]) / "done"
    print("attempt", attempt, flush=True)
    if int(os.environ["RANK"]) == 0:
        if not attempt:
            raise ValueError("on purpose")
        done.touch()
    while not done.exists():
        time.sleep(0.05)


def fail_and_fail_again() -> float:
    """Reduce in every attempt, in turn with rank 0 and rank 1 late; rank 0 fails as often as restarts are allowed."""
    failures = Path(os.environ["NBE_TEST_FOLDER"])
    count = len(list(failures.iterdir()))
    total = reduce_once(late_rank=(count + 1) % 2)
    if count < int(os.environ["TORCHELASTIC_MAX_RESTARTS"]) and dist.get_rank() == 0:
        (failures / str(count)).touch()
        raise RuntimeError(f"failure {count} on purpose")
    dist.barrier()  # the others wait for the failed rank, as in training
    dist.destroy_process_group()
    return total


def wait_for_company() -> float:
    """Alone: work for ever. In company: reduce and leave."""
    total = reduce_once()
    while dist.get_world_size() == 1:
        time.sleep(0.05)
    dist.destroy_process_group()
    return total


def talk_until_alone() -> float:
    """In company: reduce for ever. Alone again: reduce and leave."""
    total = reduce_once()
    while not _is_alone_again():
        dist.all_reduce(torch.ones(1))
        time.sleep(0.05)
    dist.destroy_process_group()
    return total


def idle_until_alone() -> float:
    """In company: never talk again. Alone again: reduce and leave."""
    total = reduce_once()
    while not _is_alone_again():
        time.sleep(0.05)
    dist.destroy_process_group()
    return total


def _is_alone_again() -> bool:
    """True if this group is of one rank, and there was one of more."""
    was_in_company = Path(os.environ["NBE_TEST_FOLDER"], "company")
    if dist.get_world_size() > 1:
        was_in_company.touch()
        return False
    return was_in_company.exists()


def work_for_ever() -> None:
    """Reduce once, say so, and stay."""
    reduce_once()
    sys.stdout.write(json.dumps({"ready": dist.get_rank()}) + "\n")
    sys.stdout.flush()
    while True:
        time.sleep(0.05)


def tell_run_id() -> None:
    """Print what the run is called."""
    print(os.environ["TORCHELASTIC_RUN_ID"])
