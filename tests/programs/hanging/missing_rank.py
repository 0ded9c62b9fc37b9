"""Rank 2 waits for a message that nobody sends, instead of summing with the others."""

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
x = torch.ones(3)
dist.all_reduce(x)
print("ready", flush=True)
if dist.get_rank() == 2:
    dist.recv(x, src=0)
else:
    dist.all_reduce(x)
