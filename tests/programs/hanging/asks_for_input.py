"""Rank 2 asks a stream of its own that nobody answers."""

import os
import sys

import torch.distributed as dist

dist.init_process_group("gloo")
print("ready", flush=True)
if dist.get_rank() == 2:
    reading, _writing = os.pipe()
    sys.stdin = open(reading)
    input("Go on? ")
dist.barrier()
