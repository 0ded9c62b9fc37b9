"""Rank 2 sums and broadcasts in the other order."""

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
x, y = torch.ones(3), torch.ones(5)
dist.all_reduce(x)
print("ready", flush=True)
if dist.get_rank() == 2:
    dist.broadcast(y, src=0)
    dist.all_reduce(x)
else:
    dist.all_reduce(x)
    dist.broadcast(y, src=0)
