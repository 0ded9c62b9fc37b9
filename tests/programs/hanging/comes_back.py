"""Hangs for a while and goes on: rank 2 waits until a file is there."""

import os
import time

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
print("ready", flush=True)
if dist.get_rank() == 2:
    while not os.path.exists(os.path.join(os.environ["NB_ELASTIC_RUN_DIR"], "go")):
        time.sleep(0.2)
dist.all_reduce(torch.ones(3))
print("went on", flush=True)
time.sleep(600)
