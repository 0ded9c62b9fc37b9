"""Rank 2 calls a C function that never returns, and keeps Python's lock."""

import ctypes

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
print("ready", flush=True)
if dist.get_rank() == 2:
    ctypes.PyDLL(None).pause()
dist.all_reduce(torch.ones(3))
