"""Rank 2 takes a lock twice."""

import threading

import torch
import torch.distributed as dist

lock = threading.Lock()


def save():
    with lock:
        return 1


dist.init_process_group("gloo")
dist.all_reduce(torch.ones(3))
print("ready", flush=True)
if dist.get_rank() == 2:
    with lock:
        save()
dist.barrier()
