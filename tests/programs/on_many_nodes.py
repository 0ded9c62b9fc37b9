"""What ranks do on several nodes: add up, fail, fail once, print much or the time, wait for each other, tick until told.

Runs in: the ranks of a test.
"""

from __future__ import annotations

import os
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SKEW_S = 0.7
LINES = 3_000
STAMPS, STAMP_S = 40, 0.05


def where() -> tuple[int, int, int]:
    """Rank, node's rank in its group, and size of the world."""
    return tuple(int(os.environ[name]) for name in ("RANK", "GROUP_RANK", "WORLD_SIZE"))  # type: ignore[return-value]


def add_up() -> float:
    """The sum of all ranks' numbers."""
    dist.init_process_group("gloo")
    total = torch.tensor([float(dist.get_rank() + 1)])
    dist.all_reduce(total)
    dist.destroy_process_group()
    print("added up", flush=True)
    return float(total.item())


def fail_on_the_second_node() -> None:
    """The first rank of the second node raises, while all others have much to do."""
    if where()[1] == 1 and os.environ["LOCAL_RANK"] == "0":
        raise ValueError("bad batch")
    time.sleep(600)


def fail_one_after_the_other() -> None:
    """Each rank raises by itself, a little after the one before it."""
    time.sleep(1 + 0.2 * where()[0])
    raise ValueError(f"bad batch of rank {where()[0]}")


def fail_once_out_of_step() -> int:
    """Fail in the first attempt; in the second, one rank is late."""
    rank, attempt = where()[0], int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if rank == 1:
        time.sleep(SKEW_S)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    dist.all_reduce(torch.ones(1))
    if attempt == 0 and rank == where()[2] - 1:
        raise RuntimeError("fails once, on purpose")
    dist.barrier()
    dist.destroy_process_group()
    return attempt


def print_much() -> int:
    """Three thousand lines as fast as they go."""
    rank = where()[0]
    for n in range(LINES):
        print(f"rank {rank} says line {n} of {LINES}, which is a sentence of about seventy bytes")
    return rank


def print_the_time() -> None:
    """A few lines a second, each with the moment at which it was printed, in nanoseconds since the epoch."""
    for _ in range(STAMPS):
        print(time.time_ns(), flush=True)
        time.sleep(STAMP_S)


def print_a_long_line(size_bytes: int) -> int:
    """One line; short ones before and after it."""
    print("before")
    print(chr(ord("a") + where()[0]) * size_bytes)
    print("after", flush=True)
    return where()[0]


def save_when_stopped() -> str:
    """Wait; an interrupt is time to save."""
    print("waits", flush=True)
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        return "saved"
    return "never"


def tick_until(go: str) -> int:
    """Reduce again and again, told to all ranks by the lowest one; the world's size when the file is there."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=20))
    while True:
        told = torch.tensor([1.0, float(Path(go).exists()) if dist.get_rank() == 0 else 0.0])
        dist.all_reduce(told)
        print(f"world {int(told[0])}", flush=True)
        if told[1] > 0:
            break
        time.sleep(0.05)
    dist.destroy_process_group()
    return int(told[0])


def digest_of(data: Any) -> str:
    """A hash of bytes or of a tensor's."""
    import hashlib

    return hashlib.sha256(data if isinstance(data, bytes) else data.numpy().tobytes()).hexdigest()


def leave_one_out() -> None:
    """All ranks but the last add up, which sleeps instead."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=600))
    print("ready", flush=True)
    if dist.get_rank() == dist.get_world_size() - 1:
        time.sleep(600)
    dist.all_reduce(torch.ones(1))


def leave_one_out_that_talks() -> None:
    """The same, and a thread of the last one goes on to say that it lives."""

    def beat() -> None:
        while True:
            print("alive", flush=True)
            time.sleep(0.1)

    if os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1):
        threading.Thread(target=beat, daemon=True).start()
    leave_one_out()
