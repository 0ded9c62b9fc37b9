"""Rank 2 reads a named pipe that nobody writes to."""

import os

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
path = os.path.join(os.environ["NB_ELASTIC_RUN_DIR"], "data.fifo")
print("ready", flush=True)
if dist.get_rank() == 2:
    os.mkfifo(path)
    with open(path) as f:
        f.read()
dist.barrier()
