"""Rank 2 sleeps while the others wait for it."""

import time

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
print("ready", flush=True)
if dist.get_rank() == 2:
    time.sleep(10_000)
dist.all_reduce(torch.ones(3))
