"""Rank 2 has left before the others form their group with it."""

import os

import torch.distributed as dist

print("ready", flush=True)
if os.environ["RANK"] != "2":
    dist.init_process_group("gloo")
