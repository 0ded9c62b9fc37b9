"""Rank 1 fails in a function of its own; the others wait for it in a collective."""

import os
import sys

import torch
import torch.distributed as dist


def train(batch, step):
    scale = torch.tensor([1.0, 2.0])
    if dist.get_rank() == 1:
        raise ValueError(f"no step {step}")
    dist.all_reduce(batch)
    return scale


dist.init_process_group("gloo")
print("joined", os.getpid(), flush=True)
train(torch.zeros(3, 4), step=7)
print("done", sys.argv)
